"""A toy policy whose write stores its own prediction: it counts on by remembering its answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embodied.core.policy import LossOutput, Policy
from embodied.core.rng import NO_NOISE
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Streams, Working
from embodied.memory import build_memory
from tests.toys.specs import memory_specs

WIDTH = 16


class PredictionWriter(Policy):
    """Sees a sign at the first tick only and must answer with its sign turned every tick.

    The memory holds one item, the last tick's, and later observations are blank. So the
    answer can be known only if the last answer was stored: ``store="prediction"``.

    Args:
      store: ``"prediction"`` or ``"observation"``, which cannot work.
    """

    def __init__(self, store: str = "prediction") -> None:
        super().__init__()
        self.store = store
        self.encode = nn.Linear(1, WIDTH)
        self.answer = nn.Linear(1, WIDTH)
        options = {"capacity": 1, "overflow": "fifo", "layers": 1, "time_encoding": False}
        self.memory = build_memory("perceptual_cognitive", {"token": (1, WIDTH)}, options)
        self.decode = nn.Sequential(
            nn.Linear(2 * WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1), nn.Tanh()
        )
        self.spec = PolicySpec(
            observations={"sign": ArraySpec((1,), "float32", "", -1.0, 1.0)},
            action=ActionSpec(EE_DELTA_CHUNK, size=1, horizon=1),
            control_hz=20.0,
            observe_on="period",
            observe_period_s=0.4,
            noise_shape=(1,),
            noise_law=NO_NOISE,
            state=memory_specs(self.memory),
            instruction="none",
        )

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return self.memory.initial(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        query = {"token": self.encode(obs["sign"])[:, None]}
        value, pending = self.memory.read(query, time_s, state, reset)
        answer = self._answer(query, value)
        state = self.memory.write(pending, self._item(query, value), time_s, state)
        return Working({"answer": answer}), state

    def act(self, working: Working, noise: Tensor) -> Action:
        return Action(working.features["answer"])

    def loss(
        self, segment: Segment, state: State, generator: torch.Generator | None = None
    ) -> LossOutput:
        items = {"token": self.encode(segment.obs["sign"])[:, :, None]}
        value, state = self.memory.unroll(
            items, segment.time_s, state, segment.is_first, segment.valid, None, self._item
        )
        miss = (self._answer(items, value) - segment.chunk).square().flatten(2).mean(-1)
        used = segment.valid & segment.act_mask
        loss = (miss * used).sum() / used.sum().clamp(min=1)
        return LossOutput(loss, {"loss": loss.detach()}, state)

    def _answer(self, query: Streams, value: Streams) -> Tensor:
        """Returns [..., 1, 1] from tokens [..., 1, D]."""
        return self.decode(torch.cat([query["token"], value["token"]], dim=-1))

    def _item(self, query: Streams, value: Streams) -> Streams:
        if self.store == "observation":
            return query
        return {"token": self.answer(self._answer(query, value))}
