"""Hierarchical chunks as a memory: when chunks are written and read; rows; routes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embodied.memory import chunk_layer
from tests.contracts.memory import property_test, seeds
from tests.contracts.tools import assert_close, clone
from tests.contracts.vectors import (
    Vectors,
    act,
    assert_near,
    filled_state,
    learn,
    look_at_data,
    random_vectors,
)
from tests.memory.chunks import after, build, steady

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
