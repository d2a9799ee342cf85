"""The spatial memory's encoder, options, reports, sizes and export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State, Streams
from embodied.memory import build_memory
from embodied.memory.base import Memory
from embodied.memory.composite import CompositeMemory
from embodied.memory.none import NoMemory
from embodied.memory.spatial import SpatialMemory
from embodied.memory.spatial_attention import RotaryAttention, axial_rotary, grid_positions
from embodied.memory.spatial_encoder import MemoryEncoder
from tests.contracts.tools import assert_close, assert_equal, clone
from tests.memory.spatial_tools import (
    PIXELS,
    ROWS,
    SIDE,
    SMALL,
    TOKENS,
    VIEWS,
    WIDTH,
    Decoder,
    at,
    bank_of,
    build,
    code_used,
    features,
    fill,
    marks,
    moved,
    no,
    permuted,
    push,
    read,
    segment,
)

# ---- the encoder ----------------------------------------------------------------------------


def test_n_the_level_of_the_logits_is_stored() -> None:
    """Cross-entropy ignores a constant added to a heatmap; the memory encoder does not."""
    memory = build()
    bank, item, logits = bank_of(memory), features(0)["top"], marks(0)["top.mark"]
    assert (bank.encode(item, logits + 2) - bank.encode(item, logits)).abs().max() > 1e-3


def test_marks_that_are_missing_are_zeros() -> None:
    memory = build()
    zeros = {f"{v}.mark": torch.zeros(ROWS, PIXELS**2, 1) for v in VIEWS}
    blank = push(memory, {**features(0), **zeros}, 0, memory.initial(ROWS))
    assert_close(push(memory, features(0), 0, memory.initial(ROWS)), blank)
    some = {**features(0), "front.mark": marks(0)["front.mark"]}
    mixed = push(memory, some, 0, memory.initial(ROWS))
    assert_close({"s": mixed["top.tokens"]}, {"s": blank["top.tokens"]})
    assert (mixed["front.tokens"] - blank["front.tokens"]).abs().max() > 1e-3


def test_a_heatmap_lands_on_its_token() -> None:
    """A peak changes the tokens about its place alone: rows and columns are not exchanged."""
    torch.manual_seed(0)
    side, pixels = 8, 64
    encoder = MemoryEncoder(side, WIDTH, 8, blocks=0)
    tokens = torch.zeros(1, side * side, WIDTH)
    for row, column in ((1, 6), (5, 2)):
        logits = torch.full((1, pixels, pixels), -8.0)
        logits[:, 8 * row + 2 : 8 * row + 6, 8 * column + 2 : 8 * column + 6] = 8.0
        change = encoder(tokens, logits) - encoder(tokens, torch.full_like(logits, -8.0))
        strength = change[0].square().sum(-1).view(side, side)
        assert strength[row, column] > 0
        strength[row - 1 : row + 2, column - 1 : column + 2] = 0
        assert strength.max() < 1e-9


def test_heatmaps_of_any_side_are_resized_to_sixteen_pixels_a_token() -> None:
    bank, item = bank_of(build()), features(0)["top"]
    logits = torch.randn(ROWS, 1, 16 * SIDE, 16 * SIDE)
    whole = bank.encode(item, logits.flatten(1)[..., None])
    for side in (24, 64, 96):
        level = bank.encode(item, torch.full((ROWS, side * side, 1), 1.5))
        torch.testing.assert_close(level, bank.encode(item, torch.full((ROWS, 4096, 1), 1.5)))
    small = logits[:, :, ::2, ::2]
    up = nn.functional.interpolate(small, size=(64, 64), mode="bilinear", align_corners=False)
    assert not torch.allclose(up, logits)
    torch.testing.assert_close(
        bank.encode(item, small.flatten(1)[..., None]), bank.encode(item, up.flatten(1)[..., None])
    )
    assert whole.shape == (ROWS, TOKENS, 8)


# ---- options --------------------------------------------------------------------------------


def test_a_window_ignores_older_maps_and_all_reads_them_with_the_last_code() -> None:
    query = features(50)
    narrow, wide = build(capacity=6, window=2), build(capacity=6, window=2, read="all")
    wide.load_state_dict(narrow.state_dict())
    recent = fill(narrow, 5)
    changed = clone(recent)
    for name in VIEWS:
        changed[f"{name}.tokens"][:, :3] += 1.0
    assert_equal(read(narrow, query, recent), read(narrow, query, changed))
    assert moved(read(wide, query, recent), read(wide, query, changed)) > 1e-3
    # The last two maps in a small bank read as in the large one.
    short = narrow.initial(ROWS, capacity=2)
    for t in range(5):
        short = push(narrow, {**features(t), **marks(t)}, t, short)
    assert_close(read(narrow, query, short), read(narrow, query, recent))
    # Beyond the table all have its last code, so the order of those is not seen.
    assert_close(read(wide, query, permuted(recent, [2, 1, 3, 0, 4, 5])), read(wide, query, recent))
    other = permuted(recent, [0, 1, 2, 4, 3, 5])
    assert moved(read(wide, query, other), read(wide, query, recent)) > 1e-3


def test_an_anchored_item_stays_is_read_and_knows_its_age() -> None:
    memory = build(capacity=3, window=6, anchor=1)
    state = fill(memory, 6)
    assert state["top.time_s"][0].tolist() == [0.0, 4.0, 5.0]
    assert code_used(memory, state) == [[0, 1, 5], [6, 2, 1]]
    late = fill(memory, 12)
    assert late["top.time_s"][0].tolist() == [0.0, 10.0, 11.0]
    # Twelve steps ago: outside of the window, read all the same, with the last code.
    assert code_used(memory, late) == [[0, 1, 5], [12, 2, 1]]
    assert code_used(build(capacity=3, window=6), late) == [[0, 1, 2], [3, 2, 1]]


def test_the_capacity_of_a_state_is_in_no_weight() -> None:
    shapes = [{k: v.shape for k, v in build(capacity=c).state_dict().items()} for c in (2, 40)]
    assert shapes[0] == shapes[1]
    memory = build(capacity=2, window=5)
    assert memory.initial(1, capacity=7)["top.tokens"].shape == (1, 7, TOKENS, 8)
    assert memory.capacity_of(memory.initial(1, capacity=7)) == 7
    assert bank_of(memory).temporal.shape == (5, 8)


def test_the_positional_code_of_the_present_may_be_given() -> None:
    memory, query = build(), features(50)
    state, bank = fill(memory, 2), bank_of(build())
    plain = read(memory, query, state)
    assert set(plain) == set(VIEWS)
    same = {f"{v}.position": bank.position.expand(ROWS, -1, -1) for v in VIEWS}
    assert_equal(read(memory, {**query, **same}, state), plain)
    assert_equal(read(memory, {**query, "front.position": bank.position}, state), plain)
    one = {"front.position": torch.randn(ROWS, TOKENS, WIDTH)}
    value = read(memory, {**query, **one}, state)
    assert torch.equal(value["top"], plain["top"])
    assert (value["front"] - plain["front"]).abs().max() > 1e-4
    # The weight of the code is the option's.
    shifted = {f"{v}.position": same[f"{v}.position"] + 10 * query[v] for v in VIEWS}
    double = {v: 2 * query[v] for v in VIEWS}
    assert_close(read(memory, {**query, **shifted}, state), read(memory, double, state))
    memory = build(position_scale=0.0)
    assert_equal(read(memory, {**query, **shifted}, state), read(memory, query, state))


def test_a_position_in_the_items_of_a_segment_reaches_each_read() -> None:
    memory = build()
    items, clock, first, valid = segment(3)
    codes = {f"{v}.position": torch.randn(ROWS, 3, TOKENS, WIDTH) for v in VIEWS}
    value, _ = memory.unroll({**items, **codes}, clock, memory.initial(ROWS), first, valid)
    base, _ = Memory.unroll(memory, {**items, **codes}, clock, memory.initial(ROWS), first, valid)
    plain, _ = memory.unroll(items, clock, memory.initial(ROWS), first, valid)
    assert_close(value, base)
    assert moved(value, plain) > 1e-4


def test_streams_of_another_shape_have_their_own_weights_or_none() -> None:
    streams = {"top": (16, 16), "front": (16, 16), "wrist": (4, 16), "self": (3, 10)}
    with pytest.raises(ConfigError, match=r"square maps of tokens, but stream 'self' has 3"):
        build_memory("spatial", streams, SMALL)
    memory = build_memory("spatial", streams, {**SMALL, "remember": ["wrist", "top", "front"]})
    assert set(memory.banks) == {"16x16", "4x16"}
    assert not any(key.startswith("self.") for key in memory.initial(1))
    query = {name: torch.randn(1, *shape) for name, shape in streams.items()}
    _, state = memory.step(query, at(0, 1), memory.initial(1), no(1))
    value, _ = memory.step(query, at(1, 1), state, no(1))
    assert torch.equal(value["self"], query["self"])
    assert all(not torch.equal(value[name], query[name]) for name in ("top", "front", "wrist"))


def test_only_spatial_memory_takes_marks() -> None:
    assert SpatialMemory.marks and not Memory.marks and not NoMemory.marks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": "last"}, "unknown memory.read 'last'"),
        ({"window": 0}, "memory.window must be >= 1, got 0"),
        ({"layers": 0}, "memory.layers must be >= 1, got 0"),
        ({"anchor": -1}, "memory.anchor must be >= 0, got -1"),
        ({"anchor": 3}, "memory.anchor=3 pins all of the 3 slots"),
        ({"capacity": 0}, "memory capacity must be >= 1 slot, got 0"),
        ({"locality": -1.0}, "memory.locality must be >= 0, got -1.0"),
        ({"dropout": 1.0}, "memory.dropout must be within [0, 1), got 1.0"),
        ({"heads": 3}, "memory.heads=3 does not divide the width 16"),
        ({"heads": 8}, "even number of channels, 4 at least"),
        ({"remember": ["tip"]}, "unknown stream in memory.remember 'tip'; did you mean 'top'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [(ROWS, 1000, 1), (ROWS, PIXELS, PIXELS), (ROWS, 1024, 2)])
def test_marks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    memory = build()
    with pytest.raises(ConfigError, match=r"top\.mark: expected heatmap logits \[B, S \* S, 1\]"):
        push(memory, {**features(0), "top.mark": torch.zeros(shape)}, 0, memory.initial(ROWS))


def test_dropout_is_for_training_alone() -> None:
    memory, query = build(dropout=0.5), features(50)
    state = fill(memory, 2)
    assert_equal(read(memory, query, state), read(memory, query, state))
    memory.train()
    assert moved(read(memory, query, state), read(memory, query, state)) > 1e-3


# ---- looking in, sizes, export --------------------------------------------------------------


def test_inspect_explains_a_read() -> None:
    memory = build(capacity=4, heads=2)
    state, query = fill(memory, 2), features(50)
    report = memory.inspect(query, at(3), state)
    attention = report["front.attention"]
    assert attention.shape == (ROWS, 2, TOKENS, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(ROWS, 2, TOKENS))
    assert not attention[..., 2:].any()
    torch.testing.assert_close(report["front.frames"], attention.mean(dim=(1, 2)))
    assert report["front.age_s"][0].tolist() == [3.0, 2.0, 0.0, 0.0]
    assert report["front.live"].tolist() == [[True, True, False, False]] * ROWS
    assert report["front.items"][0].tolist() == [1.0, 1.0, 0.0, 0.0]
    empty = memory.inspect(query, at(0), memory.initial(ROWS))
    assert not any(tensor.any() for tensor in empty.values())
    # A map that is made to look like nothing else draws what it is given.
    values = read(memory, query, state)
    state["front.tokens"][:, 0] *= 50
    other = memory.inspect(query, at(3), state)
    assert (other["front.frames"] - report["front.frames"]).abs().max() > 1e-2
    assert torch.equal(other["top.frames"], report["top.frames"])
    assert moved(read(memory, query, state), values) > 1e-3


def test_filled_bytes_count_slots_in_use() -> None:
    memory = build(capacity=4)
    slot, counters = 3 * (TOKENS * 8 * 4 + 4 + 4), 3 * (8 + 8)
    for steps in (0, 1, 3, 6):
        used = ROWS * (min(steps, 4) * slot + counters)
        assert memory.nbytes_filled(fill(memory, steps)) == used
    assert memory.nbytes(1) == 4 * slot + counters


class Tick(nn.Module):
    """A policy's observe in small: read, decode, write."""

    def __init__(self, memory: SpatialMemory, decoder: Decoder) -> None:
        super().__init__()
        self.memory, self.out = memory, decoder.out

    def forward(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, State]:
        value, pending = self.memory.read(query, time_s, state, reset)
        rows = len(reset)
        logits = {f"{v}.mark": self.out(value[v]).reshape(rows, -1, 1) for v in VIEWS}
        return value, self.memory.write(pending, {**query, **logits}, time_s, state)


@pytest.mark.parametrize(("width", "heads"), [(128, 1), (32, 4), (4, 1)])
def test_attention_may_start_at_its_own_place(width: int, heads: int) -> None:
    """Where nothing stored tells places apart, by just so much over the neighbours on an axis."""
    attention = RotaryAttention(width, 8, heads, 0.0)
    torch.nn.init.zeros_(attention.query.weight)
    torch.nn.init.zeros_(attention.key.weight)
    attention.start_near(0.7)
    rotary = axial_rotary(grid_positions(SIDE), width // heads)
    keys, weights = torch.randn(ROWS, 3, TOKENS, 8), []
    attention(torch.randn(ROWS, TOKENS, width), keys, keys, rotary, explain=weights)
    scores = weights[0].log()  # [R, H, N, M, N]
    place = torch.arange(TOKENS)
    own = scores[:, :, place, :, place]
    for step, neighbours in ((1, place % SIDE < SIDE - 1), (SIDE, place + SIDE < TOKENS)):
        here = place[neighbours]
        beside = scores[:, :, here, :, here + step]
        torch.testing.assert_close(own[here] - beside, torch.full_like(beside, 0.7))
    assert build(locality=0.7).initial(1).keys() == build().initial(1).keys()


def test_a_tick_with_marks_exports() -> None:
    tick = Tick(build(anchor=1), Decoder()).eval()
    state = tick.memory.initial(ROWS)
    program = torch.export.export(tick, (features(0), at(0), state, no())).module()
    for t in range(6):
        inputs = (features(t), at(t), state, torch.tensor([t == 4, False]))
        value, after = tick(*inputs)
        exported, state = program(*inputs)
        assert_close(value, exported)
        assert_close(state, after)


def test_a_part_of_a_composite_stores_heatmaps_too() -> None:
    """What goes with a stream reaches the parts that want it, and those alone."""
    part = build(("front",))
    both = CompositeMemory({"maps": part, "none": build_memory("none", part.streams)})
    query, given = features(0, views=("front",)), marks(0, views=("front",))

    def stored(memory: Memory, item: Streams) -> State:
        empty = memory.initial(ROWS)
        _, pending = memory.read(query, at(0), empty, no())
        return memory.write(pending, item, at(0), empty)

    expected = stored(part, {**query, **given})
    assert both.marks
    assert_equal(stored(both, {**query, **given}), {f"maps.{k}": v for k, v in expected.items()})
    without = stored(both, query)["maps.front.tokens"]
    assert not torch.equal(without, expected["front.tokens"])
