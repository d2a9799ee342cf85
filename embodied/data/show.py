"""Looking at a dataset: counts and balance as text, a contact sheet, a video."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from embodied import registry
from embodied.core import ticks as clock
from embodied.core.errors import ConfigError, DataError
from embodied.core.task import PHASES
from embodied.data import keyframes
from embodied.data.reader import EpisodeRef, EpisodeStore
from embodied.data.schema import Episode
from embodied.evaluate.video import Recording, contact_sheet, write_video

_TILE = 192
_FRAME_TICKS = 2  # control ticks a video frame
_KEYFRAME_EPISODES = 200  # whose keyframes are counted


@dataclasses.dataclass
class Summary:
    """Counts of a dataset.

    Attributes:
      path: Dataset directory.
      settings: What fixes an episode given its seed.
      episodes: Stored episodes.
      asked: Seeds asked for.
      complete: Whether collecting has finished.
      failed: Seed -> why it was left out.
      cue_counts: Cue -> episodes.
      seeds: Smallest and largest seed.
      length_s: Shortest, median and longest episode in seconds.
      ticks: Fewest, median and most observation ticks.
      bytes: Size of the shards.
      observations: Key -> dtype and shape as text.
      content_sha256: Hash of all contents.
      keyframes: Fewest, median and most keyframes of an episode that the script marked, and that
        the heuristic finds in the motion; of the first episodes, where observed on decisions.
      published_keyframes: What the heuristic counts in the task that this one re-creates, or None.
    """

    path: Path
    settings: dict[str, Any]
    episodes: int
    asked: int
    complete: bool
    failed: dict[int, str]
    cue_counts: dict[int, int]
    seeds: tuple[int, int]
    length_s: tuple[float, float, float]
    ticks: tuple[int, int, int]
    bytes: int
    observations: dict[str, str]
    content_sha256: str
    keyframes: dict[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    published_keyframes: int | None = None

    def text(self) -> str:
        """Returns the summary for a terminal."""
        s, env = self.settings, self.settings["env"]
        state = "complete" if self.complete else f"UNFINISHED (of {self.asked} seeds asked for)"
        counts, most = self.cue_counts, max(self.cue_counts.values(), default=0)
        bars = [f"    cue {c:>2}  {n:>6}  {'#' * round(30 * n / (most or 1))}"
                for c, n in sorted(counts.items())]  # fmt: skip
        pictures = f"cameras {', '.join(env['cameras'])}, {env['image_size']} px"
        if env["observation"] == "state":
            pictures = "no pictures"
        lines = [
            f"{self.path}: {s['task']} {s['level']}, {state}",
            f"  episodes      {self.episodes}, seeds {self.seeds[0]}..{self.seeds[1]}, "
            f"{len(self.failed)} left out, {self.bytes / 1e6:,.1f} MB",
            f"  knobs         {', '.join(f'{k}={v}' for k, v in s['knobs'].items())}",
            f"  environment   {env['observation']}, {pictures}, control {env['control']}, "
            f"visuals {env['visuals']}, noise {s['noise']:g}"
            + (f" but in {s['clean']:.0%} of episodes" if s.get("clean") else ""),
            f"  observations  {self._when()}, chunks of {s['label_horizon']} actions at "
            f"{s['control_hz']:g} Hz",
            "  lengths       {:.1f} / {:.1f} / {:.1f} s (shortest / median / longest), "
            "{} / {} / {} observation ticks".format(*self.length_s, *self.ticks),
            *(
                f"  keyframes     {few} / {median} / {most} an episode by {by}"
                for by, (few, median, most) in self.keyframes.items()
            ),
            *self._published(),
            f"  content       {self.content_sha256[:16]}",
            "  arrays        " + ", ".join(f"{k} {v}" for k, v in self.observations.items()),
            "  balance over cues:",
            *bars,
        ]
        lines += [f"  seed {seed} left out: {why}" for seed, why in sorted(self.failed.items())]
        return "\n".join(lines)

    def _published(self) -> list[str]:
        if not self.keyframes or self.published_keyframes is None:
            return []
        return [f"  keyframes     {self.published_keyframes} published, of the original task"]

    def _when(self) -> str:
        s = self.settings
        if s["observe_on"] == clock.PERIOD:
            return f"every {s['observe_period_s']:g} s ({s['observe_on']})"
        return f"at decisions (pauses of at most {s.get('pause_ticks', 0)} ticks)"


def summarize(path: str | Path) -> Summary:
    """Returns the counts of a dataset, finished or not.

    Raises:
      DataError: If it is no dataset or holds damaged files.
    """
    with _open(path) as store:
        manifest = store.manifest
        lengths = np.array([ref.length for ref in store.episodes])
        ticks = np.array([ref.ticks for ref in store.episodes])
        seconds = lengths / manifest.settings["control_hz"]
        counts = dict.fromkeys(range(manifest.num_cues), 0)
        for ref in store.episodes:
            counts[ref.cue] += 1
        return Summary(
            path=store.path,
            settings=manifest.settings,
            episodes=len(store),
            asked=manifest.episodes,
            complete=manifest.complete,
            failed=manifest.failed,
            cue_counts=counts,
            seeds=(store.episodes[0].seed, store.episodes[-1].seed),
            length_s=(float(seconds.min()), float(np.median(seconds)), float(seconds.max())),
            ticks=(int(ticks.min()), int(np.median(ticks)), int(ticks.max())),
            bytes=sum(shard.bytes for shard in manifest.shards.values()),
            observations={k: f"{v.dtype}{list(v.shape)}" for k, v in manifest.observations.items()},
            content_sha256=manifest.content_sha256,
            keyframes=_keyframes(store),
            published_keyframes=_published_keyframes(manifest.settings["task"]),
        )


def _keyframes(store: EpisodeStore) -> dict[str, tuple[int, int, int]]:
    settings = store.manifest.settings
    if settings["observe_on"] != clock.DECISION:
        return {}
    names = [f"control/{name}" for name in keyframes.CONTROL]
    counts: dict[str, list[int]] = {"the script": [], "the motion": []}
    for index in range(min(len(store), _KEYFRAME_EPISODES)):
        raw = store.read_arrays(index, names)
        control = {name.removeprefix("control/"): array for name, array in raw.items()}
        found = keyframes.heuristic_keyframes(control, settings["control_hz"])
        counts["the script"].append(len(keyframes.script_keyframes(control)))
        counts["the motion"].append(len(found))
    return {by: (min(row), int(np.median(row)), max(row)) for by, row in counts.items()}


def _published_keyframes(task: str) -> int | None:
    try:
        return registry.task_info(task).published_keyframes
    except ConfigError:  # of a package that is not installed here
        return None


def show(
    path: str | Path, out: str | Path | None = None, *, episodes: int = 6, video_episodes: int = 4
) -> tuple[Summary, list[Path]]:
    """Summarises a dataset and, where it has pictures, writes a contact sheet and a video.

    Args:
      path: Dataset directory.
      out: Directory for ``contact_sheet.png`` and ``episodes.mp4``; ``<path>/show`` when None.
      episodes: Rows of the contact sheet, spread over the cues.
      video_episodes: Episodes side by side in the video.

    Returns:
      The summary and the files written (none for state observations).
    """
    summary = summarize(path)
    if not any(key.endswith("_image_u8") for key in summary.observations):
        return summary, []
    out = Path(out) if out else Path(path) / "show"
    sheet = write_contact_sheet(path, out / "contact_sheet.png", episodes)
    return summary, [sheet, write_episode_video(path, out / "episodes.mp4", video_episodes)]


def write_contact_sheet(path: str | Path, out: Path, episodes: int = 6) -> Path:
    """Writes a PNG with a row of telling moments for each of some episodes."""
    from PIL import Image

    sheet = contact_sheet(_recordings(path, episodes))
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(out)
    return out


def write_episode_video(path: str | Path, out: Path, episodes: int = 4) -> Path:
    """Writes an mp4 of what a policy would see of some episodes, in real time, side by side."""
    return write_video(out, _recordings(path, episodes, hold=True))


def _recordings(path: str | Path, count: int, hold: bool = False) -> list[Recording]:
    if count < 1:
        raise ConfigError(f"the number of episodes to show must be at least 1, got {count}")
    with _open(path) as store:
        picks = _spread(store.episodes, count)
        return [_recording(store.read(i), hold) for i in picks]


def _spread(refs: list[EpisodeRef], count: int) -> list[int]:
    """Returns indices of episodes that cover the cues evenly, lowest seeds first."""
    turn: dict[int, int] = {}
    order = []
    for i, ref in enumerate(refs):
        turn[ref.cue] = turn.get(ref.cue, 0) + 1
        order.append((turn[ref.cue], ref.cue, i))
    return [i for _, _, i in sorted(order)[:count]]


def _recording(episode: Episode, hold: bool) -> Recording:
    meta = episode.meta
    cameras = [k for k in episode.observation_keys if k.endswith("_image_u8")]
    if not cameras:
        raise DataError(
            f"the dataset of {meta.task} has no pictures (observation={meta.env['observation']}); "
            "derive one that has with `embodied data render ... observation=rgb`"
        )
    recording = Recording(title=meta.instruction, stride=_FRAME_TICKS)
    ticks = episode.obs["tick"]
    borders = [*ticks.tolist(), meta.length]
    for row, tick in enumerate(ticks.tolist()):
        pictures = [_enlarge(episode.obs[key][row]) for key in cameras]
        last = row == len(ticks) - 1
        info = {
            "phase": PHASES[episode.control["phase"][tick]],
            "cue": meta.cue,
            "time_s": episode.control["time_s"][tick],
            "commit": "",
            "success": last and meta.success,
            "failure_kind": "",
        }
        recording.ticks = tick
        repeats = max(1, round((borders[row + 1] - tick) / _FRAME_TICKS)) if hold else 1
        for _ in range(repeats):
            recording.add(
                np.concatenate(pictures, axis=1), info, f"seed {meta.seed}, cue {meta.cue}"
            )
    return recording


def _enlarge(image: np.ndarray) -> np.ndarray:
    factor = max(1, round(_TILE / image.shape[0]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _open(path: str | Path) -> EpisodeStore:
    store = EpisodeStore(path, verify=False, allow_unfinished=True)
    if not len(store):
        raise DataError(f"{path} holds no finished episode yet; run `embodied collect` again")
    return store
