"""``report.md`` of a published claim, from its row of the index and the files of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.claims.index import SWAPPED_EPISODES, claim_episodes, find_claim
from embodied.core.errors import DataError
from embodied.core.files import read_json
from embodied.evaluate import stats
from embodied.evaluate.results import EpisodeResult, read_episodes
from embodied.evaluate.summary import ABLE_COMMIT_RATE, swap_summary
from embodied.evaluate.twins import MEMORYLESS
from embodied.report.text import interval, number, percent


def text(row: dict[str, Any], folder: Path, root: Path) -> str:
    """Returns the report of a claim.

    Args:
      row: Its row of the index.
      folder: Where its files are.
      root: Directory of results, where its twin's are.

    Raises:
      DataError: If it shares no seed with its twin, or a file of episodes is damaged.
    """
    episodes = claim_episodes(row, folder)
    lines = [f"# {row['id']}", ""]
    lines.append(
        f"{row['policy']} with memory {row['memory']} on {row['task']} ({row['level']}, "
        f"{row['observation']}, control {row['control']}, visuals {row['visuals']}): "
        f"**{percent(row['success'])}** ({interval(row['low'], row['high'])}, n = {row['n']}), "
        f"ceiling without memory {percent(row['ceiling'])}, expert {percent(row['expert'])}, "
        f"M = {number(row['score'])}, commits in {percent(row['commit_rate'])}."
    )
    lines += [
        "",
        "| training seed | success | 95 % interval | commits | n |",
        "|---|---|---|---|---|",
    ]
    for seed in row["train_seeds"]:
        own = [e for e in episodes if e.train_seed == seed]
        wins = sum(e.success for e in own)
        lines.append(
            f"| {seed} | {percent(wins / len(own))} | {interval(*stats.wilson(wins, len(own)))} | "
            f"{percent(_commit_rate(own))} | {len(own)} |"
        )
    lines.append("")
    if (folder / SWAPPED_EPISODES).exists():
        swaps = read_episodes(folder / SWAPPED_EPISODES)
        lines += [_swapped(swap_summary(swaps), len(swaps)), ""]
    if row["memory"] == MEMORYLESS:
        lines += [_memoryless(episodes, folder), ""]
    if row["twin"] is not None:
        lines += [_twin(row, episodes, root), ""]
    lines.append(f"Command: `{row['command']}`")
    if row["checkpoint"] is None:
        lines.append("It ships no checkpoint; `config.yaml` trains it again.")
    else:
        lines.append(f"Replay: `embodied verify {row['id']}`")
    lines.append("")
    return "\n".join(lines)


def _swapped(swap: dict[str, Any], n: int) -> str:
    """Says how often swapped memories were followed, and how many of `n` there were not."""
    said = (
        f"Swapped memory followed in {swap['followed']} of {swap['swapped']} episodes "
        f"({percent(swap['swap_followed'])}, {interval(swap['swap_low'], swap['swap_high'])})."
    )
    missing = n - swap["swapped"]
    return said + (f" {missing} of {n} did not get as far as the swap." if missing else "")


def _memoryless(episodes: Sequence[EpisodeResult], folder: Path) -> str:
    """Says whether a claim without memory is at the ceiling of each task, and an able control."""
    ceilings = {
        (row["task"], row["level"]): row["ceiling"]
        for file in folder.glob("evaluation-*.json")
        for row in read_json(file)["rows"]
    }
    counts = {
        name: (sum(e.success for e in own), len(own), ceilings[own[0].task, own[0].level])
        for name, own in _tasks(episodes).items()
    }
    if len(counts) == 1:
        verdict = stats.equivalence(*next(iter(counts.values()))).verdict
    else:
        verdict = stats.joint_equivalence(counts).verdict
    unable = _unable(episodes)
    return f"Memoryless: {verdict}." + (f" No able control: {unable}." if unable else "")


def _twin(row: dict[str, Any], episodes: Sequence[EpisodeResult], root: Path) -> str:
    """Compares with the twin's claim, the training seed as the unit that repeats.

    Each training seed of the policy is paired with the twin of equal training seed, or with
    the first twin where there are fewer of them.
    """
    twin = find_claim(row["twin"], root)
    rows = claim_episodes(twin, root / row["twin"])
    pairs = []
    for seed in row["train_seeds"]:
        partner = seed if seed in twin["train_seeds"] else twin["train_seeds"][0]
        theirs = {_key(e): e.success for e in rows if e.train_seed == partner}
        own = [e for e in episodes if e.train_seed == seed and _key(e) in theirs]
        if not own:
            raise DataError(f"claim {row['twin']!r} has no evaluation seed in common")
        pairs.append(([e.success for e in own], [theirs[_key(e)] for e in own]))
    result = stats.clustered_paired(pairs)
    worst = max(w.p_value for w in result.within)
    unable = _unable(rows)
    said = f"Twin `{twin['id']}`: {percent(twin['success'])}"
    said += f", no able control ({unable}). " if unable else ". "
    said += (
        f"Paired on common seeds the difference is {100 * result.difference:+.1f} points; "
        f"exact McNemar p <= {worst:.2g} for each of {result.clusters} training seed(s)."
    )
    if result.low is not None:
        said += (
            f" Over training seeds: {100 * result.low:+.1f} to {100 * result.high:+.1f} points "
            f"(t-test, p = {result.p_value:.2g}; {len(twin['train_seeds'])} twin(s))."
        )
    elif result.clusters > 1:
        said += " All training seeds happen to differ by the same, which no t-test can judge."
    return said


def _key(episode: EpisodeResult) -> tuple[str, str, int]:
    """What a policy's episode and its twin's have in common."""
    return episode.task, episode.level, episode.seed


def _unable(episodes: Sequence[EpisodeResult]) -> str:
    """Names the tasks in which a control commits too rarely; "" where there is none.

    A claim that commits too rarely over all its tasks does so in one of them.
    """
    rates = {name: _commit_rate(own) for name, own in _tasks(episodes).items()}
    few = [f"{name} {percent(rate)}" for name, rate in rates.items() if rate < ABLE_COMMIT_RATE]
    return f"commits below {100 * ABLE_COMMIT_RATE:g} % in {', '.join(few)}" if few else ""


def _tasks(episodes: Sequence[EpisodeResult]) -> dict[str, list[EpisodeResult]]:
    """Returns task -> its episodes; task and level where there are several of a task."""
    places = dict.fromkeys((e.task, e.level) for e in episodes)
    tasks = [task for task, _ in places]
    return {
        task if tasks.count(task) == 1 else f"{task} {level}": [
            e for e in episodes if (e.task, e.level) == (task, level)
        ]
        for task, level in places
    }


def _commit_rate(episodes: Sequence[EpisodeResult]) -> float:
    return sum(e.committed for e in episodes) / len(episodes)
