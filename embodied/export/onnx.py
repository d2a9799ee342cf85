"""Writes a policy's two programs as ONNX graphs with names that say what they are."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from embodied.core.policy import Policy
from embodied.core.specs import ArraySpec
from embodied.export.program import Act, Observe, Tensors, check_work, example
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

OPSET = 20


def write_graphs(policy: Policy, batch: int, directory: Path) -> dict[str, Graph]:
    """Writes ``observe-<batch>.onnx`` and ``act-<batch>.onnx``.

    Args:
      policy: In evaluation mode, on the CPU.
      batch: Rows of every array; part of the graphs.
      directory: Where the files go.

    Returns:
      ``"observe"`` and ``"act"``.

    Raises:
      ConfigError: If what observing hands to acting are no tensors.
    """
    obs, time_s, state, reset = example(policy, batch)
    with torch.no_grad():
        work, after = Observe(policy)(obs, time_s, state, reset)
    check_work(policy, work)
    observe = _write(
        Observe(policy),
        (obs, time_s, state, reset),
        {**_named(OBS, obs), TIME: time_s, **_named(STATE, state), RESET: reset},
        {**_named(WORK, work), **_named(NEXT, {name: after[name] for name in state})},
        directory / f"observe-{batch}.onnx",
    )
    noise, step = torch.zeros(batch, *policy.spec.noise_shape), torch.tensor(0)
    with torch.no_grad():
        carry, chunk = Act(policy)(work, noise, step)
    act = _write(
        Act(policy),
        (work, noise, step),
        {**_named(WORK, work), CARRIED: noise, STEP: step},
        {CARRY: carry, CHUNK: chunk},
        directory / f"act-{batch}.onnx",
    )
    return {"observe": observe, "act": act}


def quantize(file: Path) -> None:
    """Stores the weights of matrix products as 8-bit integers; the graph is replaced.

    Activations are quantised as they come, so it needs no data. Convolutions stay as they are:
    ONNX Runtime's integer ones are slower on CPUs.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = file.with_suffix(".plain.onnx")
    with _quiet():
        model = onnx.load(file)
        # The exporter's notes on intermediate shapes, which the quantiser would contradict.
        del model.graph.value_info[:]
        onnx.save(model, plain)
        quantize_dynamic(
            plain,
            file,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    plain.unlink()


def _named(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _write(
    module: nn.Module, arguments: tuple, inputs: Tensors, outputs: Tensors, file: Path
) -> Graph:
    with torch.no_grad(), _quiet():
        program = torch.export.export(module, arguments, strict=False)
        graph = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
        graph.save(str(file))
    # What a program does not need (the step of a policy that acts at once) is no input of it.
    kept = {value.name for value in graph.model.graph.inputs}
    specs = ({n: _spec(t) for n, t in side.items()} for side in (inputs, outputs))
    ins, outs = specs
    return Graph(file.name, {name: spec for name, spec in ins.items() if name in kept}, outs)


def _spec(tensor: Tensor) -> ArraySpec:
    return ArraySpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporter says about packages that are none of ours."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
