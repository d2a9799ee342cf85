"""``embodied certify``: proofs that a task can't be solved without memory, and measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from embodied import registry
from embodied.commands.base import Command, command_line, finish, table
from embodied.core.errors import ConfigError
from embodied.core.task import EnvConfig, check_moves_arm


@dataclasses.dataclass
class Options:
    """Keys of ``embodied certify``.

    Attributes:
      task: Task name.
      level: Level names, or ``all``.
      seeds: Seeds for which every pair of cues is rolled out and compared bit for bit.
      episodes: Episodes of the expert.
      noisy_episodes: Episodes of the noisy expert, whose motion makes training data.
      reactive_episodes: Episodes of the expert with the cue left in sight.
      attack_seeds: Seeds on which an attacker tries to carry the cue through the gate; 0 for none.
      attack_sees: What it sees: ``state``, ``rgb``, ``rgbd``.
      parts: What to compute: ``aliasing``, ``onward``, ``window``, ``attack``, ``expert``,
        ``reactive``, or ``all``.
      controls: Controllers to measure: ``fast``, ``osc``.
      out: Directory for ``<task>.json``; levels, controls and parts already in it are kept.
    """

    task: str
    level: list[str] = dataclasses.field(default_factory=lambda: ["easy"])
    seeds: int = 1
    episodes: int = 20
    noisy_episodes: int = 0
    reactive_episodes: int = 5
    attack_seeds: int = 0
    attack_sees: list[str] = dataclasses.field(default_factory=lambda: ["state"])
    parts: list[str] = dataclasses.field(default_factory=lambda: ["all"])
    controls: list[str] = dataclasses.field(default_factory=lambda: ["fast"])
    out: str = "certificates"

    def __post_init__(self) -> None:
        for control in self.controls:
            EnvConfig(control=control)  # refuses unknown names
            check_moves_arm(control)
        for sees in self.attack_sees:
            EnvConfig(observation=sees)
        if self.attack_seeds == 1 or self.attack_seeds < 0:
            raise ConfigError(
                f"expected attack_seeds of 2 or more, or 0 for no attack, got {self.attack_seeds}"
            )
        if self.seeds < 1 or self.episodes < 1:
            raise ConfigError(
                f"expected seeds >= 1 and episodes >= 1, got {self.seeds} and {self.episodes}"
            )


def run(options: Options) -> int:
    """Certifies, prints a row a level; exit code 1 unless every exact part holds."""
    info = registry.imitation_task(options.task)
    levels = list(info.levels) if options.level == ["all"] else options.level
    for level in levels:
        info.knobs(level)
    from tqdm import tqdm

    certifier = registry.certifier()
    effort = certifier.Effort(
        parts=certifier.PARTS if options.parts == ["all"] else tuple(options.parts),
        pair_seeds=options.seeds,
        attack_seeds=options.attack_seeds,
        attack_sees=tuple(options.attack_sees),
        expert_episodes=options.episodes,
        noisy_episodes=options.noisy_episodes,
        reactive_episodes=options.reactive_episodes,
        controls=tuple(options.controls),
    )
    with tqdm(desc="building", total=1, bar_format="{desc}  {n}/{total}  {elapsed}") as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.set_description_str(what, refresh=False)
            bar.n, bar.total = done, total
            bar.refresh()

        known = certifier.load(options.task, options.out)
        result = certifier.certify_task(info, levels, effort, progress, known)
    path = certifier.save(result, options.out)
    rows = [row for level in levels for row in _rows(level, result["levels"][level])]
    print(table(HEADER, rows))
    holds = all(result["levels"][level]["holds"] for level in levels)
    if not all(result["levels"][level].get("needs_memory", True) for level in levels):
        print(f"{options.task} needs no memory: there is no cue, so nothing to compare at go")
    if not holds:
        print(f"NOT certified: see {path} for what differs")
    finish(path, command_line("embodied", "play", options.task, f"level={levels[0]}"))
    return 0 if holds else 1


COMPARED = ("aliasing", "gate", "onward")
HEADER = ("level", "control", "ceiling", "closed form", "equal at go", "gates hold",
          "equal onward", "attacker", "cue in sight", "to keep", "expert", "holds")  # fmt: skip


def _rows(level: str, proof: dict[str, Any]) -> list[tuple[str, ...]]:
    ceiling = proof["ceiling"]
    return [
        (
            level,
            control,
            ceiling["value"],
            "exact" if ceiling["exact"] else f"{ceiling['closed_form']:.3f} DIFFERS",
            *(_told(proof.get(part, {}), control, _holds) for part in COMPARED),
            _told(proof.get("attack", {}), control, _attacker),
            _told(proof["reactive"], control, _holds),
            _told(proof.get("window", {}), control, lambda part: part["label"]),
            _told(proof["expert"], control, lambda part: f"{part['successes']}/{part['episodes']}"),
            _yes(proof["holds"]),
        )
        for control in proof["mjcf_sha256"]
    ]


def _told(part: dict[str, Any], control: str, tell: Callable[[dict[str, Any]], str]) -> str:
    """Returns what is told of a part, or a dash where it was not computed."""
    return tell(part[control]) if control in part else "-"


def _holds(part: dict[str, Any]) -> str:
    return _yes(part["holds"])


def _attacker(attacks: dict[str, Any]) -> str:
    """Returns how often the attacker's decoder was right, and would be by guessing."""
    worst = max(attacks.values(), key=lambda found: found["largest_difference"])
    told = f"{worst['accuracy']:.0%} of {worst['chance']:.0%}"
    told += "" if worst["candidates"] else ", arm held"
    return told if worst["holds"] else f"{told} LEAKS"


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


COMMAND = Command(
    run,
    Options,
    positional=("task",),
    examples=(
        "certify remember_color",
        "certify put_block_back level=all seeds=3 episodes=200",
        "certify reopen_drawer level=easy,hard controls=fast,osc",
        "certify remember_color parts=attack attack_seeds=40",
    ),
)
