"""An engine whose answers show which memory they came from."""

from __future__ import annotations

import numpy as np

from embodied.core.errors import SpecMismatch
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, PolicySpec
from embodied.core.text import INSTRUCTION, INSTRUCTION_BYTES

SPEC = PolicySpec(
    observations={
        "pos_m": ArraySpec((2,), "float32", "m"),
        INSTRUCTION: ArraySpec((INSTRUCTION_BYTES,), "uint8"),
    },
    action=ActionSpec(EE_DELTA_CHUNK, 3, 4),
    control_hz=20.0,
    observe_on="period",
    observe_period_s=0.4,
    noise_shape=(1,),
    state={"sum": ArraySpec((2,), "float32"), "count": ArraySpec((), "int64")},
)


class SumEngine:
    """Remembers the sum of what it saw; the chunk holds it, the count and the time."""

    spec = SPEC

    def __init__(self) -> None:
        self.batches: list[int] = []

    def check(self, obs, source):
        if (obs["pos_m"] == 14).any():
            raise SpecMismatch(f"{source}: pos_m is no place")

    def initial(self, batch):
        return {"sum": np.zeros((batch, 2), np.float32), "count": np.zeros(batch, np.int64)}

    def tick(self, obs, time_s, state, reset):
        self.batches.append(len(reset))
        if (obs["pos_m"] == 13).any():
            raise ZeroDivisionError("a bug")
        total = np.where(reset[:, None], 0, state["sum"]) + obs["pos_m"]
        count = np.where(reset, 0, state["count"]) + 1
        return {"work": np.column_stack([total, time_s])}, {"sum": total, "count": count}

    def answer(self, work, noise):
        return np.repeat(work["work"][:, None], 4, axis=1).astype(np.float32)


def observation(x: float = 1.0, **own):
    text = np.zeros(INSTRUCTION_BYTES, np.uint8)
    return {"pos_m": np.array([x, 0.0], np.float32), INSTRUCTION: text, **own}
