"""The table of memories, their options, and what single memories promise beyond the contract."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from embodied.core.errors import ConfigError
from embodied.memory import MEMORIES, build_memory, memory_config, timeline
from embodied.memory.base import Memory
from embodied.memory.composite import CompositeMemory
from tests.contracts.tools import (
    BATCH,
    STREAMS,
    assert_close,
    fill,
    no_reset,
    plain_ticks,
    random_ticks,
    run,
)


def build(name: str = "perceptual_cognitive", **options: object) -> Memory:
    torch.manual_seed(0)
    return build_memory(name, STREAMS, options).eval()


def shake_rates(memory: Memory) -> None:
    """Gives items rates of forgetting that differ."""
    for name, parameter in memory.named_parameters():
        if ".forget.weight" in name:
            parameter.data.normal_(std=3.0)


# ---- table and options ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_every_memory_builds_from_its_defaults(name: str) -> None:
    memory = build(name)
    assert isinstance(memory, Memory)
    assert memory.initial(2).keys() == memory.initial(1).keys()


def test_the_table_loads_no_torch() -> None:
    code = "import sys, embodied.memory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("perceptual", {}, "unknown memory 'perceptual'; did you mean 'perceptual_cognitive'"),
        ("gru", {"widht": 3}, "unknown option of memory gru 'widht'; did you mean 'width'"),
        ("gru", {"width": "wide"}, "memory.width: expected int, got 'wide'"),
        ("gru", {"width": 0}, "memory width must be >= 1, got 0"),
        ("gru", {"pool_queries": 0}, "pool_queries must be >= 1, got 0"),
        ("perceptual_cognitive", {"capacity": True}, "memory.capacity: expected int, got True"),
        ("perceptual_cognitive", {"capacity": 0}, "capacity must be >= 1 slot, got 0"),
        ("perceptual_cognitive", {"layers": 0}, "layers of a memory bank must be >= 1, got 0"),
        ("perceptual_cognitive", {"heads": 3}, "heads must divide the width 8, got 3"),
        ("perceptual_cognitive", {"overflow": "merge"}, "unknown overflow rule 'merge'"),
        ("perceptual_cognitive", {"anchor": -1}, "memory.anchor must be >= 0, got -1"),
        ("perceptual_cognitive", {"anchor": 16}, "anchor=16 pins all of the 16 slots"),
        ("perceptual_cognitive", {"anchor": 2, "capacities": {"cognitive": 2}}, "2 slots of cogn"),
        ("perceptual_cognitive", {"capacities": {"cognitive": "9"}}, "must be a whole number >= 1"),
        ("perceptual_cognitive", {"pool": {"perceptual": 2.0}}, "whole number >= 1, got 2.0"),
        ("perceptual_cognitive", {"empty_read": "none"}, "unknown memory.empty_read 'none'"),
        ("perceptual_cognitive", {"time_features": -2}, "time_features must be >= 0, got -2"),
        ("perceptual_cognitive", {"merged_time": "late"}, "unknown merged_time 'late'"),
        ("perceptual_cognitive", {"qk_init": "x"}, "unknown qk_init 'x'"),
        ("perceptual_cognitive", {"pool_maps": 0}, "pool_maps must be >= 1, got 0"),
        ("perceptual_cognitive", {"capacities": {"cog": 3}}, "did you mean 'cognitive'"),
        ("perceptual_cognitive", {"remember": ["all"]}, "unknown stream in memory.remember 'all'"),
        ("perceptual_cognitive", {"pool": {"perceptual": 3}}, "pool.perceptual=3 does not divide"),
        ("perceptual_cognitive", {"pool": {"cognitive": 2}}, "pool.cognitive=2 does not divide"),
        ("perceptual_cognitive", {"time_scale_hz": -1}, "time_scale_hz must be > 0"),
        ("none", {"capacity": 3}, "unknown option of memory none 'capacity'"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, **options)
    assert message in str(caught.value)


def test_whole_numbers_fill_float_options() -> None:
    assert memory_config("gru", {"time_scale_hz": 20}).time_scale_hz == 20.0


# ---- the bank -------------------------------------------------------------------------------


def test_streams_have_their_own_capacity_unless_overridden() -> None:
    memory = build(capacity=3, capacities={"cognitive": 7})
    state = memory.initial(2)
    assert state["perceptual.tokens"].shape == (2, 3, 4, 8)
    assert state["cognitive.tokens"].shape == (2, 7, 1, 6)
    assert memory.capacity_of(state) == 7
    overridden = memory.initial(2, capacity=5)
    assert {overridden[f"{s}.time_s"].shape for s in STREAMS} == {(2, 5)}
    cleared = memory.clear(state, torch.tensor([True, False]))
    assert {k: v.shape for k, v in cleared.items()} == {k: v.shape for k, v in state.items()}


def test_an_anchor_leaves_a_slot_of_each_stream_and_no_other_number_counts() -> None:
    capacities = {"perceptual": 4, "cognitive": 5}
    memory = build(capacity=1, capacities=capacities, anchor=3)
    assert memory.capacity_of(memory.initial(1)) == 5


def test_streams_that_are_not_remembered_pass_unchanged() -> None:
    memory = build(remember=["cognitive"])
    assert all(name.startswith("cognitive.") for name in memory.initial(1))
    ticks = plain_ticks(memory, 3)
    value, _ = run(memory, ticks, memory.initial(BATCH))
    assert torch.equal(value["perceptual"], ticks.items["perceptual"])
    assert not torch.equal(value["cognitive"], ticks.items["cognitive"])


def test_pooling_stores_means_of_squares_of_tokens() -> None:
    torch.manual_seed(0)
    memory = build_memory("perceptual_cognitive", {"map": (16, 4)}, {"pool": {"map": 2}})
    grid = torch.randn(1, 4, 4, 4)
    _, state = memory.step(
        {"map": grid.reshape(1, 16, 4)}, torch.zeros(1), memory.initial(1), torch.tensor([False])
    )
    expected = grid.reshape(1, 2, 2, 2, 2, 4).mean(dim=(2, 4)).reshape(4, 4)
    assert torch.allclose(state["map.tokens"][0, 0], expected, atol=1e-6)


def test_zero_tokens_stand_for_nothing() -> None:
    """A stored map with half of its tokens masked reads like the other half alone."""
    torch.manual_seed(0)
    whole = build_memory("perceptual_cognitive", {"s": (4, 8)}, {}).eval()
    half = build_memory("perceptual_cognitive", {"s": (2, 8)}, {}).eval()
    half.load_state_dict(whole.state_dict())
    item, query, now = torch.randn(1, 4, 8), torch.randn(1, 4, 8), torch.zeros(1)
    item[:, 2:] = 0
    keep = torch.tensor([False])
    _, state = whole.step({"s": item}, now, whole.initial(1), keep)
    _, small = half.step({"s": item[:, :2]}, now, half.initial(1), keep)
    read, _ = whole.read({"s": query}, now, state, keep)
    expected, _ = half.read({"s": query[:, :2]}, now, small, keep)
    assert torch.allclose(read["s"][:, :2], expected["s"], atol=1e-6)
    # Nothing but zero tokens is the same as an empty memory.
    _, blank = whole.step({"s": item * 0}, now, whole.initial(1), keep)
    assert torch.equal(whole.read({"s": query}, now, blank, keep)[0]["s"], query)
    counted = build_memory("perceptual_cognitive", {"s": (4, 8)}, {"skip_zero_tokens": False})
    assert not torch.equal(counted.read({"s": query}, now, blank, keep)[0]["s"], query)


def test_inspect_explains_a_read() -> None:
    memory = build(capacity=4, heads=2)
    state = fill(memory, length=2)
    report = memory.inspect(plain_ticks(memory, 1).query(0), torch.full((BATCH,), 2.0), state)
    attention = report["perceptual.attention"]
    assert attention.shape == (BATCH, 2, 4, 4)
    assert torch.allclose(attention.sum(-1), torch.ones(BATCH, 2, 4), atol=1e-5)
    assert not attention[..., 2:].any()
    assert torch.allclose(report["perceptual.age_s"][0], torch.tensor([2.0, 1.6, 0, 0]))
    assert report["cognitive.live"].tolist() == [[True, True, False, False]] * BATCH
    empty = memory.inspect(plain_ticks(memory, 1).query(0), torch.zeros(BATCH), memory.initial(3))
    assert not any(tensor.any() for tensor in empty.values())


def test_filled_bytes_count_slots_in_use() -> None:
    memory = build(capacity=4)
    slot = (4 * 8 + 6) * 4 + 2 * (4 + 4)
    counters = 2 * (8 + 8)
    for length in (1, 3):
        assert memory.nbytes_filled(fill(memory, length)) == BATCH * (length * slot + counters)
    assert memory.nbytes(1) == 4 * slot + counters


def test_training_dropout_differs_and_evaluation_does_not() -> None:
    memory = build(dropout=0.5)
    ticks = plain_ticks(memory, 4)
    once, again = (run(memory, ticks, memory.initial(BATCH))[0] for _ in range(2))
    assert_close(once, again, tolerance=0.0)
    memory.train()
    once, again = (run(memory, ticks, memory.initial(BATCH))[0] for _ in range(2))
    assert not torch.equal(once["perceptual"], again["perceptual"])


@pytest.mark.parametrize(
    "options",
    [
        {"overflow": "similar"},
        {"overflow": "similar", "anchor": 1, "empty_read": "self"},
        {"overflow": "fifo", "anchor": 1},
        {"overflow": "retention"},
    ],
    ids=str,
)
def test_both_ways_of_unrolling_agree(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU unneeded ticks and entries are left out; elsewhere shapes alone decide."""
    memory = build(capacity=3, **options)
    shake_rates(memory)
    for seed in range(6):
        ticks, start = random_ticks(memory, 8, seed), fill(memory, seed + 1)
        monkeypatch.setattr(timeline, "looks_at_data", lambda _: True)
        value, state = run(memory, ticks, start, read_mask=ticks.read_mask)
        monkeypatch.setattr(timeline, "looks_at_data", lambda _: False)
        other, after = run(memory, ticks, start, read_mask=ticks.read_mask)
        assert_close(value, other)
        assert_close(state, after)


def test_groups_of_ticks_agree_with_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = build(capacity=3)
    ticks = random_ticks(memory, 12, seed=3)
    results = []
    for tokens in (1, 10_000):
        monkeypatch.setattr(timeline, "GROUP_TOKENS", tokens)
        monkeypatch.setattr(timeline, "GATHER_GAIN", 0.0 if tokens == 1 else 1e9)
        results.append(run(memory, ticks, memory.initial(BATCH))[0])
    assert_close(*results)


@pytest.mark.parametrize("jitter", [0.0, 1e-5])
def test_a_still_scene_merges_the_same_slots_in_both_ways(jitter: float) -> None:
    """All similarities are one up to rounding: the first pair must win everywhere."""
    memory = build(capacity=4)
    ticks = plain_ticks(memory, 12)
    ticks.items = {k: v[:, :1] + jitter * torch.randn_like(v) for k, v in ticks.items.items()}
    _, state = run(memory, ticks, memory.initial(BATCH))
    stepped = memory.initial(BATCH)
    for t in range(12):
        _, stepped = memory.step(ticks.query(t), ticks.time_s[:, t], stepped, no_reset())
    assert torch.equal(state["perceptual.items"], torch.tensor([[9.0, 1, 1, 1]] * BATCH))
    assert torch.equal(stepped["perceptual.items"], state["perceptual.items"])
    assert torch.equal(stepped["perceptual.time_s"], state["perceptual.time_s"])


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_bfloat16_autocast_keeps_state_in_float32(name: str) -> None:
    memory = build(name)
    ticks = plain_ticks(memory, 4)
    exact, _ = run(memory, ticks, memory.initial(BATCH))
    with torch.autocast("cpu", torch.bfloat16):
        value, state = run(memory, ticks, memory.initial(BATCH))
        _, state = memory.step(ticks.query(0), ticks.time_s[:, 0], state, no_reset())
    assert_close(value, exact, tolerance=0.1)
    described = {k: v.dtype for k, v in memory.initial(BATCH).items()}
    assert {k: v.dtype for k, v in state.items()} == described


# ---- full history and composites ------------------------------------------------------------


def test_full_history_refuses_a_horizon_above_capacity() -> None:
    memory = build("full_history", capacity=10)
    memory.check_horizon(11)
    with pytest.raises(ConfigError, match=r"holds 10 past ticks, but the longest episode has 12"):
        memory.check_horizon(12)
    memory.check_horizon(40, memory.initial(1, capacity=40))
    with pytest.raises(ConfigError, match="holds 5 past ticks"):
        memory.check_horizon(11, memory.initial(1, capacity=5))


def test_full_history_beyond_capacity_drops_the_oldest_and_counts() -> None:
    memory = build("full_history", capacity=3)
    ticks = plain_ticks(memory, 5)
    _, state = run(memory, ticks, memory.initial(BATCH))
    assert state["perceptual.overflow"].tolist() == [2] * BATCH
    assert torch.allclose(state["perceptual.time_s"][0], torch.tensor([0.8, 1.2, 1.6]))
    assert torch.equal(state["perceptual.tokens"], ticks.items["perceptual"][:, 2:])
    _, fresh = memory.step(ticks.query(0), ticks.time_s[:, 0], state, ~no_reset())
    assert fresh["perceptual.overflow"].tolist() == [0] * BATCH


def test_composite_prefixes_names_and_reports() -> None:
    near, far = build(capacity=2), build("full_history", capacity=5)
    both = CompositeMemory({"near": near, "far": far})
    state = both.initial(2)
    assert set(state) == {f"near.{k}" for k in near.initial(1)} | {
        f"far.{k}" for k in far.initial(1)
    }
    assert both.capacity_of(state) == 5
    assert both.nbytes(2) == near.nbytes(2) + far.nbytes(2)
    report = both.inspect(plain_ticks(both, 1, batch=2).query(0), torch.zeros(2), state)
    assert "near.perceptual.attention" in report and "far.cognitive.age_s" in report
    assert both.part_state("far", state).keys() == far.initial(1).keys()


def test_composite_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="at least one part"):
        CompositeMemory({})
    with pytest.raises(ConfigError, match=r"part name 'a\.b'"):
        CompositeMemory({"a.b": build()})
    other = build_memory("gru", {"perceptual": (4, 16)})
    with pytest.raises(ConfigError, match="expects stream 'perceptual' of shape"):
        CompositeMemory({"a": build(), "b": other})


def test_pool_maps_pools_square_maps_and_nothing_else() -> None:
    streams = {"map": (16, 8), "list": (6, 8), "cognitive": (1, 8), "odd": (9, 8)}
    memory = build_memory("perceptual_cognitive", streams, {"pool_maps": 2, "pool": {"map": 4}})
    stored = {name: memory.initial(1)[f"{name}.tokens"].shape[2] for name in streams}
    assert stored == {"map": 1, "list": 6, "cognitive": 1, "odd": 9}
    memory = build_memory("full_history", streams, {"pool_maps": 2})
    assert memory.initial(1)["map.tokens"].shape[2] == 4


# ---- what is kept when a bank is full -------------------------------------------------------


@pytest.mark.parametrize("overflow", ["similar", "fifo", "retention"])
def test_the_anchor_is_kept_as_it_was(overflow: str) -> None:
    memory = build(capacity=3, overflow=overflow, anchor=2)
    ticks = plain_ticks(memory, 9)
    _, state = run(memory, ticks, memory.initial(BATCH))
    for name in STREAMS:
        assert torch.equal(state[f"{name}.tokens"][:, :2], ticks.items[name][:, :2])
        assert torch.equal(state[f"{name}.time_s"][:, :2], ticks.time_s[:, :2])
        expected = 7.0 if overflow == "similar" else 1.0
        assert torch.equal(state[f"{name}.items"][:, 2], torch.full((BATCH,), expected))


def test_retention_drops_what_has_decayed_furthest() -> None:
    """Rates are 0.1, 2 and 0.1 a second: at the fourth tick the second is the least left."""
    memory = build_memory(
        "perceptual_cognitive", {"s": (1, 2)}, {"capacity": 3, "overflow": "retention"}
    )
    forget = memory.banks["s"].forget
    forget.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    forget.bias.data.zero_()
    rates = torch.tensor([0.1, 2.0, 0.1, 0.1])
    items = torch.stack([rates.expm1().log(), torch.ones(4)], dim=-1)  # soft-plus undone
    state = memory.initial(1)
    for t in range(4):
        _, state = memory.step(
            {"s": items[None, t, None]}, torch.tensor([float(t)]), state, torch.tensor([False])
        )
    assert state["s.time_s"].tolist() == [[0.0, 2.0, 3.0]]
    assert state["s.items"].tolist() == [[1.0, 1.0, 1.0]]
    assert state["s.overflow"].tolist() == [1]


def test_retention_starts_as_fifo_and_learns_from_reads() -> None:
    memory = build(capacity=3, overflow="retention")
    ticks = plain_ticks(memory, 9)
    value, state = run(memory, ticks, memory.initial(BATCH))
    assert torch.equal(state["perceptual.time_s"], ticks.time_s[:, -3:])
    sum(v.square().sum() for v in value.values()).backward()
    for name in STREAMS:
        gradient = memory.banks[name].forget.weight.grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_an_empty_bank_may_read_the_tick_itself() -> None:
    """The successor's first frame: it is query and only entry, at its own time."""
    memory = build(empty_read="self", dropout=0.0)
    ticks = plain_ticks(memory, 1)
    value, _ = run(memory, ticks, memory.initial(BATCH))
    for name, query in ticks.query(0).items():
        bank = memory.banks[name]
        expected, live = query, torch.ones(*query.shape[:-1], dtype=torch.bool)[:, None]
        code = bank.time(ticks.time_s[:, :1])
        for block in bank.blocks:
            expected, _ = block(expected, query[:, None], code, live)
        torch.testing.assert_close(value[name][:, 0], expected, atol=1e-5, rtol=0)
        assert (expected - query).abs().max() > 1e-3


def test_the_time_sinusoid_may_have_its_own_width() -> None:
    memory = build(time_features=256)
    for bank in memory.banks.values():
        assert bank.time.mlp[0].in_features == 256
