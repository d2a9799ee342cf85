"""The policy contract: memory goes in, memory comes out, nothing is hidden.

A policy is an ``nn.Module`` without any per-episode attribute. Everything that outlives a
tick is in the ``State`` it returns, so batching, resetting one row, resuming, serving many
clients and exporting are the same thing. Shape letters: B rows, T observation ticks,
K actions in a chunk, A action size.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embodied.core.prompt import Prompt
from embodied.core.specs import PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Working


@dataclasses.dataclass
class LossOutput:
    """What imitation learning gets from a policy.

    Attributes:
      loss: Scalar to minimise.
      metrics: Scalars for the log, detached.
      state: Memory after the segment.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    state: State


@dataclasses.dataclass
class Evaluation:
    """What a reinforcement learner gets from a policy over a segment.

    Attributes:
      log_prob: [B, T] log-probability of the taken actions.
      entropy: [B, T] entropy of the action distribution.
      value: [B, T] state values.
      aux_losses: Named scalar losses the policy asks for.
      state: Memory after the segment.
    """

    log_prob: Tensor
    entropy: Tensor
    value: Tensor
    aux_losses: dict[str, Tensor]
    state: State


class Policy(nn.Module, abc.ABC):
    """Base class of every policy; see the module docstring.

    Attributes:
      spec: What the policy reads, remembers and answers.
      version: Rises when the same weights would act in another way; checkpoints of another
        version are refused, but for those that `former` brings here.
      former: Older version -> what its policies did, where an option says so now: values of
        the configuration that are put into it on loading.
      act_steps: How many steps alike acting consists of; see `act_step`.
      needs_init: Learning goes on from another policy's weights: training refuses to begin
        without ``init=``, which must hold all that does not learn.
      frozen_copies: How often each episode goes through frozen parts, each time with other random
        draws, where the outputs are kept.
    """

    spec: PolicySpec
    version: ClassVar[int] = 1
    former: ClassVar[Mapping[int, Mapping[str, Any]]] = {}
    act_steps: int = 1
    needs_init: bool = False
    frozen_copies: int = 1

    @classmethod
    def stored_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a stored configuration with what it left out as it was meant then.

        For defaults that changed since it was written; as it is, by default.

        Args:
          config: Plain data, as ``policy.json`` has it.
        """
        return dict(config)

    @abc.abstractmethod
    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        """Returns empty memory for `batch` rows; `capacity` overrides the default slots."""

    @abc.abstractmethod
    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        """Runs one memory tick: clears rows in `reset`, encodes, reads, fuses and writes.

        Args:
          obs: Observation key -> [B, ...], as in ``spec.observations``.
          time_s: [B] seconds since each row's episode began.
          state: Memory before the tick.
          reset: [B] bool; rows that start a new episode at this tick.

        Returns:
          What `act` needs now, and memory after the tick.
        """

    def observe_into(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        """As `observe`, for a caller that gives `state` up: it may be written in place.

        Without gradients only. What it saves are copies of a large memory at every tick.
        """
        return self.observe(obs, time_s, state, reset)

    @abc.abstractmethod
    def act(self, working: Working, noise: Tensor) -> Action:
        """Decodes an action chunk; `noise` [B, *spec.noise_shape] is the only randomness."""

    def prepare(self, working: Working) -> Working:
        """Does the part of acting that is the same for all of its steps; nothing by default."""
        return working

    def act_step(
        self, working: Working, carried: Tensor, step: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Does one of the `act_steps` alike that acting consists of; by default all at once.

        Export writes this one step, since a graph of all of them takes minutes to build.

        Args:
          working: From `prepare`.
          carried: [B, *spec.noise_shape]; the noise at step 0, then what the last step gave.
          step: 0 to `act_steps` - 1; an int64 scalar in a program.

        Returns:
          What to carry on, and the chunk [B, K, A] if this was the last step.
        """
        return carried, self.act(working, carried).chunk

    def step(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor, noise: Tensor
    ) -> tuple[Action, State]:
        """Observes and acts: the function that export writes."""
        working, state = self.observe(obs, time_s, state, reset)
        return self.act(working, noise), state

    def inspect(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> dict[str, Tensor]:
        """Explains what `observe` does with the same arguments; empty by default.

        Returns:
          Name -> [B, ...]. What a memory's own `inspect` says of stream S is ``S.attention``,
          ``S.items`` and so on; ``S.gate`` [B, N] is the present's weight in what goes on to
          act; ``goal.weight`` [B, N], over the tokens of all streams that see, is how much
          each of them is meant.
        """
        return {}

    def check(self, obs: Observation, source: str) -> None:
        """Raises for observations of which nothing sound can be made; accepts all by default.

        It looks at values, so it is for the first observations of a dataset or a run, not for
        every tick.

        Args:
          obs: Observation key -> [B, ...], as in ``spec.observations``.
          source: Where they come from, for the message.

        Raises:
          SpecMismatch: Naming the key, what was expected and what to do.
        """

    def statistics_keys(self) -> list[str]:
        """Returns the observations whose statistics `set_statistics` reads: all by default."""
        return list(self.spec.observations)

    def prompt(self) -> Prompt | None:
        """Returns how the instruction becomes tokens; None for a policy that reads its bytes.

        A policy with a tokenizer takes either in `observe`: the instruction, or its tokens under
        the keys of ``prompt().rule.inputs``, since a graph can't tokenise.
        """
        return None

    def parameter_count(self) -> int:
        """Returns the number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes of memory in use, over all rows: all, or what `memory` says."""
        memory = getattr(self, "memory", None)
        return int(memory.nbytes_filled(state)) if memory is not None else state_nbytes(state)

    def check_init(self, config: Mapping[str, Any]) -> None:
        """Looks at the configuration of a policy whose weights this one is about to start from.

        Raises:
          ConfigError: If weights that fit by name and shape would not mean here what they did.
        """

    def frozen_key(self) -> dict[str, Any]:
        """Returns what the outputs of frozen parts depend on beside observations.

        Plain data that names weights by their hash; empty for a policy without frozen parts,
        as by default. Where it is not, `frozen_inputs` and `encode_frozen` are implemented.
        """
        return {}

    def frozen_inputs(self) -> list[str]:
        """Returns the observation keys that frozen parts alone read.

        Batches lack them where the outputs are kept.
        """
        return []

    def encode_frozen(self, segment: Segment, generator: torch.Generator) -> dict[str, Tensor]:
        """Runs the frozen parts on whole episodes, without padding.

        Args:
          segment: [B, T, ...], with all that ``spec.observations`` names.
          generator: Draws what `loss` would draw before the frozen parts; on the CPU.

        Returns:
          Name -> [B, T, ...] in the type to be kept, for example float16. `loss` takes them from
          ``segment.obs`` under these names instead of running the frozen parts.
        """
        return {}

    def loss(
        self, segment: Segment, state: State, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Imitation loss over a segment; `generator` draws training noise."""
        raise TypeError(f"{type(self).__name__} does not learn by imitation")

    def evaluate(self, segment: Segment, state: State) -> Evaluation:
        """Log-probabilities and values of recorded actions over a segment."""
        raise TypeError(f"{type(self).__name__} does not learn by reinforcement")


def state_nbytes(state: State) -> int:
    """Returns the allocated bytes of a memory state."""
    return sum(int(t.numel()) * t.element_size() for t in state.values())


def take_rows(state: State, rows: Any) -> State:
    """Returns the given rows of a state (an index tensor, a slice or a list of ints)."""
    return {name: tensor[rows] for name, tensor in state.items()}
