"""What every memory of vectors must do, beyond what its adapter shows. Used like `memory.py`:

CASES = [VectorCase("mine", lambda: MyVectors(8))]

@pytest.mark.parametrize("case", CASES, ids=str)
class TestMine(VectorContract):
    pass
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from embodied.core.types import State
from embodied.memory.vector import Record, VectorMemory, filled_before, state_bytes
from embodied.nn.position import TimeEncoding
from tests.contracts.memory import seeds
from tests.contracts.tools import (
    BATCH,
    PERIOD_S,
    TOLERANCE,
    assert_close,
    assert_equal,
    clone,
    no_reset,
)

property_test = settings(max_examples=6, deadline=None, derandomize=True)
lengths = st.integers(1, 24)


@dataclasses.dataclass
class VectorCase:
    """One memory under test.

    Attributes:
      name: Test id.
      build: () -> memory; the contract seeds and evaluates it.
      skips: Takes notice of ``read_mask``.
    """

    name: str
    build: Callable[[], VectorMemory]
    skips: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self) -> VectorMemory:
        torch.manual_seed(0)
        return self.build().eval()


@dataclasses.dataclass
class Vectors:
    """Inputs of T ticks."""

    items: Tensor
    time_s: Tensor
    is_first: Tensor
    valid: Tensor
    read_mask: Tensor
    wanted: Tensor

    @property
    def length(self) -> int:
        return self.time_s.shape[1]

    def map(self, function: Callable[[Tensor], Tensor]) -> Vectors:
        fields = {f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return Vectors(**fields)


def random_vectors(
    memory: VectorMemory, length: int, seed: int, batch: int = BATCH, resets: float = 0.12
) -> Vectors:
    """Returns ticks with some resets, holes, skipped reads and unwanted values."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(batch, length, memory.width, generator=generator)
    chance = torch.rand(4, batch, length, generator=generator)
    time_s = PERIOD_S * torch.arange(length).expand(batch, length)
    first, valid = chance[0] < resets, chance[1] < 0.85
    return Vectors(items, time_s, first, valid, chance[2] < 0.6, chance[3] < 0.3)


def act(
    memory: VectorMemory, ticks: Vectors, state: State, masked: bool = False, donate: bool = False
) -> tuple[Tensor, State, Record]:
    """Acts tick by tick; returns values [B, T, V], the state after, and the record."""
    values, records = [], []
    for t in range(ticks.length):
        valid, query = ticks.valid[:, t], ticks.items[:, t]
        mask = ticks.read_mask[:, t] if masked else None
        reset = ticks.is_first[:, t] & valid
        value, pending = memory.read(query, ticks.time_s[:, t], state, reset, mask)
        before = clone(state) if donate else state
        written = memory.write(pending, query, ticks.time_s[:, t], state, donate)
        keep = {k: valid.view(-1, *[1] * (v.dim() - 1)) for k, v in written.items()}
        state = {k: torch.where(keep[k], written[k], before[k]) for k in written}
        values.append(torch.where(valid[:, None], value, query))
        records.append(pending["record"])
    names = records[0]
    record = {name: torch.stack([r[name] for r in records], dim=1) for name in names}
    return torch.stack(values, dim=1), state, record


def learn(memory: VectorMemory, ticks: Vectors, state: State, **options: object):
    return memory.unroll(ticks.items, ticks.time_s, state, ticks.is_first, ticks.valid, **options)


def assert_near(found: Tensor, expected: Tensor, steps: float = 1.0) -> None:
    """Equal to `steps` times `TOLERANCE` of the largest number; sums of gradients need more."""
    assert found.shape == expected.shape
    if not expected.numel():
        return
    scale = 1 + expected.detach().abs().max()
    assert (found - expected).abs().max() <= steps * TOLERANCE * scale


def filled_state(memory: VectorMemory, seed: int, length: int = 17) -> State:
    with torch.no_grad():
        ticks = random_vectors(memory, length, seed, resets=0.03)
        return act(memory, ticks, memory.initial(BATCH))[1]


class VectorContract:
    """The rules of `embodied.memory.vector`."""

    @given(seed=seeds, length=lengths, masked=st.booleans(), filled=st.booleans())
    @property_test
    def test_unroll_equals_steps(
        self, case: VectorCase, seed: int, length: int, masked: bool, filled: bool
    ) -> None:
        """Both ways to learn: everything computed again, and from what was recorded."""
        memory = case.make()
        ticks = random_vectors(memory, length, seed)
        start = filled_state(memory, seed + 1) if filled else memory.initial(BATCH)
        value, state, record = act(memory, ticks, start, masked)
        mask = ticks.read_mask if masked else None
        for kept in (None, record):
            learnt, after = learn(memory, ticks, start, read_mask=mask, record=kept)
            assert_near(learnt, value)
            assert_close(after, state)

    @given(seed=seeds, length=lengths, recorded=st.booleans(), chance=st.floats(0, 1))
    @property_test
    def test_unwanted_values_are_left_out(
        self, case: VectorCase, seed: int, length: int, recorded: bool, chance: float
    ) -> None:
        memory = case.make()
        ticks = random_vectors(memory, length, seed)
        wanted = torch.rand(BATCH, length, generator=torch.Generator().manual_seed(seed)) < chance
        start = filled_state(memory, seed + 1)
        value, state, record = act(memory, ticks, start, masked=True)
        options = {"record": record} if record and recorded else {}
        if options:  # what was recorded stands for their items too
            ticks.items = torch.where(wanted[..., None], ticks.items, 9.0)
        learnt, after = learn(
            memory, ticks, start, read_mask=ticks.read_mask, wanted=wanted, **options
        )
        expected = torch.where(wanted[..., None], value, ticks.items)
        assert_near(learnt, expected)
        assert torch.equal(learnt[~wanted], ticks.items[~wanted])
        assert_close(after, state)

    @given(seed=seeds, length=lengths)
    @property_test
    def test_something_else_may_be_stored(self, case: VectorCase, seed: int, length: int) -> None:
        memory = case.make()
        ticks, other = (random_vectors(memory, length, s) for s in (seed, seed + 1))
        start = filled_state(memory, seed + 2)
        learnt, after = learn(memory, ticks, start, stored=other.items)
        state = start
        for t in range(length):
            valid, now = ticks.valid[:, t], ticks.time_s[:, t]
            value, pending = memory.read(
                ticks.items[:, t], now, state, ticks.is_first[:, t] & valid
            )
            written = memory.write(pending, other.items[:, t], now, state)
            state = {
                k: torch.stack([(written if ok else state)[k][b] for b, ok in enumerate(valid)])
                for k in state
            }
            assert_near(learnt[:, t], torch.where(valid[:, None], value, ticks.items[:, t]))
        assert_close(after, state)

    def test_what_is_stored_is_the_item_s_alone(self, case: VectorCase) -> None:
        """Whatever was asked; only what was read may leave a trace beside it."""
        memory, reset = case.make(), torch.tensor([False, True, False])
        state = filled_state(memory, 1)
        query, item = torch.randn(2, BATCH, memory.width)
        now = torch.full((BATCH,), 9.0)
        _, pending = memory.read(query, now, state, reset)
        written = memory.write(pending, item, now, state)
        _, stepped = memory.step(item, now, state, reset)
        assert written.keys() == stepped.keys()
        by_reads = any(name.endswith(".selected") for name in written)
        for name in written:
            if not by_reads or name.endswith((".window", "count")):
                assert_near(written[name].double(), stepped[name].double())

    @given(seed=seeds, length=lengths)
    @property_test
    def test_stale_records_mean_the_same_to_one_tick_and_to_all(
        self, case: VectorCase, seed: int, length: int
    ) -> None:
        """What was stored is the record's; the present of each tick is of the weights now."""
        memory = case.make()
        ticks, start = random_vectors(memory, length, seed), filled_state(memory, seed + 1)
        record = act(memory, ticks, start)[2]
        with torch.no_grad():
            for parameter in memory.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        results = []
        for tick in (None, length - 1):
            wanted = torch.zeros_like(ticks.valid)
            wanted[:, slice(None) if tick is None else tick] = True
            items = ticks.items.clone().requires_grad_()
            mine = dataclasses.replace(ticks, items=items)
            value, _ = learn(memory, mine, start, wanted=wanted, record=record)
            memory.zero_grad()
            (value[:, -1] * value[:, -1].detach().cos()).sum().backward()
            gradients = {n: p.grad for n, p in memory.named_parameters() if p.grad is not None}
            results.append((value[:, -1], {"items": items.grad, **gradients}))
        (every, all_gradients), (single, gradients) = results
        assert_near(single, every)
        for name, gradient in gradients.items():
            assert_near(gradient, all_gradients[name], 20.0)

    @given(seed=seeds, length=lengths)
    @property_test
    def test_donated_states_hold_the_same(self, case: VectorCase, seed: int, length: int) -> None:
        memory = case.make()
        ticks = random_vectors(memory, length, seed)
        start = filled_state(memory, seed + 1)
        with torch.no_grad():
            value, state, _ = act(memory, ticks, start, masked=True)
            donated, after, _ = act(memory, ticks, clone(start), masked=True, donate=True)
        assert_equal({"": donated}, {"": value})
        assert_equal(after, state)

    def test_a_given_state_is_not_changed(self, case: VectorCase) -> None:
        memory = case.make()
        start = filled_state(memory, 1)
        before = clone(start)
        ticks = random_vectors(memory, 9, 2)
        act(memory, ticks, start)
        learn(memory, ticks, start)
        act(memory, ticks, start, donate=True)  # with gradients nothing is donated
        assert_equal(start, before)

    def test_a_reset_row_equals_a_fresh_row(self, case: VectorCase) -> None:
        memory = case.make()
        used, fresh = filled_state(memory, 1), memory.initial(BATCH)
        reset = torch.tensor([False, True, False])
        mixed = {k: torch.stack([v[0], fresh[k][1], v[2]]) for k, v in used.items()}
        ticks = random_vectors(memory, 19, 3, resets=0.0)
        for t in range(ticks.length):
            now, query = ticks.time_s[:, t], ticks.items[:, t]
            value, used = memory.step(query, now, used, reset & (t == 0))
            expected, mixed = memory.step(query, now, mixed, no_reset())
            assert torch.equal(value, expected)
            assert_equal(used, mixed)

    @given(seed=seeds, length=lengths)
    @property_test
    def test_filled_is_known_without_running(
        self, case: VectorCase, seed: int, length: int
    ) -> None:
        memory = case.make()
        ticks = random_vectors(memory, length, seed)
        state = start = filled_state(memory, seed + 1)
        known = filled_before(memory.filled(start), ticks.is_first, ticks.valid)
        for t in range(length):
            one = ticks.map(lambda x, t=t: x[:, t : t + 1])
            reset = one.is_first[:, 0] & one.valid[:, 0]
            assert torch.equal(known[:, t], memory.filled(state) & ~reset)
            state = act(memory, one, state)[1]

    def test_when_something_was_stored_matters_where_time_is_encoded(
        self, case: VectorCase
    ) -> None:
        memory = case.make()
        encoded = any(isinstance(module, TimeEncoding) for module in memory.modules())
        ticks = random_vectors(memory, 3, 4, resets=0.0)  # too few to push anything out
        ticks.valid[:] = True
        late = dataclasses.replace(ticks, time_s=ticks.time_s**2)
        late.time_s[:, -1] = ticks.time_s[:, -1]  # the present, which reads, is as it was
        for run in (act, learn):
            values = [run(memory, some, memory.initial(BATCH))[0][:, -1] for some in (ticks, late)]
            assert torch.equal(*values) != encoded

    def test_the_record_is_as_described(self, case: VectorCase) -> None:
        memory = case.make()
        _, pending = memory.read(
            torch.randn(BATCH, memory.width), torch.zeros(BATCH), memory.initial(BATCH), no_reset()
        )
        shapes = {name: tuple(tensor.shape) for name, tensor in pending["record"].items()}
        assert shapes == {n: (BATCH, *shape) for n, shape in memory.record_spec().items()}
        assert not any(tensor.requires_grad for tensor in pending["record"].values())

    def test_bytes(self, case: VectorCase) -> None:
        memory = case.make()
        state = memory.initial(BATCH)
        assert memory.nbytes(BATCH) == state_bytes(state) == BATCH * memory.nbytes(1)
        assert memory.nbytes_filled(state) <= memory.nbytes_filled(filled_state(memory, 1))
        assert memory.nbytes_filled(filled_state(memory, 1)) <= memory.nbytes(BATCH)

    def test_masked_reads_are_skipped_or_not(self, case: VectorCase) -> None:
        memory = case.make()
        state = filled_state(memory, 1)
        query, now = torch.randn(BATCH, memory.width), torch.zeros(BATCH)
        value, _ = memory.read(query, now, state, no_reset())
        masked, _ = memory.read(query, now, state, no_reset(), no_reset())
        assert torch.equal(value, masked) != case.skips
        some = torch.tensor([True, False, True])
        mixed, _ = memory.read(query, now, state, no_reset(), some)
        expected = torch.where(some[:, None], value, masked)
        assert_near(mixed, expected)

    @pytest.mark.parametrize("recorded", [False, True])
    def test_whole_rows_with_masks_learn_the_same(
        self, case: VectorCase, recorded: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a CPU shapes follow the data; elsewhere everything is computed and masked."""
        memory = case.make()
        ticks = random_vectors(memory, 23, 5)
        start = filled_state(memory, 4)
        record = act(memory, ticks, start, masked=True)[2]
        kept = {"record": record} if recorded else {}
        results = []
        for looks in (True, False):
            look_at_data(monkeypatch, looks)
            memory.zero_grad()
            items = ticks.items.clone().requires_grad_()
            mine = dataclasses.replace(ticks, items=items)
            value, after = learn(
                memory, mine, start, read_mask=ticks.read_mask, wanted=ticks.wanted, **kept
            )
            (value * value.detach().cos()).sum().backward()
            gradients = {n: p.grad for n, p in memory.named_parameters() if p.grad is not None}
            results.append(({"": value, **after}, {"": items.grad, **gradients}))
        for name, tensor in results[0][0].items():
            assert_near(results[1][0][name].double(), tensor.double())
        for name, gradient in results[0][1].items():
            assert_near(results[1][1][name], gradient, 5.0)
        if memory.record_spec():  # acting too
            look_at_data(monkeypatch, False)
            with torch.no_grad():
                assert_close(act(memory, ticks, clone(start), True, donate=True)[1], after)


def look_at_data(monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
    """Makes every module of memory see (or not see) the values of tensors."""
    import importlib

    names = ("vector", "packed", "layered", "chunk_layer", "chunk_slots", "chunk_history")
    for name in (*names, "recurrent"):
        module = importlib.import_module(f"embodied.memory.{name}")
        if hasattr(module, "looks_at_data"):
            monkeypatch.setattr(module, "looks_at_data", lambda _: looks)
