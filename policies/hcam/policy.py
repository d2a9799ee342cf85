"""HCAM agents: encoder, a memory of vectors, heads for actions and value.

Source: HCAM, Towards mental time travel (arXiv 2105.14039), whose released code holds the memory's
attention alone. The agent around it is the usual one of its field: what the memory answers and
what is seen now go to a policy and a value head. Any memory of vectors may stand in its place, so
recurrent and Transformer-XL agents are the same policy with another memory.

Shape letters: B rows, T observation ticks, D width, A action size, R rows of the flattened batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.policy import Evaluation, Policy
from embodied.core.rng import GAUSSIAN, GUMBEL
from embodied.core.specs import DISCRETE, ActionSpec, ArraySpec, Interface, PolicySpec
from embodied.core.text import INSTRUCTION
from embodied.core.types import Action, Observation, Segment, State, Working
from embodied.memory import build_vector_memory
from embodied.nn.rows import chosen_rows, looks_at_data, masked_mean, on_grid
from policies.hcam.config import HCAMConfig
from policies.hcam.model import Decoder, Encoder, Heads, check_read_when

CALIBRATION = ("_intrinsics", "_cam_to_world")
"""Endings of what a camera says of itself, which agents leave unread."""
LOG_STD_AT_START = -0.5
"""Of continuous actions, whose range is -1 to 1."""


class HCAM(Policy):
    """See the module docstring.

    Args:
      config: Shape of the network.
      interface: Observations on offer, action and clock.
    """

    Config = HCAMConfig
    version = 2
    former = {1: {"shared_values": False}}

    def __init__(self, config: HCAMConfig, interface: Interface) -> None:
        super().__init__()
        self.config, self.interface = config, interface
        # Hundreds of pixels of focal length beside pictures in 0..1 would be all that it sees.
        known = interface.observations.items()
        specs = {key: spec for key, spec in known if not key.endswith(CALIBRATION)}
        size = interface.action_size
        check_read_when(config.read_when, specs)
        self.discrete = interface.action_kind == DISCRETE
        sizes = config.width, config.hidden, config.channels
        self.encoder = Encoder(specs, *sizes, config.shared_values)
        self.memory = build_vector_memory(config.memory, config.width, config.memory_config)
        self.heads = Heads(config.width, config.hidden, size)
        self.log_std: nn.Parameter | None = None
        if not self.discrete:
            self.log_std = nn.Parameter(torch.full((size,), LOG_STD_AT_START))
        self.decoder: Decoder | None = None
        if config.reconstruct:
            self.decoder = Decoder(specs, config.width, config.hidden)
        self.spec = PolicySpec(
            observations=dict(specs),
            action=ActionSpec(
                interface.action_kind,
                size,
                horizon=1,
                low=0.0 if self.discrete else -1.0,
                high=1.0,
            ),
            control_hz=interface.control_hz,
            observe_on=interface.observe_on,
            observe_period_s=interface.observe_period_s,
            noise_shape=(size,),
            noise_law=GUMBEL if self.discrete else GAUSSIAN,
            state={
                name: ArraySpec(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
                for name, tensor in self.initial_state(1).items()
            },
            record={} if self.memory is None else {
                name: ArraySpec(shape, "float32")
                for name, shape in self.memory.record_spec().items()
            },
            instruction="bytes" if INSTRUCTION in specs else "none",
        )  # fmt: skip

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return {} if self.memory is None else self.memory.initial(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        return self._observe(obs, time_s, state, reset, donate=False)

    def observe_into(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        return self._observe(obs, time_s, state, reset, donate=True)

    def _observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor, donate: bool
    ) -> tuple[Working, State]:
        present = self.encoder(obs)
        memory, record = present, {}
        if self.memory is not None:
            memory, pending = self.memory.read(
                present, time_s, state, reset, self._read_mask(obs, reset.dim())
            )
            record = pending["record"]
            state = self.memory.write(pending, present, time_s, state, donate)
        outputs, value = self.heads(present, memory)
        return Working({"outputs": outputs, "value": value}, record), state

    def act(self, working: Working, noise: Tensor) -> Action:
        outputs, value = working.features["outputs"], working.features["value"]
        noise = noise.to(outputs.dtype) * (1.0 if self.training else self.config.temperature)
        if self.discrete:
            chosen = F.one_hot((outputs + noise).argmax(dim=-1), outputs.shape[-1]).to(
                outputs.dtype
            )
        else:
            assert self.log_std is not None
            chosen = outputs + self.log_std.exp() * noise
        log_prob, _ = self._likelihood(outputs, chosen)
        return Action(chosen[:, None], log_prob, value)

    def evaluate(self, segment: Segment, state: State) -> Evaluation:
        """See the base class; where nothing but acting ticks is learnt, only those are computed."""
        used = segment.valid & segment.act_mask
        batch, ticks = used.shape
        wanted = segment.valid if self.decoder is not None else used
        # With what acting recorded, the memory needs the present of the wanted ticks alone.
        spared = bool(segment.record) or self.memory is None
        rows = chosen_rows(wanted.flatten(), few=spared and looks_at_data(used))
        flat = {
            key: value.flatten(0, 1).index_select(0, rows) for key, value in segment.obs.items()
        }
        present = self.encoder(flat)
        memory = present
        if self.memory is not None:
            values, state = self.memory.unroll(
                on_grid(present, rows, batch, ticks),
                segment.time_s,
                state,
                segment.is_first,
                segment.valid,
                self._read_mask(segment.obs, 2),
                wanted=wanted,
                record=segment.record or None,
            )
            memory = values.flatten(0, 1).index_select(0, rows)
        outputs, value = self.heads(present, memory)
        chosen = segment.chunk[:, :, 0].flatten(0, 1).index_select(0, rows)
        log_prob, entropy = self._likelihood(outputs, chosen.to(outputs.dtype))
        losses = {}
        if self.decoder is not None:
            error = self.decoder(memory, flat)
            asked = wanted.flatten().index_select(0, rows)
            losses["reconstruct"] = self.config.reconstruct * masked_mean(error, asked)
        grid = [on_grid(x, rows, batch, ticks) for x in (log_prob, entropy, value)]
        return Evaluation(*grid, losses, state)

    @torch.no_grad()
    def inspect(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> dict[str, Tensor]:
        """Returns what explains the memory's read."""
        if self.memory is None:
            return {}
        empty = self.memory.initial(len(reset), self.memory.capacity_of(state))
        shown = {
            name: torch.where(reset.view(-1, *[1] * (tensor.dim() - 1)), empty[name], tensor)
            for name, tensor in state.items()
        }
        return self.memory.inspect(self.encoder(obs), time_s, shown)

    def _read_mask(self, obs: Observation, leading: int) -> Tensor | None:
        """Returns bool over the `leading` axes: where the observations ask for costly reads."""
        if not self.config.read_when:
            return None
        shown = obs[self.config.read_when] != 0
        return shown.flatten(leading).any(dim=-1) if shown.dim() > leading else shown

    def _likelihood(self, outputs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probability and entropy [...] of actions [..., A]."""
        if self.discrete:
            log_probs = F.log_softmax(outputs.float(), dim=-1)
            return (chosen * log_probs).sum(-1), -(log_probs.exp() * log_probs).sum(-1)
        assert self.log_std is not None
        off = (chosen - outputs) * torch.exp(-self.log_std)
        normalizer = self.log_std + 0.5 * math.log(2 * math.pi)
        entropy = (normalizer + 0.5).sum().expand(outputs.shape[:-1])
        return (-0.5 * off.square() - normalizer).sum(-1), entropy
