"""The spatial memory's parity cases (y) to (hh) and (jj), one test each, and learning through it.

A letter names a case of the method's list of properties. Equality with SAM 2's own modules is in
``test_spatial_parity.py``, options are in ``test_spatial_options.py``.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from embodied.core.types import State
from embodied.memory import spatial
from embodied.memory.base import where_rows
from embodied.memory.spatial_attention import RotaryAttention, axial_rotary, grid_positions, rotate
from tests.contracts.tools import assert_close, assert_equal
from tests.memory.spatial_tools import (
    ROWS,
    SIDE,
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

# ---- the bank -------------------------------------------------------------------------------


def test_y_an_empty_bank_returns_the_present_exactly() -> None:
    memory, query = build(), features(50)
    assert_equal(read(memory, query, memory.initial(ROWS)), query)
    # Row by row: the first has been reset, the second has not.
    value = read(memory, query, fill(memory, 2), torch.tensor([True, False]))
    for name, tensor in value.items():
        assert torch.equal(tensor[0], query[name][0])
        assert (tensor[1] - query[name][1]).abs().max() > 0.1


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_z_a_bank_holds_the_last_items_and_counts_those_it_dropped(steps: int) -> None:
    memory = build()
    state, bank = fill(memory, steps), bank_of(memory)
    held = list(range(max(0, steps - 3), steps))
    for name in VIEWS:
        assert state[f"{name}.count"].tolist() == [len(held)] * ROWS
        assert state[f"{name}.overflow"].tolist() == [max(0, steps - 3)] * ROWS
        assert state[f"{name}.time_s"][0, : len(held)].tolist() == held
        for slot, t in enumerate(held):
            expected = bank.encode(features(t)[name], marks(t)[f"{name}.mark"])
            stored = state[f"{name}.tokens"][:, slot]
            torch.testing.assert_close(stored, expected, atol=1e-5, rtol=0)
        assert not state[f"{name}.tokens"][:, len(held) :].any()
    assert_equal(memory.clear(state, ~no()), memory.initial(ROWS))


def test_aa_views_never_see_one_another() -> None:
    memory, query = build(), features(50)
    before = read(memory, query, fill(memory, 3))
    state = memory.initial(ROWS)
    for t in range(3):
        item = {**features(t), **marks(t)}
        item["top"], item["top.mark"] = features(70 + t)["top"], marks(70 + t)["top.mark"]
        state = push(memory, item, t, state)
    after = read(memory, query, state)
    assert (after["top"] - before["top"]).abs().max() > 1e-3
    for name in ("front", "right"):
        assert torch.equal(after[name], before[name])


def test_bb_views_as_rows_of_one_batch_equal_one_view_after_another() -> None:
    memory, query = build(), features(50)
    together = read(memory, query, fill(memory, 3))
    for name in VIEWS:
        alone = build((name,))
        alone.load_state_dict(memory.state_dict())
        state = {k: v for k, v in fill(memory, 3).items() if k.startswith(name)}
        value = read(alone, {name: query[name]}, state)
        torch.testing.assert_close(value[name], together[name], atol=1e-5, rtol=0)


def doubled(state: State) -> State:
    """Every map twice, with as many slots more."""
    twice = {k: v.repeat_interleave(2, dim=1) if v.dim() > 1 else v for k, v in state.items()}
    return {k: 2 * v if k.endswith(".count") else v for k, v in twice.items()}


def test_cc_order_and_copies_matter_only_through_the_temporal_code() -> None:
    query = features(50)
    for temporal in (False, True):
        memory = build(window=9)
        if not temporal:
            bank_of(memory).temporal.data.zero_()
        state = fill(memory, 3)
        value = read(memory, query, state)
        for other in (permuted(state, [2, 0, 1]), doubled(state)):
            change = moved(read(memory, query, other), value)
            assert (change > 1e-3) is temporal, change
            assert temporal or change < 1e-5


def test_dd_moving_both_grids_changes_no_score() -> None:
    torch.manual_seed(0)
    width = 16
    query, keys = torch.randn(TOKENS, 1, width), torch.randn(TOKENS, 1, width)

    def scores(shift_query: tuple[float, float], shift_keys: tuple[float, float]) -> Tensor:
        places = grid_positions(SIDE)
        q = rotate(query, axial_rotary(places + torch.tensor(shift_query), width))
        k = rotate(keys, axial_rotary(places + torch.tensor(shift_keys), width))
        return q[:, 0] @ k[:, 0].T

    still = scores((0, 0), (0, 0))
    torch.testing.assert_close(scores((3, 5), (3, 5)), still, atol=1e-5, rtol=0)
    for shift in ((1, 0), (0, 1)):
        assert (scores(shift, (0, 0)) - still).abs().max() > 0.1


def test_ee_equal_memory_tokens_read_as_one_value() -> None:
    torch.manual_seed(0)
    attention = RotaryAttention(WIDTH, 8, 1, 0.0)
    token = torch.randn(8)
    keys = token.expand(ROWS, 3, TOKENS, 8)
    rotary = axial_rotary(grid_positions(SIDE), WIDTH)
    found = attention(torch.randn(ROWS, TOKENS, WIDTH), keys, keys, rotary)
    expected = attention.out(attention.value(token))
    torch.testing.assert_close(found, expected.expand_as(found), atol=1e-5, rtol=0)


def test_ff_what_is_stored_does_not_depend_on_the_bank() -> None:
    memory, item = build(capacity=9), {**features(5), **marks(5)}
    entries = []
    for steps in (0, 1, 4):
        state = fill(memory, steps, seed=20)
        _, pending = memory.read(features(5), at(9), state, no())
        after = memory.write(pending, item, at(9), state)
        entries.append(after["front.tokens"][:, steps])
    assert torch.equal(entries[0], entries[1])
    assert torch.equal(entries[0], entries[2])


def test_gg_a_step_sees_neither_itself_nor_the_future() -> None:
    memory = build()
    items = [{**features(t), **marks(t)} for t in range(5)]
    # From tick 2 on marks differ, from tick 3 on features too.
    other = [dict(item) for item in items]
    for t in range(2, 5):
        other[t] |= marks(60 + t)
    for t in range(3, 5):
        other[t] |= features(60 + t)
    results = []
    for sequence in (items, other):
        stacked = {k: torch.stack([item[k] for item in sequence], dim=1) for k in items[0]}
        clock, yes = torch.arange(5.0).expand(ROWS, 5), torch.ones(ROWS, 5, dtype=torch.bool)
        results.append(memory.unroll(stacked, clock, memory.initial(ROWS), ~yes, yes)[0])
    assert set(results[0]) == set(VIEWS)
    for name in VIEWS:
        assert torch.equal(results[0][name][:, :3], results[1][name][:, :3])
        assert (results[0][name][:, 4] - results[1][name][:, 4]).abs().max() > 1e-3


def test_hh_the_first_temporal_code_is_the_last_step() -> None:
    memory = build(capacity=4, window=6)
    assert code_used(memory, fill(memory, 1)) == [[0], [1]]
    assert code_used(memory, fill(memory, 3)) == [[0, 1, 2], [3, 2, 1]]
    assert code_used(memory, fill(memory, 9)) == [[0, 1, 2, 3], [4, 3, 2, 1]]
    # Two maps and two codes: exchanging both together changes nothing, one alone does.
    state, query = fill(memory, 2), features(50)
    value = read(memory, query, state)
    swapped = permuted(state, [1, 0, 2, 3])
    assert moved(read(memory, query, swapped), value) > 1e-3
    bank_of(memory).temporal.data[:2] = bank_of(memory).temporal.data[:2].flip(0)
    assert_close(read(memory, query, swapped), value)


# ---- learning through memory ----------------------------------------------------------------


@pytest.mark.parametrize("skips_empty_slots", [True, False])
def test_unroll_decodes_between_read_and_write(
    skips_empty_slots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks predicted from what was read, holes, resets and skipped reads: as step by step."""
    monkeypatch.setattr(spatial, "looks_at_data", lambda _: skips_empty_slots)
    memory, decoder = build(), Decoder()
    items, clock, first, valid = segment(7)
    first[0, 4] = first[1, 0] = True
    valid[1, 2] = valid[0, 6] = False
    use = torch.ones_like(valid)
    use[0, 3] = False
    for start in (memory.initial(ROWS), fill(memory, 2, seed=40)):
        value, after = memory.unroll(items, clock, start, first, valid, use, decoder)
        state = start
        for t in range(7):
            query = {v: items[v][:, t] for v in VIEWS}
            found, pending = memory.read(query, clock[:, t], state, first[:, t] & valid[:, t])
            asked = valid[:, t] & use[:, t]
            found = {v: where_rows(asked, found[v], query[v]) for v in VIEWS}
            written = memory.write(pending, decoder(query, found), clock[:, t], state)
            state = {k: where_rows(valid[:, t], written[k], state[k]) for k in state}
            assert_close({v: value[v][:, t] for v in VIEWS}, found)
        assert_close(after, state)


def test_jj_the_last_loss_reaches_the_first_step() -> None:
    """Through nine steps of a long bank; `detach` cuts features and heatmaps, not the encoder."""
    items, clock, first, valid = segment(10)
    for detach in (False, True):
        memory, decoder = build(capacity=9, detach=detach), Decoder()
        # A copy writes the first step, so that its gradients are those of that step alone.
        writer = copy.deepcopy(memory)
        query = {v: items[v][:, 0].clone().requires_grad_() for v in VIEWS}
        logits = {k: v.requires_grad_() for k, v in marks(0).items()}
        state = push(writer, {**query, **logits}, 0, writer.initial(ROWS))
        later = {v: items[v][:, 1:] for v in VIEWS}
        value, _ = memory.unroll(
            later, clock[:, 1:], state, first[:, 1:], valid[:, 1:], None, decoder
        )
        sum(value[v][:, -1].square().mean() for v in VIEWS).backward()
        for tensor in (*query.values(), *logits.values()):
            if detach:
                assert tensor.grad is None
            else:
                assert tensor.grad.abs().max() > 0
        for name, parameter in bank_of(writer).encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        # What the decoder predicted at earlier steps came back too, and only there.
        assert (decoder.out.weight.grad is None) is detach


def test_jj_a_detached_state_ends_the_gradient() -> None:
    memory = build(capacity=9)
    writer = copy.deepcopy(memory)
    query = {v: t.requires_grad_() for v, t in features(0).items()}
    state = push(writer, {**query, **marks(0)}, 0, writer.initial(ROWS))
    state = {name: tensor.detach() for name, tensor in state.items()}
    value = read(memory, features(1), state)
    sum(tensor.square().mean() for tensor in value.values()).backward()
    assert all(parameter.grad is None for parameter in writer.parameters())
    assert all(tensor.grad is None for tensor in query.values())
    assert bank_of(memory).temporal.grad.abs().max() > 0


def test_rows_without_memory_give_no_and_finite_gradients() -> None:
    memory = build()
    query = {v: t.requires_grad_() for v, t in features(0).items()}
    value = read(memory, query, fill(memory, 2), torch.tensor([True, False]))
    sum(tensor[0].sum() for tensor in value.values()).backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    for tensor in query.values():
        assert torch.equal(tensor.grad[0], torch.ones_like(tensor[0]))
