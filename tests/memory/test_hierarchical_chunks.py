"""Hierarchical chunks as a memory: when chunks are written and read, what is evicted, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.types import State
from embodied.evaluate.inspection import (
    MemoryInspector,
    attention_to_ticks,
    write_inspection,
)
from embodied.evaluate.video import Caption, Recording
from embodied.memory import build_memory, chunk_layer
from embodied.memory.hierarchical_chunks import HierarchicalChunks, HierarchicalChunksConfig
from embodied.memory.lstm import LSTMVector
from embodied.memory.transformer_xl import TransformerXL, TransformerXLConfig
from tests.contracts.memory import property_test, seeds
from tests.contracts.tools import STREAMS, assert_close, clone
from tests.contracts.vectors import (
    Vectors,
    act,
    assert_near,
    filled_state,
    learn,
    look_at_data,
    random_vectors,
)

SMALL = {"width": 8, "heads": 2, "layers": 2, "ffn_ratio": 2, "capacity": 3, "chunk": 3}
SMALL |= {"window": 4, "top_k": 2, "time_encoding": False}


def build(**options: object) -> HierarchicalChunks:
    torch.manual_seed(0)
    return HierarchicalChunks(HierarchicalChunksConfig(**{**SMALL, **options})).eval()


def steady(memory: HierarchicalChunks, length: int, seed: int = 0, batch: int = 2) -> Vectors:
    """Ticks of one episode a row, without holes."""
    ticks = random_vectors(memory, length, seed, batch)
    yes = torch.ones_like(ticks.valid)
    return Vectors(ticks.items, ticks.time_s, ~yes, yes, yes, yes)


def after(memory: HierarchicalChunks, ticks: Vectors, batch: int = 2) -> State:
    return act(memory, ticks, memory.initial(batch))[1]


# ---- timing ---------------------------------------------------------------------------------


def test_a_chunk_is_written_when_it_is_full_and_read_from_the_next_tick_on() -> None:
    memory = build(layers=1, capacity=9)
    ticks = steady(memory, 14)
    state = memory.initial(2)
    for t in range(14):
        now = ticks.time_s[:, t]
        live = memory.inspect(ticks.items[:, t], now, state)["layer0.chunk_live"]
        assert live.sum(1).tolist() == [t // 3] * 2, "at tick 3 j, j chunks may be read"
        _, state = memory.step(ticks.items[:, t], now, state, torch.tensor([False, False]))
        done = (t + 1) // 3
        assert (state["0.number"] >= 0).sum(1).tolist() == [done] * 2
        stored = ticks.items[:, : 3 * done].view(2, done, 3, 8)
        assert torch.equal(state["0.contents"][:, :done], stored)
        torch.testing.assert_close(state["0.keys"][:, :done], stored.mean(2), atol=1e-6, rtol=0)
        assert not state["0.contents"][:, done:].any()
        assert torch.equal(
            state["0.window"][:, -min(t + 1, 3) :], ticks.items[:, max(t - 2, 0) : t + 1]
        )


def test_outputs_follow_from_earlier_ticks_alone() -> None:
    memory = build(capacity=9)
    ticks = steady(memory, 16)
    value, _ = learn(memory, ticks, memory.initial(2))
    for t in (0, 5, 8, 15):
        changed = ticks.items.clone()
        changed[:, t] += torch.linspace(-1, 1, 8)  # a constant would be lost in the norm
        other, _ = memory.unroll(
            changed, ticks.time_s, memory.initial(2), ticks.is_first, ticks.valid
        )
        torch.testing.assert_close(other[:, :t], value[:, :t], atol=1e-5, rtol=1e-5)
        assert ((other - value)[:, t : t + 2].abs().amax(dim=(0, 2)) > 1e-3).all()


def test_the_unfinished_chunk_reaches_the_window_and_not_the_chunks() -> None:
    memory = build(layers=1, capacity=9)
    ticks = steady(memory, 9)
    state = after(memory, Vectors(*(getattr(ticks, f)[:, :8] for f in vars(ticks))))
    other = clone(state)
    other["0.window"][:, -1] += torch.linspace(-1, 1, 8)  # tick 7, of the chunk of ticks 6 to 8
    query, now = ticks.items[:, 8], ticks.time_s[:, 8]
    mine, theirs = (memory.inspect(query, now, s) for s in (state, other))
    assert not torch.equal(mine["layer0.window"], theirs["layer0.window"])
    layer = memory.layers[0]
    fixed = torch.randn(2, 8)  # the same query to the chunks
    tick = memory._tick(now, state, torch.zeros(2, dtype=torch.bool), None)
    rows = torch.arange(2)
    parts = [{k[2:]: v for k, v in s.items() if k != "count"} for s in (state, other)]
    reads = [layer._read(fixed, part, tick, rows)[0] for part in parts]
    assert torch.equal(*reads) and reads[0].any()


def test_before_the_first_chunk_it_is_a_window_transformer() -> None:
    """The read adds exactly nothing, whatever lies in empty slots, and no gradient reaches it."""
    memory = build()
    ticks = steady(memory, 3)
    start = memory.initial(2)
    for i in range(2):
        start[f"{i}.contents"].fill_(7.0)
        start[f"{i}.keys"].fill_(7.0)
    value, _ = learn(memory, ticks, memory.initial(2))
    dirty, _, _ = act(memory, ticks, start)
    assert_near(dirty, value)
    none = torch.zeros_like(ticks.valid)
    masked, _ = learn(memory, ticks, memory.initial(2), read_mask=none)
    assert torch.equal(masked, value)
    dirty.square().sum().backward()
    for layer in memory.layers:
        for parameter in (*layer.chunks.parameters(), *layer.norm.parameters()):
            assert parameter.grad is None or not parameter.grad.any()
        assert layer.window.attention.query.weight.grad.any()


# ---- rows, resets, holes --------------------------------------------------------------------


@given(seed=seeds, length=st.integers(1, 30))
@property_test
def test_a_stream_of_episodes_equals_each_episode_alone(seed: int, length: int) -> None:
    """A reset at any phase of a chunk discards what was unfinished; holes change nothing."""
    memory = build()
    ticks = random_vectors(memory, length, seed, batch=1, resets=0.2)
    value, state = learn(memory, ticks, memory.initial(1))
    kept = ticks.valid[0].nonzero()[:, 0]
    starts = [i for i, t in enumerate(kept) if i == 0 or ticks.is_first[0, t]]
    for start, stop in zip(starts, [*starts[1:], len(kept)], strict=True):
        episode = ticks.map(lambda x, t=kept[start:stop]: x[:, t])
        episode.is_first = torch.zeros_like(episode.is_first)
        alone, alone_state = learn(memory, episode, memory.initial(1))
        assert_near(value[:, kept[start:stop]], alone)
    if len(kept):
        assert_close(state, alone_state)


@given(seed=seeds, length=st.integers(2, 30), cut=st.integers(1, 29))
@property_test
def test_segments_equal_the_whole(seed: int, length: int, cut: int) -> None:
    memory, cut = build(), min(cut, length - 1)
    ticks = random_vectors(memory, length, seed)
    whole, state = learn(memory, ticks, memory.initial(3))
    head, middle = learn(memory, ticks.map(lambda x: x[:, :cut]), memory.initial(3))
    tail, end = learn(memory, ticks.map(lambda x: x[:, cut:]), middle)
    assert_near(torch.cat([head, tail], dim=1), whole)
    assert_close(state, end)


# ---- slots ----------------------------------------------------------------------------------


@given(seed=seeds, length=st.integers(0, 60), capacity=st.integers(1, 4), chunk=st.integers(1, 4))
@property_test
def test_the_ring_holds_the_last_chunks(seed: int, length: int, capacity: int, chunk: int) -> None:
    memory = build(layers=1, chunk=chunk, window=chunk, capacity=capacity, top_k=1)
    ticks = random_vectors(memory, max(length, 1), seed, batch=2, resets=0.04)
    _, state = learn(memory, ticks, memory.initial(2))
    for row in range(2):
        episode: list[Tensor] = []
        for t in range(ticks.length):
            if ticks.valid[row, t]:
                episode = [] if ticks.is_first[row, t] else episode
                episode.append(ticks.items[row, t])
        chunks = [torch.stack(episode[i : i + chunk]) for i in range(0, len(episode), chunk)]
        full = len(episode) // chunk
        for slot in range(capacity):
            held = [n for n in range(full) if n % capacity == slot][-1:]
            assert state["0.number"][row, slot] == (held[0] if held else -1)
            expected = chunks[held[0]] if held else torch.zeros(chunk, 8)
            assert torch.equal(state["0.contents"][row, slot], expected)
            torch.testing.assert_close(state["0.keys"][row, slot], expected.mean(0))


def test_one_chunk_too_many_replaces_the_oldest_and_no_other() -> None:
    memory = build()
    state = after(memory, steady(memory, 9))
    new = steady(memory, 3, seed=5)
    for t in range(3):
        full = clone(state)
        _, state = memory.step(new.items[:, t], new.time_s[:, t], state, torch.zeros(2).bool())
    assert state["0.number"].tolist() == [[3, 1, 2]] * 2
    assert torch.equal(state["0.contents"][:, 0], new.items)
    for name in ("contents", "keys", "number", "time_s"):
        for i in range(2):
            assert torch.equal(state[f"{i}.{name}"][:, 1:], full[f"{i}.{name}"][:, 1:])


@pytest.mark.parametrize("eviction", ["least_selected", "retention"])
@given(seed=seeds)
@property_test
def test_the_order_of_slots_does_not_matter(eviction: str, seed: int) -> None:
    memory = build(eviction=eviction)
    state = filled_state(memory, seed, 20)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    slots = ("contents", "keys", "number", "time_s", "selected")
    moved = {k: v[:, order] if k.split(".")[-1] in slots else v for k, v in state.items()}
    ticks = random_vectors(memory, 12, seed)
    ticks.time_s = ticks.time_s + 8.0  # behind the ticks that filled it
    value, end = learn(memory, ticks, state)
    other, moved_end = learn(memory, ticks, moved)
    assert_near(other, value)
    for i in range(2):
        numbers = [e[f"{i}.number"].sort(dim=1).values for e in (end, moved_end)]
        assert torch.equal(*numbers)


@given(seed=seeds)
@property_test
def test_least_selected_keeps_what_was_read(seed: int) -> None:
    """A model of the rule, fed with what `inspect` says was read."""
    memory = build(eviction="least_selected", capacity=3, chunk=2, window=2, top_k=1, layers=1)
    ticks = steady(memory, 24, seed, batch=1)
    state, held = memory.initial(1), {}
    for t in range(24):
        query, now = ticks.items[:, t], ticks.time_s[:, t]
        report = memory.inspect(query, now, state)
        for slot in report["layer0.chunk_weight"][0].nonzero()[:, 0]:
            held[int(report["layer0.chunk_number"][0, slot])] = t
        _, state = memory.step(query, now, state, torch.tensor([False]))
        if t % 2:
            if len(held) == 3:
                del held[min(held, key=lambda n: (held[n], n))]
            held[t // 2] = t
        assert sorted(state["0.number"][0].tolist())[3 - len(held) :] == sorted(held)


def test_retention_drops_what_has_decayed_furthest_and_reads_it_less() -> None:
    """Rates 0.1, 2, 0.1 and 0.1 a second by the vectors' first entry: the second chunk goes."""
    options = {"chunk": 1, "window": 1, "capacity": 3, "layers": 1, "heads": 1, "width": 2}
    memory = build(eviction="retention", **options)
    forget = memory.layers[0].forget
    forget.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    forget.bias.data.zero_()
    rates = torch.tensor([0.1, 2.0, 0.1, 0.1])
    items = torch.stack([rates.expm1().log(), torch.ones(4)], dim=-1)  # soft-plus undone
    state = memory.initial(1)
    for t in range(3):
        now = torch.tensor([float(t)])
        _, state = memory.step(items[None, t], now, state, torch.tensor([False]))
    memory.layers[0].chunks.relevance_key.weight.data.zero_()  # all alike but for their age
    weight = memory.inspect(items[None, 3], torch.tensor([3.0]), state)["layer0.chunk_weight"][0]
    decayed = torch.softmax(torch.tensor([-0.3, -0.1]), 0)  # of ages 3 and 1; -4 is not chosen
    torch.testing.assert_close(weight, torch.stack([decayed[0], weight.new_zeros(()), decayed[1]]))
    _, state = memory.step(items[None, 3], torch.tensor([3.0]), state, torch.tensor([False]))
    assert state["0.number"].tolist() == [[0, 3, 2]]
    assert state["0.time_s"].tolist() == [[0.0, 3.0, 2.0]]


def test_the_history_is_traced_from_the_first_eviction_on() -> None:
    """Until then chunks lie in turn; the first to go is not the oldest."""
    memory = build(eviction="retention", chunk=1, window=1, layers=1)
    memory.layers[0].forget.weight.data.normal_(std=3.0)
    evicted = set()
    for length in range(1, 8):
        ticks = steady(memory, length, seed=1)
        value, state, _ = act(memory, ticks, memory.initial(2))
        learnt, learnt_state = learn(memory, ticks, memory.initial(2))
        assert_near(learnt, value)
        assert_close(learnt_state, state)
        if length == 4:
            evicted = {n for row in state["0.number"].tolist() for n in {0, 1, 2} - set(row)}
    assert evicted - {0}


def test_retention_learns_from_reads() -> None:
    memory = build(eviction="retention")
    value, _ = learn(memory, steady(memory, 30), memory.initial(2))
    value.square().sum().backward()
    assert all(layer.forget.weight.grad.any() for layer in memory.layers)


def test_capacity_is_the_state_s() -> None:
    """The same weights: until the small state is full, its size changes nothing."""
    memory = build()
    ticks = steady(memory, 40)
    small, _ = learn(memory, ticks, memory.initial(2))
    for capacity in (5, 50):
        large, state = learn(memory, ticks, memory.initial(2, capacity))
        assert memory.capacity_of(state) == capacity
        assert_near(large[:, :12], small[:, :12])  # the fourth chunk is done after tick 11
        assert (large[:, 12:] - small[:, 12:]).abs().max() > 1e-3
    fifty, _, _ = act(memory, ticks, memory.initial(2, 50))
    assert_near(fifty, large)
    # A single slot is read alone, though two chunks were asked for.
    one, _ = learn(memory, ticks, memory.initial(2, 1))
    assert_near(one[:, :6], small[:, :6])


# ---- gradients ------------------------------------------------------------------------------


def gradient_to(memory: HierarchicalChunks, tick: int, **options: object) -> Tensor:
    """Returns the gradient of the last value of a segment to items of the segment."""
    ticks = steady(memory, 14)
    ticks.items.requires_grad_()
    value, _ = learn(memory, ticks, memory.initial(2), **options)
    (value[:, -1] * torch.linspace(-1, 1, 8)).sum().backward()
    return ticks.items.grad[:, tick]


@pytest.mark.parametrize("seen", [True, False])
def test_stored_vectors_get_a_gradient_unless_detached(seen, monkeypatch) -> None:
    look_at_data(monkeypatch, seen)
    chunks, window = 7, 12  # a tick of a chunk; a tick of the last window, in no finished chunk
    for memory, expected in (
        (build(layers=1, capacity=9, top_k=9), (True, True)),
        (build(layers=1, capacity=9, top_k=9, detach=True), (False, True)),
        (build(layers=1, capacity=9, top_k=9, detach_window=True), (True, False)),
        (build(capacity=9, top_k=9, detach=True, detach_window=True), (False, False)),
    ):
        for tick, wanted in zip((chunks, window), expected, strict=True):
            assert bool(gradient_to(memory, tick).any()) == wanted
        assert gradient_to(memory, 13).any()


def test_no_gradient_leaves_the_segment_or_enters_a_record() -> None:
    memory = build(capacity=9)
    state = {k: v.detach() for k, v in filled_state(memory, 3).items()}
    ticks = random_vectors(memory, 9, 4)
    record = act(memory, ticks, state)[2]
    record["inputs"].requires_grad_()
    items = ticks.items.requires_grad_()
    value, _ = learn(memory, ticks, state, record=record)
    value[:, -1].sum().backward()
    assert record["inputs"].grad is None
    assert not items.grad[:, :-1].any()


def test_with_one_read_relevance_is_learnt_by_the_norm_over_all_alone() -> None:
    for norm in ("topk", "all"):
        memory = build(top_k=1, relevance_norm=norm, detach=True)
        value, _ = learn(memory, steady(memory, 20), memory.initial(2))
        value.square().sum().backward()
        for layer in memory.layers:
            assert bool(layer.chunks.relevance_query.weight.grad.any()) == (norm == "all")
            assert layer.chunks.value.weight.grad.any()


@pytest.mark.parametrize("eviction", ["fifo", "least_selected", "retention"])
@pytest.mark.parametrize("detach", [(False, False), (True, False), (True, True)])
def test_gradients_of_unroll_equal_those_of_steps(eviction, detach) -> None:
    memory = build(eviction=eviction, detach=detach[0], detach_window=detach[1])
    results = []
    for unrolled in (True, False):
        memory.zero_grad()
        ticks = random_vectors(memory, 25, 6, resets=0.05)
        ticks.items.requires_grad_()
        start = memory.initial(3)
        value, state = (
            learn(memory, ticks, start, read_mask=ticks.read_mask)
            if unrolled
            else act(memory, ticks, start, masked=True)[:2]
        )
        loss = (value * value.detach().cos()).sum() + sum(
            t.square().sum() for t in state.values() if t.requires_grad
        )
        loss.backward()
        gradients = {n: p.grad for n, p in memory.named_parameters() if p.grad is not None}
        results.append({"items": ticks.items.grad, **gradients})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[1].items():
        assert_near(results[0][name], gradient, 5.0)


# ---- routes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"relevance_norm": "all"}, {"eviction": "retention"}])
def test_both_routes_and_all_blocks_agree(options: dict, monkeypatch) -> None:
    """Gathered or dense, in one block or many, kept or made again: values and gradients."""
    memory = build(capacity=6, chunk=2, window=3, **options)
    start = {k: v.detach() for k, v in filled_state(memory, 1, 30).items()}
    results = []
    for cost, block, floats, kept in (
        (-1e9, 64, 2**22, 2**24),
        (-1e9, 3, 64, 0),
        (1e9, 64, 2**22, 2**24),
        (1e9, 64, 64, 0),
    ):
        monkeypatch.setattr(chunk_layer, "DENSE_CHUNK", cost)
        monkeypatch.setattr(chunk_layer, "DENSE_BLOCK", block)
        monkeypatch.setattr(chunk_layer, "BLOCK_FLOATS", floats)
        monkeypatch.setattr(chunk_layer, "KEPT_FLOATS", kept)
        for looks in (True, False):
            look_at_data(monkeypatch, looks)
            memory.zero_grad()
            ticks = random_vectors(memory, 21, 2)
            ticks.items.requires_grad_()
            value, _ = learn(memory, ticks, start, read_mask=ticks.read_mask)
            (value * value.detach().cos()).sum().backward()
            gradients = {n: p.grad.clone() for n, p in memory.named_parameters()}
            results.append({"value": value.detach(), "items": ticks.items.grad, **gradients})
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert_near(other[name], tensor, 5.0)


@pytest.mark.parametrize("looks", [True, False])
def test_equal_summaries_are_read_alike_by_every_route(looks, monkeypatch) -> None:
    """Chunks of the same vectors in another order tie: both routes and acting take the older."""
    look_at_data(monkeypatch, looks)
    memory = build(layers=1, capacity=9, window=3, top_k=2)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 8, generator=generator)
    orders = [torch.randperm(3, generator=generator) for _ in range(6)]
    ticks = steady(memory, 20)
    ticks.items = torch.cat([*(vectors[o] for o in orders), torch.randn(2, 8)])[None].repeat(
        2, 1, 1
    )
    state, acted, _ = memory.initial(2), [], None
    for t in range(20):
        value, state = memory.step(
            ticks.items[:, t], ticks.time_s[:, t], state, torch.zeros(2).bool()
        )
        acted.append(value)
    report = memory.inspect(ticks.items[:, -1], ticks.time_s[:, -1], state)
    assert report["layer0.chunk_weight"][0].nonzero()[:, 0].tolist() == [0, 1]
    for cost in (-1e9, 1e9):
        monkeypatch.setattr(chunk_layer, "DENSE_CHUNK", cost)
        value, _ = learn(memory, ticks, memory.initial(2))
        assert_near(value, torch.stack(acted, dim=1))


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
