"""Hierarchical chunks as a memory: what inspection shows, files, exports, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.types import State
from embodied.evaluate.inspection import MemoryInspector, attention_to_ticks, write_inspection
from embodied.evaluate.video import Caption, Recording
from embodied.memory import build_memory
from embodied.memory.lstm import LSTMVector
from embodied.memory.transformer_xl import TransformerXL, TransformerXLConfig
from tests.contracts.tools import STREAMS, assert_close
from tests.contracts.vectors import act, assert_near, filled_state, learn, random_vectors
from tests.memory.chunks import after, build, steady

# ---- inspection, files, errors --------------------------------------------------------------


@pytest.mark.parametrize("eviction", ["fifo", "least_selected"])
def test_inspect_says_what_was_read(eviction: str) -> None:
    memory = build(eviction=eviction, capacity=4, window=5)
    ticks = steady(memory, 11)
    report = memory.inspect(ticks.items[:, 10], torch.full((2,), 4.4), after(memory, ticks))
    for i in range(2):
        part = {k.removeprefix(f"layer{i}."): v for k, v in report.items() if k[5] == str(i)}
        assert part["chunk_live"].tolist() == [[True, True, True, False]] * 2
        assert part["chunk_number"].tolist() == [[0, 1, 2, -1]] * 2
        age = torch.tensor([4.4 - 0.8, 4.4 - 2.0, 4.4 - 3.2, 0.0])
        torch.testing.assert_close(part["chunk_age_s"][0], age)
        weight, attention = part["chunk_weight"], part["attention"]
        assert ((weight > 0).sum(1) == 2).all()
        torch.testing.assert_close(weight.sum(1), torch.ones(2))
        assert attention.shape == (2, 1, 1, 4 * 3 + 2)
        by_chunk = attention[:, 0, 0, :12].view(2, 4, 3).sum(-1)
        torch.testing.assert_close(by_chunk, weight)
        assert part["live"].sum(1).tolist() == [11, 11]
        assert part["age_ticks"][0].tolist() == [*range(11, 0, -1), 0, 0, 0]
        assert torch.equal(part["items"], part["live"].float())
        assert part["window"].shape == (2, 5)
        torch.testing.assert_close(part["window"].sum(1), torch.ones(2))
    empty = memory.inspect(ticks.items[:, 0], torch.zeros(2), memory.initial(2))
    assert not any(empty[f"layer{i}.{n}"].any() for i in range(2) for n in ("live", "attention"))


def test_transformer_xl_inspects_its_window() -> None:
    memory = TransformerXL(TransformerXLConfig(width=8, heads=2, layers=2, capacity=4)).eval()
    ticks = steady(memory, 6)
    _, early = learn(memory, ticks.map(lambda x: x[:, :2]), memory.initial(2))
    _, late = learn(memory, ticks, memory.initial(2))
    for state, live, ages in ((early, 2, [2, 1, 0, 0]), (late, 4, [4, 3, 2, 1])):
        report = memory.inspect(ticks.items[:, 5], ticks.time_s[:, 5], state)
        assert report["layer1.live"].sum(1).tolist() == [live] * 2
        assert report["layer1.age_ticks"][0].tolist() == ages
        total = report["layer1.attention"][:, 0, 0].sum(1) + report["layer1.self"]
        torch.testing.assert_close(total, torch.ones(2))


def test_the_adapter_passes_explanations_on() -> None:
    memory = build_memory("hierarchical_chunks", STREAMS, {"width": 8, "chunk": 2, "window": 2})
    query = {name: torch.randn(2, *shape) for name, shape in STREAMS.items()}
    assert "layer1.chunk_weight" in memory.inspect(query, torch.zeros(2), memory.initial(2))


@pytest.mark.parametrize("name", ["hierarchical_chunks", "transformer_xl"])
def test_explanations_can_be_drawn(name: str, tmp_path) -> None:
    """Each tick of an episode on the axis of the earlier ticks it read."""
    options = {"width": 8, "heads": 2, "capacity": 4, "layers": 1}
    if name == "hierarchical_chunks":
        options |= {"chunk": 2, "window": 2, "top_k": 1}
    memory = build_memory(name, {"s": (1, 4)}, options).eval()
    state, collected = memory.initial(1), MemoryInspector([0])
    for t in range(7):
        query, now = {"s": torch.randn(1, 1, 4)}, torch.tensor([0.4 * t])
        report = memory.inspect(query, now, state)
        shown = {key: tensor[0].detach().numpy() for key, tensor in report.items()}
        collected.tick(0, 0.4 * t, "gap", {}, shown)
        _, state = memory.step(query, now, state, torch.tensor([False]))
    inspection = collected.inspections[0]
    inspection.images = [{"front_image_u8": np.zeros((8, 8, 3), np.uint8)}] * 7
    inspection.actions = [None] * 7
    arrays = inspection.arrays()
    share = attention_to_ticks(arrays, "layer0")
    assert (np.triu(share) == 0).all()
    if name == "transformer_xl":
        assert [(row > 0).sum() for row in share] == [0, 1, 2, 3, 4, 4, 4]
        assert share[6, 2:6].all()
    else:
        best = arrays["layer0.chunk_weight"].argmax(axis=1)
        for t in range(2, 7):
            read = np.zeros(7, bool)
            read[2 * best[t] : 2 * best[t] + 2] = True
            assert ((share[t] > 0) == read).all()
    film = Recording(frames=[np.zeros((8, 8, 3), np.uint8)], captions=[Caption("gap", "", 0, 0.0)])
    written = write_inspection(tmp_path, "episode", inspection, film)
    assert [path.stat().st_size > 0 for path in written] == [True, True]


def test_bytes_in_use_count_chunks_and_window() -> None:
    memory = build(capacity=5)
    vector, counter = 8 * 4, 2 * 8
    for length, chunks, window in ((0, 0, 0), (2, 0, 2), (7, 2, 3)):
        state = after(memory, steady(memory, length)) if length else memory.initial(2)
        slot = 3 * vector + vector + 8 + 4
        assert memory.nbytes_filled(state) == 2 * 2 * (chunks * slot + window * vector) + counter
    assert memory.nbytes(2) == 2 * 2 * (5 * slot + 3 * vector) + counter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 2}, "memory.window must be >= memory.chunk=3 ticks, got 2"),
        ({"chunk": 0}, "memory.chunk must be >= 1 tick, got 0"),
        ({"top_k": 0}, "memory.top_k must be within 1 and memory.capacity=3 chunks, got 0"),
        ({"top_k": 4}, "memory.top_k must be within 1 and memory.capacity=3 chunks, got 4"),
        ({"capacity": 0, "top_k": 0}, "memory.top_k must be within"),
        ({"heads": 3}, "memory.heads must divide the width 8, got 3; take one of [1, 2, 4, 8]"),
        ({"layers": 0}, "memory.layers must be >= 1, got 0"),
        ({"ffn_ratio": 0}, "memory.ffn_ratio must be >= 1, got 0"),
        ({"eviction": "lru"}, "unknown memory.eviction 'lru'"),
        ({"relevance_norm": "top"}, "unknown memory.relevance_norm 'top'; did you mean 'topk'"),
        ({"qk_init": "x"}, "unknown memory.qk_init 'x'"),
        ({"width": 0}, "memory width must be >= 1, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**options)
    assert message in str(caught.value)


def test_bad_options_of_the_others_are_refused() -> None:
    for name, options, message in (
        ("transformer_xl", {"capacity": 0}, "memory capacity must be >= 1 past tick, got 0"),
        ("transformer_xl", {"heads": 5}, "memory.heads must divide the width 128, got 5"),
        ("gated_transformer_xl", {"layers": 0}, "memory.layers must be >= 1, got 0"),
        ("lstm", {"layers": 0}, "layers of memory lstm must be >= 1, got 0"),
        ("hierarchical_chunks", {"chunks": 3}, "did you mean 'chunk'"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_memory(name, STREAMS, options)
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match="capacity must be >= 1 chunk, got 0"):
        build().initial(1, 0)


def test_states_of_another_memory_are_refused() -> None:
    memory, query = build(), torch.randn(2, 8)

    def refused(state: State, message: str, rows: int = 2) -> None:
        for call in (memory.read, memory.inspect):
            arguments = (query[:rows], torch.zeros(rows), state)
            with pytest.raises(SpecMismatch) as caught:
                call(*arguments, *([torch.zeros(rows).bool()] if call == memory.read else []))
            assert message in str(caught.value)

    refused(
        build(width=16).initial(2), "'0.window' should be [rows, 3, 8] of float32, got [rows, 3"
    )
    refused(build(chunk=2).initial(2), "'0.contents' should be [rows, 3, 3, 8] of float32, got")
    refused(build(layers=1).initial(2), "'1.window' should be [rows, 3, 8] of float32, got absent")
    refused(build(layers=3).initial(2), "'2.window' should be absent, got [rows, 3, 8]")
    refused(memory.initial(3), "there are 2 rows of queries, and [3] of state")
    state = memory.initial(2)
    refused({**state, "count": state["count"].int()}, "'count' should be [rows] of int64, got")
    refused({**state, "1.keys": state["1.keys"][:, :2]}, "'1.keys' should be [rows, 3, 8]")
    refused(LSTMVector(8).initial(2), "'0.window' should be")


def test_records_of_another_memory_are_refused() -> None:
    memory = build()
    ticks = steady(memory, 4)
    for record, message in (
        ({}, "got nothing"),
        ({"inputs": torch.zeros(2, 4, 1, 8)}, "must have shape (2, 4, 2, 8)"),
    ):
        with pytest.raises(SpecMismatch) as caught:
            learn(memory, ticks, memory.initial(2), record=record)
        assert message in str(caught.value)


def test_float64_and_narrow_autocast() -> None:
    memory = build(capacity=9)
    ticks = steady(memory, 14)
    value, state = learn(memory, ticks, memory.initial(2))
    with torch.autocast("cpu", torch.bfloat16):
        narrow, after_narrow = learn(memory, ticks, memory.initial(2))
        stepped, _, _ = act(memory, ticks, memory.initial(2))
    assert (narrow[:, :3] - value[:, :3]).abs().max() < 0.2
    assert (stepped[:, :3] - value[:, :3]).abs().max() < 0.2
    assert {k: v.dtype for k, v in after_narrow.items()} == {k: v.dtype for k, v in state.items()}
    double = build(capacity=9).double()
    precise, _ = double.unroll(
        ticks.items.double(), ticks.time_s, double.initial(2), ticks.is_first, ticks.valid
    )
    assert precise.dtype == torch.float64
    assert_near(value.double(), precise)


def test_a_step_exports_with_masked_reads() -> None:
    memory = build(eviction="least_selected")

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = memory

        def forward(self, query, time_s, state, reset, mask):
            return self.memory.step(query, time_s, state, reset, mask)

    state, ticks = filled_state(memory, 1), random_vectors(memory, 8, 2)
    arguments = (ticks.items[:, 0], ticks.time_s[:, 0], state, torch.zeros(3).bool())
    program = torch.export.export(Step(), (*arguments, ticks.read_mask[:, 0])).module()
    for t in range(8):
        arguments = (
            ticks.items[:, t], ticks.time_s[:, t], state, ticks.is_first[:, t],
            ticks.read_mask[:, t],
        )  # fmt: skip
        value, written = memory.step(*arguments)
        exported, state = program(*arguments)
        assert_near(exported, value)
        assert_close(state, written)
