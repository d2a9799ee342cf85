"""What every memory must do. Add a `MemoryCase` to a list and subclass `MemoryContract`.

CASES = [MemoryCase("mine", lambda detach: MyMemory(STREAMS, detach=detach))]

@pytest.mark.parametrize("case", CASES, ids=str)
class TestMine(MemoryContract):
    pass
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from embodied.core.types import State, Streams
from embodied.memory.base import Memory
from tests.contracts.tools import (
    BATCH,
    TOLERANCE,
    assert_close,
    assert_equal,
    clone,
    fill,
    no_reset,
    plain_ticks,
    random_ticks,
    run,
    run_state,
)

property_test = settings(max_examples=12, deadline=None, derandomize=True)
lengths = st.integers(1, 9)
seeds = st.integers(0, 10_000)


@dataclasses.dataclass
class MemoryCase:
    """One memory under test.

    Attributes:
      name: Test id.
      build: (detach) -> memory over `STREAMS`; the contract seeds and evaluates it.
      remembers: False for a memory that stores nothing.
      detachable: Has a detach option.
      poison: (state) -> the same memory with garbage in its unused slots; None without slots.
      exportable: `step` must go through torch.export.
    """

    name: str
    build: Callable[[bool], Memory]
    remembers: bool = True
    detachable: bool = True
    poison: Callable[[State], State] | None = None
    exportable: bool = True

    def __str__(self) -> str:
        return self.name

    def make(self, detach: bool = False) -> Memory:
        torch.manual_seed(0)
        return self.build(detach).eval()

    def exact(self) -> Memory:
        """Returns it in float64, in which two ways of one computation must agree.

        In float32 they differ by rounding, as each processor adds in its own order.
        """
        return self.make().double()


class MemoryContract:
    """The rules of DESIGN 4 and of `embodied.memory.base`."""

    # ---- state is a value ---------------------------------------------------------------

    def test_initial_state_has_rows_first_and_plain_dtypes(self, case: MemoryCase) -> None:
        memory = case.make()
        for batch in (1, 4):
            for name, tensor in memory.initial(batch).items():
                assert tensor.shape[0] == batch, name
                assert tensor.dtype in (torch.float32, torch.int64, torch.bool), name
                assert not tensor.requires_grad, name

    def test_shapes_and_dtypes_never_change(self, case: MemoryCase) -> None:
        memory = case.make()
        state = start = memory.initial(BATCH)
        ticks = plain_ticks(memory, 7)
        for t in range(ticks.length):
            _, state = memory.step(ticks.query(t), ticks.time_s[:, t], state, no_reset())
            described = {k: (v.shape, v.dtype) for k, v in state.items()}
            assert described == {k: (v.shape, v.dtype) for k, v in start.items()}

    def test_given_state_is_not_changed(self, case: MemoryCase) -> None:
        memory = case.make()
        state = fill(memory)
        before = clone(state)
        ticks = plain_ticks(memory, 2, seed=2)
        reset = torch.tensor([True, False, False])
        value, pending = memory.read(ticks.query(0), ticks.time_s[:, 0], state, reset)
        memory.write(pending, value, ticks.time_s[:, 0], state)
        run(memory, ticks, state)
        memory.clear(state, reset)
        assert_equal(state, before)

    def test_no_state_hides_in_the_module(self, case: MemoryCase) -> None:
        """Two sessions interleaved give what they give apart."""
        memory = case.make()
        first, second = plain_ticks(memory, 6, seed=1), plain_ticks(memory, 6, seed=2)
        alone = [run(memory, ticks, memory.initial(BATCH)) for ticks in (first, second)]
        states = [memory.initial(BATCH), memory.initial(BATCH)]
        for t in range(6):
            for i, ticks in enumerate((first, second)):
                value, states[i] = memory.step(
                    ticks.query(t), ticks.time_s[:, t], states[i], no_reset()
                )
                assert_close(value, {k: v[:, t] for k, v in alone[i][0].items()})
        for state, (_, expected) in zip(states, alone, strict=True):
            assert_close(state, expected)

    # ---- reading ------------------------------------------------------------------------

    def test_value_has_the_shape_of_the_query(self, case: MemoryCase) -> None:
        memory = case.make()
        query = plain_ticks(memory, 1).query(0)
        value, pending = memory.read(query, torch.zeros(BATCH), fill(memory), no_reset())
        assert {k: v.shape for k, v in value.items()} == {k: v.shape for k, v in query.items()}
        assert pending["reset"].shape == (BATCH,)
        assert all(torch.isfinite(v).all() for v in value.values())

    def test_empty_memory_returns_the_query_with_finite_gradients(self, case: MemoryCase) -> None:
        memory = case.make()
        query = plain_ticks(memory, 1).query(0)
        query = {name: tensor.requires_grad_() for name, tensor in query.items()}
        value, _ = memory.read(query, torch.zeros(BATCH), memory.initial(BATCH), no_reset())
        assert_equal(value, query)
        sum(tensor.square().sum() for tensor in value.values()).backward()
        for name, tensor in query.items():
            assert torch.equal(tensor.grad, 2 * tensor.detach()), name
        for name, parameter in memory.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name

    def test_what_was_written_is_read(self, case: MemoryCase) -> None:
        memory = case.make()
        ticks = plain_ticks(memory, 3)
        value, _ = memory.read(ticks.query(2), ticks.time_s[:, 2], fill(memory), no_reset())
        other, _ = memory.read(ticks.query(2), ticks.time_s[:, 2], fill(memory, seed=9), no_reset())
        for name, query in ticks.query(2).items():
            if case.remembers:
                assert (value[name] - query).abs().max() > 1e-4, name
                assert (value[name] - other[name]).abs().max() > 1e-4, name
            else:
                assert torch.equal(value[name], query), name

    def test_a_tick_never_sees_itself_or_the_future(self, case: MemoryCase) -> None:
        """What is returned at t depends on items before t alone, apart from its own query."""
        memory = case.make()
        ticks = plain_ticks(memory, 5)
        changed = plain_ticks(memory, 5, seed=8)
        later = {
            name: torch.cat([tensor[:, :3], changed.items[name][:, 3:]], dim=1)
            for name, tensor in ticks.items.items()
        }
        value, _ = run(memory, ticks, memory.initial(BATCH))
        mixed, _ = run(memory, dataclasses.replace(ticks, items=later), memory.initial(BATCH))
        assert_close(
            {k: v[:, :3] for k, v in value.items()}, {k: v[:, :3] for k, v in mixed.items()}
        )
        # The item of this tick goes in at `write`, after the value is known.
        state = fill(memory)
        read, pending = memory.read(ticks.query(0), ticks.time_s[:, 0], state, no_reset())
        memory.write(pending, changed.query(0), ticks.time_s[:, 0], state)
        again, _ = memory.read(ticks.query(0), ticks.time_s[:, 0], state, no_reset())
        assert_equal(read, again)

    def test_unused_slots_are_never_read(self, case: MemoryCase) -> None:
        if case.poison is None:
            pytest.skip("this memory has no slots")
        memory = case.make()
        for state in (memory.initial(BATCH), fill(memory, length=1), fill(memory, length=2)):
            ticks = plain_ticks(memory, 1, seed=3)
            clean, _ = memory.read(ticks.query(0), torch.ones(BATCH), state, no_reset())
            poisoned = case.poison(clone(state))
            dirty, _ = memory.read(ticks.query(0), torch.ones(BATCH), poisoned, no_reset())
            assert_equal(clean, dirty)

    # ---- rows ---------------------------------------------------------------------------

    @given(seed=seeds, length=lengths)
    @property_test
    def test_rows_commute_with_permutation(self, case: MemoryCase, seed: int, length: int) -> None:
        memory = case.exact()
        ticks = random_ticks(memory, length, seed)
        order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(seed))
        value, state = run(memory, ticks, memory.initial(BATCH))
        shuffled, after = run(memory, ticks.rows(order), memory.initial(BATCH))
        assert_close({k: v[order] for k, v in value.items()}, shuffled)
        assert_close({k: v[order] for k, v in state.items()}, after)

    @given(seed=seeds, length=lengths)
    @property_test
    def test_alone_equals_in_a_batch(self, case: MemoryCase, seed: int, length: int) -> None:
        memory = case.exact()
        ticks = random_ticks(memory, length, seed)
        value, state = run(memory, ticks, memory.initial(BATCH))
        for row in range(BATCH):
            only = torch.tensor([row])
            alone, after = run(memory, ticks.rows(only), memory.initial(1))
            assert_close(alone, {k: v[only] for k, v in value.items()})
            assert_close(after, {k: v[only] for k, v in state.items()})

    @given(seed=seeds, length=lengths)
    @property_test
    def test_a_reset_row_equals_a_fresh_row(self, case: MemoryCase, seed: int, length: int) -> None:
        memory = case.exact()
        reset = torch.tensor([False, True, False])
        used, fresh = fill(memory), memory.initial(BATCH)
        mixed = {k: torch.stack([v[0], fresh[k][1], v[2]]) for k, v in used.items()}
        assert_equal(memory.clear(used, reset), mixed)
        ticks = plain_ticks(memory, length, seed)
        for t in range(length):
            query, time_s = ticks.query(t), ticks.time_s[:, t]
            value, used = memory.step(query, time_s, used, reset if t == 0 else no_reset())
            expected, mixed = memory.step(query, time_s, mixed, no_reset())
            assert_close(value, expected)
            assert_close(used, mixed)
            if t == 0:
                assert torch.equal(value["perceptual"][1], query["perceptual"][1])

    # ---- unroll -------------------------------------------------------------------------

    @given(seed=seeds, length=lengths, masked=st.booleans(), filled=st.booleans())
    @property_test
    def test_unroll_equals_steps(
        self, case: MemoryCase, seed: int, length: int, masked: bool, filled: bool
    ) -> None:
        memory = case.exact()
        ticks = random_ticks(memory, length, seed)
        state = fill(memory) if filled else memory.initial(BATCH)
        mask = ticks.read_mask if masked else None
        value, after = run(memory, ticks, state, read_mask=mask)
        use = ticks.valid if mask is None else ticks.valid & mask
        for t in range(length):
            valid, query = ticks.valid[:, t], ticks.query(t)
            stepped, written = memory.step(
                query, ticks.time_s[:, t], state, ticks.is_first[:, t] & valid
            )
            state = {
                k: torch.stack([(written if ok else state)[k][b] for b, ok in enumerate(valid)])
                for k in state
            }
            for name, tensor in value.items():
                expected = torch.where(use[:, t, None, None], stepped[name], query[name])
                assert (tensor[:, t] - expected).abs().max() <= TOLERANCE, (name, t)
        assert_close(after, state)

    @given(seed=seeds, length=lengths)
    @property_test
    def test_unroll_stores_what_item_of_says(
        self, case: MemoryCase, seed: int, length: int
    ) -> None:
        memory = case.exact()
        ticks = random_ticks(memory, length, seed)

        def mean(query: Streams, value: Streams) -> Streams:
            return {name: 0.5 * (query[name] + value[name]) for name in query}

        state = memory.initial(BATCH)
        value, after = run(memory, ticks, state, item_of=mean)
        expected, stepped = Memory.unroll(
            memory, ticks.items, ticks.time_s, state, ticks.is_first, ticks.valid, None, mean
        )
        assert_close(value, expected)
        assert_close(after, stepped)

    @given(seed=seeds, length=st.integers(2, 9), cut=st.integers(1, 8))
    @property_test
    def test_a_cut_segment_equals_the_whole(
        self, case: MemoryCase, seed: int, length: int, cut: int
    ) -> None:
        memory, cut = case.exact(), min(cut, length - 1)
        ticks = random_ticks(memory, length, seed)
        value, state = run(memory, ticks, memory.initial(BATCH))
        head, middle = run(memory, ticks.span(0, cut), memory.initial(BATCH))
        tail, after = run(memory, ticks.span(cut, length), middle)
        assert_close(value, {k: torch.cat([head[k], tail[k]], dim=1) for k in value})
        assert_close(state, after)

    def test_gradients_of_unroll_equal_those_of_steps(self, case: MemoryCase) -> None:
        memory = case.exact()
        results = []
        for unroll in (memory.unroll, lambda *args: Memory.unroll(memory, *args)):
            ticks = random_ticks(memory, 7, seed=4)
            items = {name: tensor.requires_grad_() for name, tensor in ticks.items.items()}
            memory.zero_grad()
            value, state = unroll(
                items, ticks.time_s, memory.initial(BATCH), ticks.is_first, ticks.valid
            )
            torch.manual_seed(0)
            stored = [tensor for tensor in state.values() if tensor.requires_grad]
            loss = sum((tensor * torch.randn_like(tensor)).sum() for tensor in value.values())
            (loss + sum(tensor.sum() for tensor in stored)).backward()
            gradients = {n: p.grad for n, p in memory.named_parameters() if p.grad is not None}
            results.append({**gradients, **{n: t.grad for n, t in items.items()}})
        for name, gradient in results[1].items():
            scale = 1 + gradient.abs().max()
            assert (results[0][name] - gradient).abs().max() <= TOLERANCE * scale, name

    def test_invalid_ticks_change_nothing(self, case: MemoryCase) -> None:
        memory = case.exact()
        state = fill(memory)
        ticks = plain_ticks(memory, 6, seed=5)
        valid = torch.zeros_like(ticks.valid)
        valid[0, :4] = True
        noisy = {k: torch.where(valid[..., None, None], v, 1e4) for k, v in ticks.items.items()}
        first = torch.rand(valid.shape) < 0.5
        first &= ~valid
        padded = dataclasses.replace(ticks, items=noisy, valid=valid, is_first=first)
        value, after = run(memory, padded, state)
        for name in value:
            assert torch.equal(value[name][1:], noisy[name][1:]), name
        assert_equal({k: v[1:] for k, v in after.items()}, {k: v[1:] for k, v in state.items()})
        whole, expected = run(memory, ticks.span(0, 4), state)
        assert_close({k: v[:1, :4] for k, v in value.items()}, {k: v[:1] for k, v in whole.items()})
        assert_close({k: v[:1] for k, v in after.items()}, {k: v[:1] for k, v in expected.items()})

    # ---- gradients ----------------------------------------------------------------------

    @pytest.mark.parametrize("unrolled", [False, True])
    def test_gradient_reaches_a_written_item_unless_detached(
        self, case: MemoryCase, unrolled: bool
    ) -> None:
        if not case.remembers or not case.detachable:
            pytest.skip("this memory stores nothing or has no detach option")
        for detach in (False, True):
            memory = case.make(detach)
            ticks = plain_ticks(memory, 2)
            item = {k: v[:, 0].clone().requires_grad_() for k, v in ticks.items.items()}
            query = ticks.query(1)
            if unrolled:
                items = {k: torch.stack([item[k], query[k]], dim=1) for k in query}
                value, _ = run(
                    memory, dataclasses.replace(ticks, items=items), memory.initial(BATCH)
                )
                value = {k: v[:, 1] for k, v in value.items()}
            else:
                state = memory.initial(BATCH)
                _, pending = memory.read(query, ticks.time_s[:, 0], state, no_reset())
                state = memory.write(pending, item, ticks.time_s[:, 0], state)
                value, _ = memory.read(query, ticks.time_s[:, 1], state, no_reset())
            torch.manual_seed(0)
            sum((v * torch.randn_like(v)).sum() for v in value.values()).backward()
            for name, tensor in item.items():
                if detach:
                    assert tensor.grad is None or not tensor.grad.any(), name
                else:
                    assert tensor.grad.abs().max() > 0, name

    def test_parameters_learn_from_a_filled_memory(self, case: MemoryCase) -> None:
        memory = case.make()
        value, _ = run(memory, plain_ticks(memory, 4), memory.initial(BATCH))
        if not case.remembers:
            assert not list(memory.parameters())
            return
        torch.manual_seed(0)
        sum((v * torch.randn_like(v)).sum() for v in value.values()).backward()
        for name, parameter in memory.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    # ---- capacity, bytes, files ---------------------------------------------------------

    @given(seed=seeds, capacity=st.integers(1, 5), length=st.integers(1, 12))
    @property_test
    def test_capacity_is_an_argument_and_is_never_exceeded(
        self, case: MemoryCase, seed: int, capacity: int, length: int
    ) -> None:
        memory = case.make()
        start = memory.initial(BATCH, capacity)
        value, state = run(memory, random_ticks(memory, length, seed), start)
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in start.items()}
        assert memory.capacity_of(state) in (None, capacity)
        assert memory.nbytes_filled(state) <= memory.nbytes(BATCH, capacity)
        assert all(torch.isfinite(tensor).all() for tensor in value.values())

    def test_a_larger_state_works_with_the_same_weights(self, case: MemoryCase) -> None:
        """Until the small state is full, its size changes nothing."""
        memory = case.make()
        ticks = plain_ticks(memory, 3)
        small, _ = run(memory, ticks, memory.initial(BATCH, 3))
        large, state = run(memory, ticks, memory.initial(BATCH, 40))
        assert_close(small, large)
        longer, _ = run(memory, plain_ticks(memory, 12), state)
        assert all(torch.isfinite(tensor).all() for tensor in longer.values())

    def test_bytes_are_those_of_the_state(self, case: MemoryCase) -> None:
        memory = case.make()
        state = memory.initial(BATCH)
        allocated = sum(t.numel() * t.element_size() for t in state.values())
        assert memory.nbytes(BATCH) == allocated == BATCH * memory.nbytes(1)
        filled = [memory.nbytes_filled(fill(memory, length)) for length in (1, 2, 3)]
        assert memory.nbytes_filled(state) <= filled[0] <= filled[1] <= filled[2] <= allocated

    def test_save_load_continue_equals_uninterrupted(self, case: MemoryCase) -> None:
        memory = case.make()
        ticks = plain_ticks(memory, 8)
        whole, expected = run(memory, ticks.span(4, 8), run_state(memory, ticks.span(0, 4)))
        state = run_state(memory, ticks.span(0, 4))
        saved = safetensors.torch.save({k: v.contiguous() for k, v in state.items()})
        weights = safetensors.torch.save(memory.state_dict())
        torch.manual_seed(123)
        other = case.build(False).eval()
        other.load_state_dict(safetensors.torch.load(weights))
        value, after = run(other, ticks.span(4, 8), safetensors.torch.load(saved))
        assert_equal(value, whole)
        assert_equal(after, expected)

    def test_float64_time_is_accepted(self, case: MemoryCase) -> None:
        memory = case.make()
        ticks = plain_ticks(memory, 4)
        value, state = run(memory, ticks, memory.initial(BATCH))
        precise = dataclasses.replace(ticks, time_s=ticks.time_s.double())
        other, after = run(memory, precise, memory.initial(BATCH))
        assert_close(value, other)
        assert_close(state, after)

    def test_step_exports(self, case: MemoryCase) -> None:
        """No data-dependent shape or branch: torch.export takes a step as it is."""
        if not case.exportable:
            pytest.skip("not exported")
        memory = case.make()
        state, ticks = fill(memory, 2), plain_ticks(memory, 6)
        step = _Step(memory)
        inputs = (ticks.query(0), ticks.time_s[:, 0], state, no_reset())
        program = torch.export.export(step, inputs).module()
        for t in range(6):
            reset = torch.tensor([t == 3, False, False])
            inputs = (ticks.query(t), ticks.time_s[:, t], state, reset)
            value, after = step(*inputs)
            exported, state = program(*inputs)
            assert_close(value, exported)
            assert_close(after, state)


class _Step(torch.nn.Module):
    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def forward(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, State]:
        return self.memory.step(query, time_s, state, reset)
