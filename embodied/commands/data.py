"""``embodied data``: look at a dataset, check it, or render it again in another way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from embodied.commands.base import Command, command_line, finish, training_keys
from embodied.core.errors import ConfigError, unknown_name

_VIEW = ("observation", "cameras", "image_size", "visuals")
_TICKS = ("observe_on", "observe_period_s", "label_horizon")
_KEYS = {
    "show": ("out", "episodes"),
    "check": ("sample",),
    "render": ("out", "workers", *_VIEW, *_TICKS),
}
"""Action -> the keys it reads; others are refused rather than ignored."""


@dataclasses.dataclass
class Options:
    """Keys of ``embodied data``.

    Attributes:
      action: ``show`` (counts, contact sheet, video), ``check`` (every file, a sample
        re-simulated bit for bit, and whether what is observed at go tells the cue) or
        ``render`` (other cameras, sizes, depth or ticks).
      dataset: Dataset directory.
      out: show: where pictures go, empty for ``<dataset>/show``. render: the new dataset.
      episodes: show: rows of the contact sheet.
      sample: check: episodes to re-simulate, 0 for none.
      workers: render: processes; null for one a core, 0 to work in this process.
      observation: render: ``"state"``, ``"rgb"`` or ``"rgbd"``; null keeps the source's.
      cameras: render: camera names; null keeps the source's.
      image_size: render: side of the pictures in pixels; null keeps the source's.
      visuals: render: ``"lite"`` or ``"full"``; null keeps the source's.
      observe_on: render: ``"period"`` or ``"decision"``; null keeps the source's.
      observe_period_s: render: seconds between observation ticks; null keeps the source's.
      label_horizon: render: actions in a label chunk; null keeps the source's.
    """

    action: str
    dataset: str
    out: str = ""
    episodes: int = 6
    sample: int = 5
    workers: int | None = None
    observation: str | None = None
    cameras: list[str] | None = None
    image_size: int | None = None
    visuals: str | None = None
    observe_on: str | None = None
    observe_period_s: float | None = None
    label_horizon: int | None = None

    def __post_init__(self) -> None:
        if self.action not in _KEYS:
            raise unknown_name("action of embodied data", self.action, _KEYS)
        for field in dataclasses.fields(self):
            if field.name in ("action", "dataset", *_KEYS[self.action]):
                continue
            if getattr(self, field.name) != field.default:
                readers = ", ".join(action for action, keys in _KEYS.items() if field.name in keys)
                raise ConfigError(
                    f"embodied data {self.action} does not read {field.name}; {readers} does"
                )


def run(options: Options) -> int | None:
    """Runs one of the three actions."""
    return {"show": _show, "check": _check, "render": _render}[options.action](options)


def _show(options: Options) -> None:
    from embodied.data.show import show

    summary, files = show(options.dataset, options.out or None, episodes=options.episodes)
    print(summary.text())
    made = files[0].parent if files else None
    finish(made, command_line("embodied", "train", *_training_keys(summary.path, summary.settings)))


def _check(options: Options) -> int:
    from embodied.data.check import check

    report = check(options.dataset, sample=options.sample)
    print(report.text())
    finish(None, command_line("embodied", "data", "show", Path(options.dataset)))
    return 0 if report.ok else 1


def _render(options: Options) -> None:
    from embodied.data.render import render

    if not options.out:
        raise ConfigError("embodied data render makes a new dataset; name it with out=DIRECTORY")
    view = {key: getattr(options, key) for key in _VIEW if getattr(options, key) is not None}
    result = render(
        options.dataset,
        options.out,
        view,
        **{key: getattr(options, key) for key in _TICKS},
        num_workers=options.workers,
    )
    print(f"{result.stored} episodes, {result.new} of them new")
    finish(result.path, command_line("embodied", "data", "show", result.path))


def _training_keys(dataset: Path, settings: dict) -> list[str]:
    """Returns the keys of `embodied train` that read this dataset."""
    task, level = settings["task"], settings["level"]
    observation = settings["env"]["observation"]
    keys = [f"task={task}", f"level={level}"]
    keys += training_keys(observation, settings["observe_on"])
    if dataset != Path(f"data/{task}-{level}-{observation}"):
        keys.append(f"data={dataset}")
    return keys


COMMAND = Command(
    run,
    Options,
    positional=("action", "dataset"),
    examples=(
        "data show data/remember_color-easy-rgb",
        "data check data/remember_color-easy-rgb sample=20",
        "data render data/remember_color-easy-rgb out=data/two-cameras cameras=front,wrist",
    ),
)
