"""MemoryVLA's parity cases that concern the bank, one test each: retrieval, merging, episodes.

The names are those of the specification's families R, M and E; the sinusoid, gate and
single-block cases are in ``tests/nn``. Frames are one stream of N tokens of width D.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embodied.core.errors import ConfigError, DataError
from embodied.core.types import State
from embodied.memory.bank import PerceptualCognitiveConfig
from embodied.memory.order import check_time_order
from embodied.memory.perceptual_cognitive import PerceptualCognitiveMemory
from embodied.memory.slots import similarity
from embodied.nn.fusion import GateFusion

TIME_SCALE_HZ = 20.0


def bank(tokens: int = 1, width: int = 2, **options: object) -> PerceptualCognitiveMemory:
    torch.manual_seed(0)
    config = PerceptualCognitiveConfig(**{"qk_init": "independent", "detach": True, **options})
    return PerceptualCognitiveMemory({"s": (tokens, width)}, config).eval()


def frames(*vectors: object) -> Tensor:
    """Returns [1, T, N, D] from vectors [D] or token maps [N, D]."""
    maps = [torch.tensor(v, dtype=torch.float32) for v in vectors]
    return torch.stack([m if m.dim() == 2 else m[None] for m in maps])[None]


def unroll(memory: PerceptualCognitiveMemory, items: Tensor, state: State | None = None, **kw):
    """Runs frames [B, T, N, D] at times 0, 1, ... unless told otherwise."""
    B, T = items.shape[:2]
    no = torch.zeros(B, T, dtype=torch.bool)
    value, state = memory.unroll(
        {"s": items},
        kw.get("time_s", torch.arange(T).float().expand(B, T)),
        memory.initial(B) if state is None else state,
        kw.get("is_first", no),
        kw.get("valid", ~no),
    )
    return value["s"], state


def push(memory: PerceptualCognitiveMemory, items: Tensor) -> State:
    """Stores frames one by one."""
    state = memory.initial(len(items))
    for t in range(items.shape[1]):
        reset = torch.zeros(len(items), dtype=torch.bool)
        _, state = memory.step(
            {"s": items[:, t]}, torch.full((len(items),), float(t)), state, reset
        )
    return state


def check(memory: PerceptualCognitiveMemory, items: Tensor, entries: object, times: list) -> None:
    """Both ways of running must end with these entries at these times."""
    for state in (push(memory, items), unroll(memory, items)[1]):
        count = int(state["s.count"])
        expected = torch.tensor(entries, dtype=torch.float32)
        stored = state["s.tokens"][0, :count].reshape(expected.shape)
        assert torch.allclose(stored, expected, atol=1e-5), stored
        assert torch.allclose(state["s.time_s"][0, :count], torch.tensor(times).float(), atol=1e-5)
        assert not state["s.tokens"][0, count:].any()


# ---- retrieval (R1 to R3 are in tests/nn/test_attention.py) ---------------------------------


def permuted(memory: PerceptualCognitiveMemory, state: State) -> State:
    order = torch.tensor([2, 0, 1])
    return {k: v[:, order] if v.dim() > 1 else v for k, v in state.items()}


def read(memory: PerceptualCognitiveMemory, query: Tensor, state: State) -> Tensor:
    rows = len(query)
    value, _ = memory.read(
        {"s": query}, torch.full((rows,), 9.0), state, torch.zeros(rows, dtype=torch.bool)
    )
    return value["s"]


def test_r4_order_of_entries_matters_only_through_time() -> None:
    items, query = torch.randn(1, 3, 2, 8), torch.randn(1, 2, 8)
    for time_encoding in (False, True):
        memory = bank(2, 8, capacity=3, time_encoding=time_encoding)
        state = push(memory, items)
        other = permuted(memory, state)
        # Entries and their times move together: nothing changes.
        assert torch.allclose(read(memory, query, state), read(memory, query, other), atol=1e-5)
        # Entries move, times stay: only the time encoding can tell.
        other["s.time_s"] = state["s.time_s"]
        same = torch.allclose(read(memory, query, state), read(memory, query, other), atol=1e-5)
        assert same is not time_encoding


def test_r5_a_single_token_is_read_whatever_query_key_and_time_say() -> None:
    memory, query = bank(1, 8), torch.randn(1, 1, 8)
    state = push(memory, torch.randn(1, 1, 1, 8))
    before = read(memory, query, state)
    with torch.no_grad():
        for block in memory.banks["s"].layers():
            block.query.weight.normal_()
            block.key.weight.normal_()
    state["s.time_s"] += 5
    assert torch.allclose(read(memory, query, state), before, atol=1e-5)


def test_r6_a_frame_reads_earlier_frames_only() -> None:
    memory, items = bank(1, 8), torch.randn(1, 2, 1, 8)
    first = push(memory, items[:, :1])
    value, _ = unroll(memory, items)
    assert torch.allclose(value[:, 1], read(memory, items[:, 1], first), atol=1e-5)
    changed = items.clone()
    changed[:, 0] += 1
    assert not torch.allclose(unroll(memory, changed)[0][:, 1], value[:, 1], atol=1e-3)


def test_r7_empty_bank_returns_the_token_and_gives_no_gradient() -> None:
    memory = bank(1, 8)
    query = torch.randn(1, 1, 8, requires_grad=True)
    value = read(memory, query, memory.initial(1))
    assert torch.equal(value, query)
    value.square().sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_r8_a_batch_of_different_lengths_equals_each_alone() -> None:
    memory, items = bank(2, 8, capacity=4), torch.randn(3, 5, 2, 8)
    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    _, state = unroll(memory, items, valid=valid)
    query = torch.randn(3, 2, 8)
    batched = read(memory, query, state)
    report = memory.inspect({"s": query}, torch.full((3,), 9.0), state)
    for row, length in enumerate((5, 3, 1)):
        _, alone = unroll(memory, items[row : row + 1, :length])
        expected = read(memory, query[row : row + 1], alone)
        assert torch.allclose(batched[row], expected[0], atol=1e-5)
        assert not report["s.attention"][row][..., min(length, 4) :].any()


# ---- consolidation --------------------------------------------------------------------------

M1 = frames([1, 0], [0, 1], [0.6, 0.8], [-1, 0])


def test_m1_most_similar_neighbours_merge() -> None:
    alike = similarity(M1[0, :-1], M1[0, 1:], "tokens")
    assert torch.allclose(alike, torch.tensor([0, 0.8, -0.6]), atol=1e-4)
    merged = [[1, 0], [0.3, 0.9], [-1, 0]]
    check(bank(capacity=3), M1, merged, [0, 1, 3])
    check(bank(capacity=3, merged_time="mean"), M1, merged, [0, 1.5, 3])


def test_m1_fifo() -> None:
    check(bank(capacity=3, overflow="fifo"), M1, [[0, 1], [0.6, 0.8], [-1, 0]], [1, 2, 3])


def test_m2_a_tie_merges_the_first_pair() -> None:
    items = frames([1, 0], [1, 0], [0, 1], [0, 1])
    check(bank(capacity=3), items, [[1, 0], [0, 1], [0, 1]], [0, 2, 3])


def test_m3_identical_frames() -> None:
    check(bank(capacity=2), frames(*[[2, 0]] * 4), [[2, 0], [2, 0]], [0, 3])


def test_m4_repeated_merges_weigh_later_frames_geometrically() -> None:
    items = frames([1, 0], [2, 0], [4, 0], [0, 1])
    check(bank(capacity=2), items, [[2.75, 0], [0, 1]], [0, 3])


def test_m4_counts_weigh_all_frames_alike() -> None:
    items = frames([1, 0], [2, 0], [4, 0], [0, 1])
    memory = bank(capacity=2, count_weighted=True)
    check(memory, items, [[7 / 3, 0], [0, 1]], [0, 3])
    assert push(memory, items)["s.items"].tolist() == [[3, 1]]


def test_m5_capacity_one_halves_towards_the_new_frame() -> None:
    items = frames([8, 1], [4, 1], [0, 1], [16, 1])
    check(bank(capacity=1), items, [[9.5, 1]], [0])
    check(bank(capacity=1, merged_time="mean"), items, [[9.5, 1]], [2.125])
    check(bank(capacity=1, overflow="fifo"), items, [[16, 1]], [3])


def test_m6_capacity_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="capacity must be >= 1 slot, got 0"):
        bank(capacity=0)
    with pytest.raises(ConfigError, match="memory=none"):
        bank().initial(1, capacity=0)


def test_m7_similarity_is_the_mean_over_tokens() -> None:
    left, right = torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([[2.0, 0], [0, -1]])
    assert float(similarity(left, right, "tokens")) == 0.0
    assert float(similarity(left, right, "entry")) == pytest.approx(0.6, abs=1e-4)


def test_m8_a_zero_token_has_similarity_zero() -> None:
    for kind in ("tokens", "entry"):
        assert float(similarity(torch.zeros(1, 2), torch.ones(1, 2), kind)) == 0.0
    items = frames([0, 0], [1, 0], [1, 0], [0, 0])
    check(bank(capacity=2), items, [[0.5, 0], [0, 0]], [0, 3])


def test_m9_nothing_changes_until_full() -> None:
    memory, items = bank(capacity=4), torch.randn(1, 4, 1, 2)
    for length in range(1, 5):
        state = push(memory, items[:, :length])
        assert int(state["s.count"]) == length
        assert torch.equal(state["s.tokens"][:, :length], items[:, :length])


@pytest.mark.parametrize("capacity", [1, 2, 3, 5])
def test_m10_length_first_time_and_order(capacity: int) -> None:
    memory, items = bank(capacity=capacity), torch.randn(1, 11, 1, 2)
    for length in range(1, 12):
        state = push(memory, items[:, :length])
        count = int(state["s.count"])
        times = state["s.time_s"][0, :count]
        assert count == min(length, capacity)
        assert times[0] == 0
        assert (times.diff() > 0).all()
        assert int(state["s.items"].sum()) == length
        assert int(state["s.overflow"]) == max(0, length - capacity)


def test_m11_streams_merge_their_own_pairs() -> None:
    config = PerceptualCognitiveConfig(capacity=3)
    memory = PerceptualCognitiveMemory({"per": (1, 2), "cog": (1, 2)}, config)
    near, far = [1.0, 0], [0, 1.0]
    items = {
        "per": frames(near, near, far, [-1.0, 0]),
        "cog": frames([-1.0, 0], far, near, near),
    }
    no = torch.zeros(1, 4, dtype=torch.bool)
    _, state = memory.unroll(items, torch.arange(4.0)[None], memory.initial(1), no, ~no)
    assert state["per.time_s"].tolist() == [[0, 2, 3]]
    assert state["cog.time_s"].tolist() == [[0, 1, 2]]


def test_m12_opposite_vectors_merge_to_zero_when_forced() -> None:
    check(bank(capacity=1), frames([1, 0], [-1, 0]), [[0, 0]], [0])


def test_m13_scale_changes_the_mean_but_not_the_pair() -> None:
    scaled = M1.clone()
    scaled[:, 1] *= 10
    check(bank(capacity=3), scaled, [[1, 0], [0.3, 5.4], [-1, 0]], [0, 1, 3])


# ---- episodes and batches -------------------------------------------------------------------


def first_at(length: int, *ticks: int) -> Tensor:
    first = torch.zeros(1, length, dtype=torch.bool)
    first[:, list(ticks)] = True
    return first


def depends(memory: PerceptualCognitiveMemory, items: Tensor, of: int, on: int, **kw) -> bool:
    """Whether the value at tick `of` changes with the frame at tick `on`."""
    changed = items.clone()
    changed[:, on] += 1
    before, after = unroll(memory, items, **kw)[0], unroll(memory, changed, **kw)[0]
    return not torch.allclose(before[:, of], after[:, of], atol=1e-4)


def test_e1_groups_of_two_episodes() -> None:
    memory, items = bank(1, 8, capacity=4), torch.randn(1, 4, 1, 8)
    first = first_at(4, 0, 2)
    value, state = unroll(memory, items, is_first=first)
    fused = GateFusion(8)(items, value)
    assert torch.equal(fused[:, [0, 2]], items[:, [0, 2]])
    assert depends(memory, items, 1, 0, is_first=first)
    assert depends(memory, items, 3, 2, is_first=first)
    assert not any(depends(memory, items, 3, on, is_first=first) for on in (0, 1))
    assert int(state["s.count"]) == 2
    assert torch.equal(state["s.tokens"][:, :2], items[:, 2:])
    assert not state["s.tokens"][:, 2:].any()


def test_e2_an_episode_goes_on_in_the_next_batch() -> None:
    memory, items = bank(1, 8, capacity=4), torch.randn(1, 6, 1, 8)
    _, state = unroll(memory, items[:, :3], is_first=first_at(3, 0, 2))
    assert int(state["s.count"]) == 1
    value, after = unroll(memory, items[:, 3:], state, is_first=first_at(3, 2))
    assert torch.allclose(value[:, 0], read(memory, items[:, 3], state), atol=1e-5)
    assert int(after["s.count"]) == 1
    assert torch.equal(after["s.tokens"][:, 0], items[:, 5])


def test_e3_a_new_episode_sees_nothing_of_the_old() -> None:
    memory, items = bank(1, 8, capacity=4), torch.randn(1, 3, 1, 8)
    _, state = unroll(memory, torch.randn(1, 4, 1, 8))
    value, after = unroll(memory, items, state, is_first=first_at(3, 0))
    expected, fresh = unroll(memory, items)
    assert torch.equal(value[:, 0], items[:, 0])
    assert torch.allclose(value, expected, atol=1e-6)
    assert all(torch.equal(after[k], fresh[k]) for k in fresh)


def test_e4_stored_tokens_carry_no_gradient_but_an_effect() -> None:
    memory = bank(1, 8)
    items = torch.randn(1, 2, 1, 8, requires_grad=True)
    value, state = unroll(memory, items)
    assert not state["s.tokens"].requires_grad
    value[:, 1].square().sum().backward()
    assert not items.grad[:, 0].any()
    assert items.grad[:, 1].any()
    assert depends(memory, items.detach(), 1, 0)


def test_e4_without_detach_the_gradient_arrives() -> None:
    memory = bank(1, 8, detach=False)
    items = torch.randn(1, 2, 1, 8, requires_grad=True)
    value, _ = unroll(memory, items)
    (value[:, 1] * torch.randn(1, 1, 8)).sum().backward()
    assert items.grad[:, 0].abs().max() > 1e-6


def test_e5_splitting_an_episode_changes_nothing() -> None:
    memory, items = bank(1, 8, capacity=3), torch.randn(1, 8, 1, 8)
    whole, _ = unroll(memory, items)
    time_s = torch.arange(8.0)[None]
    head, state = unroll(memory, items[:, :3], time_s=time_s[:, :3])
    tail, _ = unroll(memory, items[:, 3:], state, time_s=time_s[:, 3:])
    assert torch.allclose(torch.cat([head, tail], dim=1), whole, atol=1e-5)


def test_e6_a_group_within_capacity_never_merges() -> None:
    memory, items = bank(1, 8, capacity=4), torch.randn(1, 8, 1, 8)
    _, state = unroll(memory, items, is_first=first_at(8, 0, 4))
    assert int(state["s.overflow"]) == 0
    assert state["s.items"].tolist() == [[1, 1, 1, 1]]


def test_e7_interleaved_sessions_do_not_mix() -> None:
    memory, sessions = bank(1, 8, capacity=2), torch.randn(2, 1, 4, 1, 8)
    states = [memory.initial(1), memory.initial(1)]
    for t in range(4):
        for i in (0, 1):
            _, states[i] = memory.step(
                {"s": sessions[i][:, t]},
                torch.tensor([float(t)]),
                states[i],
                torch.tensor([False]),
            )
    for i in (0, 1):
        expected = push(memory, sessions[i])
        assert all(torch.equal(states[i][k], expected[k]) for k in expected)


def test_e8_after_a_reset_the_first_output_is_that_of_a_fresh_bank() -> None:
    memory, query = bank(1, 8), torch.randn(1, 1, 8)
    used = push(memory, torch.randn(1, 3, 1, 8))
    reset = torch.tensor([True])
    value, state = memory.step({"s": query}, torch.zeros(1), used, reset)
    fresh_value, fresh = memory.step({"s": query}, torch.zeros(1), memory.initial(1), ~reset)
    assert torch.equal(value["s"], query)
    assert torch.equal(value["s"], fresh_value["s"])
    assert all(torch.equal(state[k], fresh[k]) for k in fresh)


def test_e9_short_episodes_are_padded_not_repeated() -> None:
    """The original repeats the last frame up to the group size; here padding stores nothing."""
    memory, items = bank(1, 8, capacity=16), torch.randn(1, 5, 1, 8)
    padded = torch.cat([items, items[:, -1:].expand(-1, 11, -1, -1)], dim=1)
    valid = torch.arange(16)[None] < 5
    value, state = unroll(memory, padded, valid=valid)
    expected, alone = unroll(memory, items)
    assert torch.allclose(value[:, :5], expected, atol=1e-6)
    assert all(torch.equal(state[k], alone[k]) for k in alone)
    # The original's repeats, for comparison, share one time.
    repeated = torch.minimum(torch.arange(16.0), torch.tensor(4.0))[None]
    check_time_order(repeated, first_at(16, 0), torch.ones(1, 16, dtype=torch.bool))
    _, original = unroll(memory, padded, time_s=repeated)
    assert original["s.time_s"][0].tolist() == [0, 1, 2, 3, *[4] * 12]


def test_e10_frames_out_of_order_are_refused() -> None:
    time_s = torch.tensor([[0.0, 0.4, 0.2, 0.6]])
    yes, no = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
    with pytest.raises(DataError, match=r"row 0, tick 2: time goes back from 0.4 s to 0.2 s"):
        check_time_order(time_s, no, yes)
    check_time_order(time_s, first_at(4, 2), yes)
    check_time_order(time_s, no, torch.tensor([[True, True, False, True]]))


def test_frame_indices_can_be_expressed() -> None:
    """Published training encodes frame indices: seconds times the control rate."""
    seconds, frame_index = bank(1, 8, time_scale_hz=TIME_SCALE_HZ), bank(1, 8)
    items, index = torch.randn(1, 5, 1, 8), torch.arange(5.0)[None]
    one, _ = unroll(seconds, items, time_s=index / TIME_SCALE_HZ)
    other, _ = unroll(frame_index, items, time_s=index)
    assert torch.allclose(one, other, atol=1e-5)
