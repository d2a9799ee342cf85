"""One run of a table: trained and evaluated by the package's own commands, each in a process.

What is done already is not done again, and an interrupted training carries on where it was.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from embodied.config import load_yaml
from embodied.core.errors import EmbodiedError
from embodied.evaluate.results import RESULTS
from embodied.train.checkpoint import checkpoints

LAST_LINES = 3


@dataclasses.dataclass(frozen=True)
class Cell:
    """A training run, and evaluations of it.

    Attributes:
      name: For messages and the log's name.
      run: Run directory.
      log: File that all output goes to.
      training: Words of ``embodied train`` but for ``out=``.
      evaluations: Directory -> words of ``embodied evaluate`` but for the run and ``out=``, in the
        order in which they are done.
    """

    name: str
    run: Path
    log: Path
    training: tuple[str, ...]
    evaluations: Mapping[Path, tuple[str, ...]]

    @property
    def trained(self) -> bool:
        """Whether the last step is done."""
        found = checkpoints(self.run)
        return bool(found) and int(found[-1].name) >= load_yaml(self.run / "config.yaml")["steps"]

    def work(self) -> None:
        """Trains and evaluates what it isn't done for yet.

        An evaluation that fails stops none of the others.

        Raises:
          EmbodiedError: If a command fails, with the end of its output and the log's name; of
            several evaluations, once all were tried.
        """
        if not self.trained:
            begun = (self.run / "config.yaml").exists()
            self.call("train", *(("--resume",) if begun else self.training), f"out={self.run}")
        failed = []
        for directory, words in self.evaluations.items():
            if not (directory / RESULTS).exists():
                try:
                    self.call("evaluate", str(self.run), *words, f"out={directory}")
                except EmbodiedError as error:
                    failed.append(str(error))
        if failed:
            raise EmbodiedError("; ".join(failed))

    def call(self, *words: str) -> None:
        """Runs ``embodied WORDS``."""
        command(self.log, *words)


def command(log: Path, *words: str) -> None:
    """Runs ``embodied WORDS`` in a process of its own, its output added to `log`.

    Raises:
      EmbodiedError: If it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-m", "embodied", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            close_fds=False,  # a lock that may be inherited is
        )
    if done.returncode:
        text = log.read_text(errors="replace").replace("\r", "\n")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        raise EmbodiedError(
            f"embodied {' '.join(words)} ended with {done.returncode}: "
            f"{' | '.join(lines[-LAST_LINES:])} (all of it in {log})"
        )


def side_by_side(
    work: Sequence[Callable[[], None]], names: Sequence[str], jobs: int
) -> dict[str, str]:
    """Does all of it, some at a time, each on one thread; a failure stops none of the others.

    Args:
      work: What to do.
      names: A name for each.
      jobs: How many at a time.

    Returns:
      Name -> message of what failed.
    """

    def attempt(pair: tuple[str, Callable[[], None]]) -> tuple[str, str]:
        name, one = pair
        try:
            one()
        except EmbodiedError as error:
            tqdm.write(f"{name}: {error}", file=sys.stderr)
            return name, str(error)
        return name, ""

    with ThreadPoolExecutor(jobs) as pool:
        pairs = pool.map(attempt, zip(names, work, strict=True))
        done = list(tqdm(pairs, total=len(work), unit="run", disable=not work))
    return {name: message for name, message in done if message}
