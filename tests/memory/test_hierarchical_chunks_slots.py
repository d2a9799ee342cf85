"""Hierarchical chunks as a memory: what is kept and evicted, and what learns from it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embodied.memory.hierarchical_chunks import HierarchicalChunks
from tests.contracts.memory import property_test, seeds
from tests.contracts.tools import assert_close, clone
from tests.contracts.vectors import (
    act,
    assert_near,
    filled_state,
    learn,
    look_at_data,
    random_vectors,
)
from tests.memory.chunks import after, build, steady

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


@pytest.mark.parametrize("seen", [True, False])
def test_with_a_record_least_selected_keeps_what_acting_read(seen, monkeypatch) -> None:
    """Whatever ticks are wanted: the reads of the others decide what is evicted, too."""
    look_at_data(monkeypatch, seen)
    memory = build(eviction="least_selected", capacity=3, chunk=2, window=2, top_k=1)
    ticks = steady(memory, 24)
    with torch.no_grad():
        value, state, record = act(memory, ticks, memory.initial(2))
        wanted = torch.arange(24).expand(2, 24) >= 21
        ticks.items = torch.where(wanted[..., None], ticks.items, 0.0)
        learnt, end = learn(memory, ticks, memory.initial(2), wanted=wanted, record=record)
    assert_near(learnt[:, 21:], value[:, 21:])
    assert_close(end, state)


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
