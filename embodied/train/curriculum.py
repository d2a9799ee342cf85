"""Which stage of a curriculum a step belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from embodied.train.config import TrainConfig


class Curriculum:
    """The stages of a run: each ends after its steps, or early by success on held seeds.

    What it knows is one list of numbers, so that a resumed run goes on in the same stage.

    Args:
      config: The run.
      starts: Steps at which the stages so far began.
    """

    def __init__(self, config: TrainConfig, starts: list[int] | None = None) -> None:
        self.stages = config.stages
        self.settings = list(zip(config.task, config.task_levels(), strict=True))
        self.starts = list(starts or [0])

    def at(self, step: int) -> int:
        """Returns the stage of `step`, from 0; steps are asked for in their order."""
        while self._more() and step >= self.starts[-1] + self.stages[len(self.starts) - 1].steps:
            self.starts.append(self.starts[-1] + self.stages[len(self.starts) - 1].steps)
        return len(self.starts) - 1

    def before(self, step: int) -> int:
        """Returns the stage of the step before `step`, the first one's for step 0."""
        return max(0, sum(start < step for start in self.starts) - 1)

    def validated(self, done: int, values: Mapping[str, float]) -> None:
        """Begins the next stage at step `done` where success is what the present one asks for.

        Args:
          done: Steps done.
          values: ``validation/<task>-<level>`` -> success on validation seeds; what is not there
            (no episode of it has ended yet) does not meet anything.
        """
        if not self._more():
            return
        stage = self.stages[len(self.starts) - 1]
        weights = stage.weights or [1.0] * len(self.settings)
        met = [
            values.get(validation_name(task, level), 0.0) >= stage.until
            for (task, level), weight in zip(self.settings, weights, strict=True)
            if weight > 0
        ]
        if stage.until and all(met):
            self.starts.append(done)

    def _more(self) -> bool:
        return len(self.starts) < len(self.stages)


def validation_name(task: str, level: str) -> str:
    """Returns the name under which success on validation seeds is logged."""
    return f"validation/{task}-{level}"
