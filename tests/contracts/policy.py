"""What every policy must do. Add a `PolicyCase` to a list and subclass `PolicyContract`.

CASES = [PolicyCase("mine", MyPolicy)]

@pytest.mark.parametrize("case", CASES, ids=str)
class TestMine(PolicyContract):
    pass
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import Tensor

from embodied.core.policy import Policy, state_nbytes, take_rows
from embodied.core.rng import NO_NOISE
from embodied.core.specs import DISCRETE, KEYFRAME, PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Working
from tests.contracts.segments import (
    TICKS,
    Extras,
    at,
    filled,
    fresh_time,
    noise,
    random_segment,
    roll,
)
from tests.contracts.tools import (
    BATCH,
    TOLERANCE,
    NoCopies,
    assert_close,
    assert_equal,
    clone,
    no_reset,
)


@dataclasses.dataclass
class PolicyCase:
    """One policy under test.

    Attributes:
      name: Test id.
      build: () -> policy; the contract seeds and evaluates it.
      imitates: Has `loss`.
      reinforces: Has `evaluate`.
      remembers: False for a memoryless twin.
      extras: (policy, batch, ticks, generator) -> ``Segment.extras`` its losses need.
      exportable: `step` must go through torch.export.
    """

    name: str
    build: Callable[[], Policy]
    imitates: bool = True
    reinforces: bool = False
    remembers: bool = True
    extras: Extras | None = None
    exportable: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self) -> Policy:
        """Returns the policy with noise on its weights: zero initialisation hides faults."""
        torch.manual_seed(0)
        policy = self.build().eval()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return policy

    def exact(self) -> Policy:
        """Returns it in float64, in which two ways of one computation must agree.

        In float32 they differ by rounding, as each processor adds in its own order.
        """
        return self.make().double()

    def segment(self, policy: Policy, seed: int = 0, ticks: int = TICKS) -> Segment:
        return random_segment(policy, BATCH, ticks, seed, self.extras)


class PolicyContract:
    """The rules of DESIGN 4 and of `embodied.core.policy`."""

    # ---- specification ------------------------------------------------------------------

    def test_spec_survives_json(self, case: PolicyCase) -> None:
        spec = case.make().spec
        assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec

    def test_looking_inside_changes_nothing(self, case: PolicyCase) -> None:
        policy = case.make()
        segment = case.segment(policy)
        state = filled(policy, segment)
        before = {name: tensor.clone() for name, tensor in state.items()}
        reset = no_reset()
        reset[0] = True
        report = policy.inspect(at(segment, 3), fresh_time(policy, 3), state, reset)
        assert all(torch.equal(state[name], before[name]) for name in before)
        for name, tensor in report.items():
            assert tensor.shape[0] == BATCH and not tensor.requires_grad, name
            assert tensor.dtype == torch.bool or torch.isfinite(tensor).all(), name
        if report:  # the row that starts anew has nothing to read
            assert not any(t[0].any() for name, t in report.items() if name.endswith(".live"))

    def test_state_is_what_the_spec_says(self, case: PolicyCase) -> None:
        policy = case.make()
        state = policy.initial_state(BATCH)
        assert state.keys() == policy.spec.state.keys()
        for name, spec in policy.spec.state.items():
            spec.check(name, state[name], leading=1)
            assert len(state[name]) == BATCH
        assert state or not case.remembers
        assert state_nbytes(state) == BATCH * state_nbytes(policy.initial_state(1))

    def test_record_is_what_the_spec_says(self, case: PolicyCase) -> None:
        policy = case.make()
        working, _ = policy.observe(
            at(case.segment(policy), 0),
            fresh_time(policy),
            policy.initial_state(BATCH),
            no_reset(),
        )
        assert working.record.keys() == policy.spec.record.keys()
        for name, spec in policy.spec.record.items():
            spec.check(name, working.record[name], leading=1)

    def test_chunk_has_the_action_shape(self, case: PolicyCase) -> None:
        policy = case.make()
        action = policy.spec.action
        for answer in roll(policy, case.segment(policy), policy.initial_state(BATCH))[0]:
            assert answer.chunk.shape == (BATCH, action.horizon, action.size)
            assert torch.isfinite(answer.chunk).all()
            for scalar in (answer.log_prob, answer.value):
                assert scalar is None or scalar.shape == (BATCH,)
            if action.kind == DISCRETE:
                assert torch.equal(answer.chunk.sum(-1), torch.ones(BATCH, action.horizon))

    def test_only_the_observations_of_the_spec_are_read(self, case: PolicyCase) -> None:
        policy = case.make()
        segment = case.segment(policy)
        state, now = filled(policy, segment), fresh_time(policy, 3)
        exact = policy.step(at(segment, 3), now, state, no_reset(), noise(policy, BATCH))
        more = {**at(segment, 3), "info_cue": torch.zeros(BATCH)}
        other = policy.step(more, now, state, no_reset(), noise(policy, BATCH))
        assert torch.equal(exact[0].chunk, other[0].chunk)

    # ---- memory is a value --------------------------------------------------------------

    def test_state_shapes_never_change_and_inputs_stay(self, case: PolicyCase) -> None:
        policy = case.make()
        segment = case.segment(policy)
        state = policy.initial_state(BATCH)
        for t in range(TICKS):
            before, obs = clone(state), clone(at(segment, t))
            _, after = policy.observe(obs, segment.time_s[:, t], state, no_reset())
            assert_equal(state, before)
            assert_equal(obs, at(segment, t))
            described = {k: (v.shape, v.dtype) for k, v in after.items()}
            assert described == {k: (v.shape, v.dtype) for k, v in before.items()}
            state = after

    def test_nothing_hides_in_the_module(self, case: PolicyCase) -> None:
        """Two clients interleaved get what they get apart; buffers stay."""
        policy = case.make()
        weights = clone(policy.state_dict())
        one, two = case.segment(policy, seed=1), case.segment(policy, seed=2)
        start = policy.initial_state(BATCH)
        alone = [roll(policy, segment, start) for segment in (one, two)]
        states = [start, start]
        for t in range(TICKS):
            for i, segment in enumerate((one, two)):
                tick = segment.map(lambda array, t=t: array[:, t : t + 1])
                valid = segment.valid[:, t]
                reset = segment.is_first[:, t] & valid
                working, after = policy.observe(at(tick, 0), segment.time_s[:, t], states[i], reset)
                answer = policy.act(working, noise(policy, BATCH, t))
                assert torch.equal(answer.chunk[valid], alone[i][0][t].chunk[valid])
                states[i] = {
                    k: torch.stack(
                        [(after if ok else states[i])[k][b] for b, ok in enumerate(valid)]
                    )
                    for k in after
                }
        for i in (0, 1):
            assert_equal(states[i], alone[i][2])
        assert_equal(weights, policy.state_dict())

    def test_a_reset_row_equals_a_fresh_row(self, case: PolicyCase) -> None:
        policy = case.exact()
        segment = case.segment(policy)
        used, fresh = filled(policy, segment), policy.initial_state(BATCH)
        reset = torch.tensor([False, True, False])
        mixed = {k: torch.stack([v[0], fresh[k][1], v[2]]) for k, v in used.items()}
        obs, now = at(segment, 3), fresh_time(policy, 3)
        action, after = policy.step(obs, now, used, reset, noise(policy, BATCH))
        expected, wanted = policy.step(obs, now, mixed, no_reset(), noise(policy, BATCH))
        assert (action.chunk - expected.chunk).abs().max() <= TOLERANCE
        assert_close(after, wanted)

    def test_memory_matters(self, case: PolicyCase) -> None:
        policy = case.make()
        one, two = case.segment(policy, seed=1), case.segment(policy, seed=2)
        now, drawn = fresh_time(policy, 3), noise(policy, BATCH)
        chunks = []
        for past in (one, two):
            working, _ = policy.observe(at(one, 3), now, filled(policy, past), no_reset())
            action = policy.act(working, drawn)
            told = [action.chunk.flatten(1), *_scalars(action)]
            if policy.spec.action.kind == KEYFRAME:
                # The answer is the likeliest of a grid of places, which weights at random seldom
                # move; what it is the likeliest by must differ.
                told += [t.flatten(1) for t in working.features.values() if t.is_floating_point()]
            chunks.append(torch.cat(told, dim=1))
        same = torch.allclose(*chunks, atol=1e-6)
        assert same is not case.remembers

    def test_a_larger_state_works_with_the_same_weights(self, case: PolicyCase) -> None:
        policy = case.make()
        segment = case.segment(policy)
        answers, _, state = roll(policy, segment, policy.initial_state(BATCH, capacity=50))
        assert all(torch.isfinite(answer.chunk).all() for answer in answers)
        assert state_nbytes(state) >= state_nbytes(policy.initial_state(BATCH, capacity=1))

    # ---- batches and noise --------------------------------------------------------------

    def test_alone_equals_in_a_batch(self, case: PolicyCase) -> None:
        policy = case.exact()
        segment = case.segment(policy)
        state, now = filled(policy, segment), fresh_time(policy, 3)
        drawn = noise(policy, BATCH)
        action, after = policy.step(at(segment, 3), now, state, no_reset(), drawn)
        for row in range(BATCH):
            one = slice(row, row + 1)
            alone, own = policy.step(
                take_rows(at(segment, 3), one), now[one], take_rows(state, one),
                no_reset(1), drawn[one],
            )  # fmt: skip
            assert (alone.chunk - action.chunk[one]).abs().max() <= TOLERANCE
            assert_close(own, take_rows(after, one))

    def test_rows_commute_with_permutation(self, case: PolicyCase) -> None:
        policy = case.exact()
        segment, order = case.segment(policy), torch.tensor([2, 0, 1])
        state, now, drawn = filled(policy, segment), fresh_time(policy, 3), noise(policy, BATCH)
        action, after = policy.step(at(segment, 3), now, state, no_reset(), drawn)
        shuffled, other = policy.step(
            take_rows(at(segment, 3), order), now, take_rows(state, order), no_reset(), drawn[order]
        )
        assert (shuffled.chunk - action.chunk[order]).abs().max() <= TOLERANCE
        assert_close(other, take_rows(after, order))

    def test_noise_is_the_only_randomness(self, case: PolicyCase) -> None:
        policy = case.make()
        segment = case.segment(policy)
        state, now = filled(policy, segment), fresh_time(policy, 3)
        working, _ = policy.observe(at(segment, 3), now, state, no_reset())
        torch.manual_seed(1)
        first = policy.act(working, noise(policy, BATCH))
        torch.manual_seed(2)
        again, _ = policy.step(at(segment, 3), now, state, no_reset(), noise(policy, BATCH))
        assert torch.equal(first.chunk, again.chunk)
        others = [policy.act(working, noise(policy, BATCH, seed=s)).chunk for s in range(10, 30)]
        differs = any(not torch.equal(first.chunk, other) for other in others)
        assert differs is (policy.spec.noise_law != NO_NOISE)

    def test_save_load_continue_equals_uninterrupted(self, case: PolicyCase) -> None:
        policy = case.make()
        segment = case.segment(policy)
        state, now = filled(policy, segment), fresh_time(policy, 3)
        weights = safetensors.torch.save(policy.state_dict())
        saved = safetensors.torch.save({k: v.contiguous() for k, v in state.items()})
        torch.manual_seed(99)
        other = case.build().eval()
        other.load_state_dict(safetensors.torch.load(weights))
        arguments = (at(segment, 3), now)
        action, after = policy.step(*arguments, state, no_reset(), noise(policy, BATCH))
        loaded, later = other.step(
            *arguments, safetensors.torch.load(saved), no_reset(), noise(policy, BATCH)
        )
        assert torch.equal(action.chunk, loaded.chunk)
        assert_equal(after, later)

    # ---- learning -----------------------------------------------------------------------

    def test_learning_and_stepping_end_with_the_same_memory(self, case: PolicyCase) -> None:
        policy = case.exact()
        segment = case.segment(policy)
        _, workings, stepped = roll(policy, segment, policy.initial_state(BATCH))
        segment.record = _recorded(policy, workings)
        for learn in self.learners(case, policy):
            assert_close(learn(segment, policy.initial_state(BATCH)).state, stepped)

    def test_padding_changes_nothing(self, case: PolicyCase) -> None:
        policy = case.exact()
        segment, other = case.segment(policy), case.segment(policy, seed=5)
        valid = segment.valid

        def mix(clean: Tensor, garbage: Tensor) -> Tensor:
            shape = (*valid.shape, *[1] * (clean.dim() - 2))
            return torch.where(valid.view(shape), clean, garbage)

        dirty = dataclasses.replace(
            segment,
            obs={k: mix(v, other.obs[k]) for k, v in segment.obs.items()},
            chunk=mix(segment.chunk, other.chunk),
            extras={k: mix(v, other.extras[k]) for k, v in segment.extras.items()},
            record={k: mix(v, other.record[k]) for k, v in segment.record.items()},
        )
        for learn in self.learners(case, policy):
            start = policy.initial_state(BATCH)
            clean, padded = learn(segment, start), learn(dirty, start)
            assert_close(clean.state, padded.state)
            assert (clean.scalar - padded.scalar).abs() <= TOLERANCE

    def test_learning_reaches_the_weights(self, case: PolicyCase) -> None:
        policy = case.make()
        for learn in self.learners(case, policy):
            policy.zero_grad()
            learn(case.segment(policy), policy.initial_state(BATCH)).scalar.backward()
            gradients = [p.grad for p in policy.parameters() if p.grad is not None]
            assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
            assert any(gradient.any() for gradient in gradients)

    def test_nothing_is_copied_to_the_device_inside_a_step(self, case: PolicyCase) -> None:
        """A number of Python's that becomes a tensor is waited for where there is a GPU."""
        policy = case.make()
        segment, state = case.segment(policy), policy.initial_state(BATCH)
        drawn = noise(policy, BATCH)
        with NoCopies():
            for learn in self.learners(case, policy):
                learn(segment, state)
            policy.step(at(segment, 0), segment.time_s[:, 0], state, no_reset(), drawn)

    def test_learning_is_refused_where_there_is_none(self, case: PolicyCase) -> None:
        policy = case.make()
        segment, state = case.segment(policy), policy.initial_state(BATCH)
        if not case.imitates:
            with pytest.raises(TypeError, match="does not learn by imitation"):
                policy.loss(segment, state)
        if not case.reinforces:
            with pytest.raises(TypeError, match="does not learn by reinforcement"):
                policy.evaluate(segment, state)

    def test_evaluate_repeats_what_acting_said(self, case: PolicyCase) -> None:
        """Log-probabilities and values of a segment are those of the actions when taken."""
        if not case.reinforces:
            pytest.skip("does not learn by reinforcement")
        policy = case.exact()
        segment = case.segment(policy)
        answers, workings, _ = roll(policy, segment, policy.initial_state(BATCH))
        segment.chunk = torch.stack([answer.chunk for answer in answers], dim=1)
        segment.record = _recorded(policy, workings)
        out = policy.evaluate(segment, policy.initial_state(BATCH))
        used = segment.valid & segment.act_mask
        assert out.log_prob.shape == out.entropy.shape == out.value.shape == used.shape
        log_prob = torch.stack([answer.log_prob for answer in answers], dim=1)
        value = torch.stack([answer.value for answer in answers], dim=1)
        assert (out.log_prob - log_prob)[used].abs().max() <= TOLERANCE
        assert (out.value - value)[used].abs().max() <= TOLERANCE
        assert all(loss.dim() == 0 for loss in out.aux_losses.values())

    def test_step_exports(self, case: PolicyCase) -> None:
        if not case.exportable:
            pytest.skip("not exported")
        policy = case.make()
        segment, state = case.segment(policy), policy.initial_state(BATCH)
        step = _Step(policy)
        inputs = (at(segment, 0), segment.time_s[:, 0], state, no_reset(), noise(policy, BATCH))
        program = torch.export.export(step, inputs).module()
        for t in range(TICKS):
            inputs = (at(segment, t), segment.time_s[:, t], state, segment.is_first[:, t])
            chunk, after = step(*inputs, noise(policy, BATCH, t))
            exported, state = program(*inputs, noise(policy, BATCH, t))
            assert torch.isfinite(chunk).all()
            assert (chunk - exported).abs().max() <= TOLERANCE
            assert_close(after, state)

    @staticmethod
    def learners(case: PolicyCase, policy: Policy) -> list[Callable[..., _Learnt]]:
        """Returns the policy's learning functions as (segment, state) -> scalar and state."""

        def imitate(segment: Segment, state: State) -> _Learnt:
            out = policy.loss(segment, state, torch.Generator().manual_seed(0))
            assert out.loss.dim() == 0
            assert all(not metric.requires_grad for metric in out.metrics.values())
            return _Learnt(out.loss, out.state)

        def reinforce(segment: Segment, state: State) -> _Learnt:
            out = policy.evaluate(segment, state)
            used = segment.valid & segment.act_mask
            scalar = (out.log_prob + out.entropy + out.value)[used].sum()
            return _Learnt(scalar + sum(out.aux_losses.values()), out.state)

        return [imitate] * case.imitates + [reinforce] * case.reinforces


def _recorded(policy: Policy, workings: list[Working]) -> dict[str, Tensor]:
    """What a learner keeps of acting: name -> [B, T, ...]."""
    return {k: torch.stack([w.record[k] for w in workings], dim=1) for k in policy.spec.record}


@dataclasses.dataclass
class _Learnt:
    scalar: Tensor
    state: State


class _Step(torch.nn.Module):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor, drawn: Tensor
    ) -> tuple[Tensor, State]:
        action, state = self.policy.step(obs, time_s, state, reset, drawn)
        return action.chunk, state


def _scalars(action: Action) -> list[Tensor]:
    return [x[:, None] for x in (action.log_prob, action.value) if x is not None]
