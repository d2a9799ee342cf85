"""Does the data give the cue away? A linear look at what demonstrations observe at go.

At go nothing that is observed may depend on the cue. Certificates compare the same seed with
different cues; a dataset could still give cues away by how seeds and cues go together, or by what
the demonstrator's noise leaves behind. So the cue is learnt from some episodes and asked of others.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from embodied.core.proportion import wilson
from embodied.core.ridge import ridge_answers
from embodied.core.task import EXECUTE, PHASES
from embodied.core.text import INSTRUCTION
from embodied.data.schema import Episode

FEWEST = 60
"""Episodes below which nothing is told."""
SURE_Z = 3.29
"""Of the interval that chance must lie below before the data is called leaky: 1 in 2,000."""
SIDE_PX = 16
"""Pictures are averaged down to this side before one looks."""


@dataclasses.dataclass
class Leak:
    """What a linear look found.

    Attributes:
      asked: Episodes that were asked about, half of all.
      right: Answers that were right.
      chance: Share of the commonest cue among them.
    """

    asked: int
    right: int
    chance: float

    @property
    def found(self) -> bool:
        """Whether the cue can be told better than by chance."""
        return wilson(self.right, self.asked, SURE_Z)[0] > self.chance

    def text(self) -> str:
        """Returns a sentence."""
        low, high = wilson(self.right, self.asked)
        return (
            f"the cue is told from what is observed at go in {self.right} of {self.asked} episodes "
            f"({100 * low:.1f} - {100 * high:.1f} %); the commonest cue makes up "
            f"{100 * self.chance:.1f} %"
        )


class GoObservations:
    """Collects what episodes observe at go.

    Episodes whose cue is in sight then (the reactive twin) or not what has to be remembered must
    not be added.
    """

    def __init__(self) -> None:
        self._seen: list[np.ndarray] = []
        self._cues: list[int] = []

    def add(self, episode: Episode) -> None:
        """Adds an episode; one that never gets to go is left out."""
        ticks = episode.obs["tick"]
        before = np.append(episode.control["phase"], PHASES.index(EXECUTE))[ticks]
        at_go = np.flatnonzero(before == PHASES.index(EXECUTE))
        if not len(at_go) or ticks[at_go[0]] >= episode.meta.length:
            return
        self._seen.append(_numbers(episode, int(at_go[0])))
        self._cues.append(episode.meta.cue)

    def look(self) -> Leak | None:
        """Returns what can be told; None of a single cue or too few episodes."""
        if len(self._cues) < FEWEST or len(set(self._cues)) < 2:
            return None
        # Every other one, since cues are balanced over neighbouring seeds.
        seen, cues = np.stack(self._seen), np.array(self._cues)
        known, asked = seen[0::2], seen[1::2]
        answers = ridge_answers(known, cues[0::2], asked, int(cues.max()) + 1)
        told = cues[1::2]
        right = int((answers == told).sum())
        return Leak(len(told), right, float(np.bincount(told).max() / len(told)))


def _numbers(episode: Episode, index: int) -> np.ndarray:
    """Returns all that observation `index` shows as one float32 vector."""
    parts = []
    for key in episode.observation_keys:
        value = episode.obs[key]
        value = value if key == INSTRUCTION else value[index]  # which stands once in an episode
        value = np.nan_to_num(value.astype(np.float32))
        if key.endswith(("_image_u8", "_depth_m")):
            value = _smaller(value)
        parts.append(value.ravel())
    return np.concatenate(parts)


def _smaller(picture: np.ndarray) -> np.ndarray:
    """Returns a picture [H, W, ...] averaged to `SIDE_PX` or less a side."""
    step = max(1, -(-len(picture) // SIDE_PX))
    side = len(picture) // step
    picture = picture[: side * step, : side * step]
    shape = (side, step, side, step, *picture.shape[2:])
    smaller: np.ndarray = picture.reshape(shape).mean(axis=(1, 3))
    return smaller
