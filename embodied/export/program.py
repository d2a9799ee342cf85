"""A policy as two programs of named arrays: observing a tick, and one step of acting.

They are what `Policy.step` does, cut where a held arm stops: it observes, and is asked for nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from embodied.core.errors import ConfigError
from embodied.core.policy import Policy
from embodied.core.specs import ArraySpec
from embodied.core.types import State, Working
from embodied.serve.bundle import (
    CARRIED,
    CARRY,
    CHUNK,
    NEXT,
    OBS,
    RESET,
    STATE,
    STEP,
    TIME,
    WORK,
    Graph,
)

Tensors = dict[str, Tensor]
WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Observe(nn.Module):
    """One memory tick and what acting does once: (obs, time, state, reset) to (work, state)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, obs: Tensors, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Tensors, State]:
        working, after = self.policy.observe(obs, time_s, state, reset)
        # In the order of what went in, which is the order of names.
        return self.policy.prepare(working).features, {name: after[name] for name in state}


class Act(nn.Module):
    """One step of acting: (work, what is carried, step) to (what to carry, chunk)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, work: Tensors, carried: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy.act_step(Working(work), carried, step)


@dataclasses.dataclass
class Program:
    """One of the two, traced.

    Attributes:
      exported: The program.
      inputs: Name -> an example, in the order of the program's flattened arguments.
      outputs: Name -> what comes out for them, in the order of what it returns.
    """

    exported: torch.export.ExportedProgram
    inputs: Tensors
    outputs: Tensors

    def graph(self, files: Mapping[str, str]) -> Graph:
        """Returns the entry of a manifest, with the files that hold the program."""
        sides = ({n: _spec(t) for n, t in side.items()} for side in (self.inputs, self.outputs))
        return Graph(dict(files), *sides)


def trace(policy: Policy, batch: int) -> dict[str, Program]:
    """Traces a policy's two programs.

    Args:
      policy: In evaluation mode, on the CPU.
      batch: Rows of every array; part of the programs.

    Returns:
      ``"observe"`` and ``"act"``.

    Raises:
      ConfigError: If what observing hands to acting are no tensors.
    """
    obs, time_s, state, reset = example(policy, batch)
    with torch.no_grad(), quiet():
        work, after = Observe(policy)(obs, time_s, state, reset)
        check_work(policy, work)
        observe = Program(
            _export(Observe(policy), (obs, time_s, state, reset)),
            {**_named(OBS, obs), TIME: time_s, **_named(STATE, state), RESET: reset},
            {**_named(WORK, work), **_named(NEXT, after)},
        )
        noise, step = torch.zeros(batch, *policy.spec.noise_shape), torch.tensor(0)
        carry, chunk = Act(policy)(work, noise, step)
        act = Program(
            _export(Act(policy), (work, noise, step)),
            {**_named(WORK, work), CARRIED: noise, STEP: step},
            {CARRY: carry, CHUNK: chunk},
        )
    return {"observe": observe, "act": act}


def in_float32(policy: Policy) -> Policy:
    """Casts a policy's bfloat16 weights in place, which loses nothing, and returns it.

    ONNX Runtime computes in float32 on CPUs.
    """
    for tensor in (*policy.parameters(), *policy.buffers()):
        if tensor.dtype == torch.bfloat16:
            tensor.data = tensor.data.float()
    return policy


def example(policy: Policy, batch: int) -> tuple[Tensors, Tensor, State, Tensor]:
    """Returns arguments of `Observe` for empty memory, the first half of the rows beginning."""
    observations, prompt = policy.spec.observations, policy.prompt()
    if prompt is not None:
        observations = prompt.rule.inputs(observations)
    obs = {key: torch.from_numpy(spec.zeros(batch)) for key, spec in observations.items()}
    reset = torch.arange(batch) < (batch + 1) // 2
    return obs, torch.zeros(batch), policy.initial_state(batch), reset


def check_work(policy: Policy, work: Mapping[str, object]) -> None:
    """Refuses a policy whose `observe` hands something else than tensors to `act`.

    Raises:
      ConfigError: Naming the parts.
    """
    others = sorted(name for name, part in work.items() if not isinstance(part, Tensor))
    if others:
        raise ConfigError(
            f"{type(policy).__name__} hands {', '.join(others)} from observing to acting, which "
            "are no tensors; give them to `act` as tensors by name to export the policy"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what exporting says about packages that are none of ours."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _export(module: nn.Module, arguments: tuple) -> torch.export.ExportedProgram:
    """Traces a module, and leaves out the weights that its program does not need.

    Else both programs of a policy would hold all of its weights.
    """
    exported = torch.export.export(module, arguments, strict=False)
    nodes = {node.name: node for node in exported.graph.nodes}
    specs = exported.graph_signature.input_specs
    for spec in [s for s in specs if s.kind in WEIGHTS and not nodes[s.arg.name].users]:
        exported.graph.erase_node(nodes[spec.arg.name])
        specs.remove(spec)
        for held in (exported.state_dict, exported.constants):
            held.pop(spec.target, None)
    exported.graph_module.recompile()
    return exported


def _named(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _spec(tensor: Tensor) -> ArraySpec:
    return ArraySpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
