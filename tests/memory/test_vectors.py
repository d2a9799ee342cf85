"""Every memory of vectors under its contract."""

from __future__ import annotations

import pytest
import torch

from embodied.core.errors import SpecMismatch
from embodied.core.types import State
from embodied.memory.gru import GRUVector
from embodied.memory.hierarchical_chunks import HierarchicalChunks, HierarchicalChunksConfig
from embodied.memory.lstm import LSTMVector
from embodied.memory.recurrent import RecurrentVector
from embodied.memory.transformer_xl import TransformerXL, TransformerXLConfig
from embodied.memory.vector import VectorMemory
from tests.contracts.vectors import VectorCase, VectorContract

SMALL = {"width": 8, "heads": 2, "layers": 2, "ffn_ratio": 2}


def chunks(**options: object) -> VectorCase:
    small = {**SMALL, "capacity": 3, "chunk": 3, "window": 4, "top_k": 2}
    shown = "-".join(f"{key}={value}" for key, value in options.items())

    def build() -> VectorMemory:
        memory = HierarchicalChunks(HierarchicalChunksConfig(**{**small, **options}))
        for layer in memory.layers:
            if layer.forget is not None:  # rates that differ, so that others than the oldest go
                layer.forget.weight.data.normal_(std=3.0)
        return memory

    return VectorCase(f"chunks-{shown}" if shown else "chunks", build, skips=True)


def transformer(**options: object) -> VectorCase:
    shown = "-".join(f"{key}={value}" for key, value in options.items())
    config = TransformerXLConfig(**{**SMALL, "capacity": 5, **options})
    return VectorCase(f"xl-{shown}" if shown else "xl", lambda: TransformerXL(config))


CASES = [
    VectorCase("gru", lambda: GRUVector(8)),
    VectorCase("gru-present", lambda: GRUVector(8, reads_present=True)),
    VectorCase("lstm", lambda: LSTMVector(8)),
    VectorCase("lstm-before", lambda: LSTMVector(8, layers=2, reads_present=False)),
    transformer(),
    transformer(gated=True, gate_bias=0.0, detach=True, time_encoding=False),
    chunks(),
    chunks(detach=True, relevance_norm="all", capacity=2, position_code=False),
    chunks(detach=True, detach_window=True, eviction="least_selected", qk_init="independent"),
    chunks(eviction="retention", top_k=1, layers=1, time_encoding=False),
    chunks(chunk=1, window=1, capacity=20, top_k=3),
    chunks(chunk=5, window=9, capacity=2, eviction="least_selected"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestVectors(VectorContract):
    pass


@pytest.mark.parametrize(
    ("memory", "state", "message"),
    [
        (LSTMVector(8), LSTMVector(8, 2).initial(2), "'hidden' should be [rows, 1, 8] of float32, "
         "got [rows, 2, 8] of float32"),
        (LSTMVector(8, 2), LSTMVector(8).initial(2), "'hidden' should be [rows, 2, 8]"),
        (LSTMVector(8), LSTMVector(16).initial(2), "'hidden' should be [rows, 1, 8]"),
        (LSTMVector(8), LSTMVector(8).double().initial(2), "got [rows, 1, 8] of float64"),
        (LSTMVector(8), GRUVector(8).initial(2), "'hidden' should be [rows, 1, 8] of float32, got "
         "[rows, 8] of float32"),
        (LSTMVector(8), LSTMVector(8).initial(3), "there are 2 rows of queries, and [3] of state"),
        (GRUVector(8), GRUVector(16).initial(2), "'hidden' should be [rows, 8]"),
        (GRUVector(8), LSTMVector(8).initial(2), "'hidden' should be [rows, 8] of float32, got "),
        (GRUVector(8), {"hidden": torch.zeros(2, 8)}, "'count' should be [rows] of int64, got abs"),
        (GRUVector(8), {**GRUVector(8).initial(2), "cell": torch.zeros(2, 8)}, "'cell' should be "
         "absent, got [rows, 8]"),
        (GRUVector(8), {**GRUVector(8).initial(2), "count": torch.zeros(2)}, "'count' should be "
         "[rows] of int64, got [rows] of float32"),
    ],
)  # fmt: skip
def test_states_of_another_recurrent_memory_are_refused(
    memory: RecurrentVector, state: State, message: str
) -> None:
    now, no = torch.zeros(2), torch.zeros(2).bool()
    with pytest.raises(SpecMismatch) as caught:
        memory.read(torch.randn(2, 8), now, state, no)
    assert message in str(caught.value)
    items, times, none = torch.randn(2, 3, 8), torch.zeros(2, 3), torch.zeros(2, 3).bool()
    with pytest.raises(SpecMismatch) as caught:
        memory.unroll(items, times, state, none, ~none)
    assert message in str(caught.value)
