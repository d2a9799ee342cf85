"""Writes a program as an ONNX graph with names that say what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from embodied.export.program import Program, quiet

OPSET = 20


def write(program: Program, file: Path, notes: Mapping[str, str]) -> None:
    """Writes a program as a graph.

    What the program does not need (the step of a policy that acts at once) is no input of it.

    Args:
      program: From `embodied.export.program.trace`.
      file: Where it goes.
      notes: Kept in the graph as its metadata, for readers that have no JSON.
    """
    with torch.no_grad(), quiet():
        graph = torch.onnx.export(
            program.exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(program.inputs),
            output_names=list(program.outputs),
            verbose=False,
        )
        graph.model.metadata_props.update(notes)
        graph.save(str(file))


def quantize(file: Path) -> None:
    """Stores the weights of matrix products as 8-bit integers; the graph is replaced.

    Activations are quantised as they come, so it needs no data. Convolutions stay as they are:
    ONNX Runtime's integer ones are slower on CPUs.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = file.with_suffix(".plain.onnx")
    with quiet():
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
