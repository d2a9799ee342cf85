"""Depth with holes, and depth that is none: from an evaluation, a server or a robot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from embodied.core.errors import SpecMismatch
from embodied.core.specs import PolicySpec
from embodied.deploy.safety import fault
from embodied.evaluate.runner import run
from embodied.export.live import LiveEngine
from embodied.serve.codec import MessageError
from embodied.serve.sessions import Sessions, work
from policies.sam2act.cloud import make_cloud
from policies.sam2act.policy import SAM2Act
from policies.sam2act.views import render
from tests.evaluate.fakes import FakeVecEnv
from tests.policies.loaded import as_loaded
from tests.policies.sam2act.small import make
from tests.policies.sam2act.test_policy import PLUS, scene

Arrays = dict[str, np.ndarray]
FRONT = "front_depth_m"


def looks(policy: SAM2Act, **depth: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    """Returns an observation without a batch axis, depth of some cameras changed."""
    obs = {key: value[0].numpy() for key, value in scene(policy, 1).items()}
    return obs | {key: change(obs[key]).astype(np.float32) for key, change in depth.items()}


def holed(share: float, value: float = np.nan) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what puts holes into a share of a picture's rows."""

    def change(depth: np.ndarray) -> np.ndarray:
        row = np.arange(len(depth))[:, None]
        return np.where(row < share * len(depth), np.float32(value), depth)

    return change


def millimetres(depth: np.ndarray) -> np.ndarray:
    return 1000 * depth


def tensors(obs: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value)[None] for key, value in obs.items()}


class Views(torch.nn.Module):
    """From an observation to the three views: what exported graphs do with depth."""

    def __init__(self, policy: SAM2Act) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        cloud = make_cloud(obs, self.policy.cameras, self.policy.frame)
        return render(cloud, self.policy.config.view_size)


def test_holes_of_every_kind_are_left_out_inside_of_a_graph() -> None:
    policy = make()
    drawn, whole = Views(policy), tensors(looks(policy))
    program = torch.export.export(drawn, (whole,)).module()
    # Far outside of the scene box is as good as nowhere.
    outside = drawn(tensors(looks(policy, front_depth_m=holed(0.25, 30.0))))
    assert not torch.equal(outside, drawn(whole))
    for hole in (np.nan, np.inf, -np.inf, 0.0, -1.0):
        gone = tensors(looks(policy, front_depth_m=holed(0.25, hole)))
        assert torch.equal(drawn(gone), outside)
        assert torch.equal(program(gone), outside)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_bundle_leaves_holes_out(bundles: Any) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from embodied.serve.runtime import Runtime

    policy, path = bundles("sam2act")
    runtime = Runtime.load(path)
    assert runtime.spec.observations[FRONT].hole_share == 0.5
    chunks = []
    for hole in (np.nan, 30.0):
        obs = looks(policy, front_depth_m=holed(0.25, hole))
        rows = {key: value[None] for key, value in obs.items()}
        runtime.check(rows, "this test")
        runtime.observe(rows, np.zeros(1, np.float32), np.ones(1, bool))
        chunks.append(runtime.act(np.zeros((1, 1), np.float32)))
        answer, _ = policy.step(
            tensors(obs), torch.zeros(1), {}, torch.ones(1, dtype=torch.bool), torch.zeros(1, 1)
        )
        assert np.abs(chunks[-1] - answer.chunk.detach().numpy()).max() <= 1e-4
    assert np.array_equal(*chunks)
    wrong = {key: value[None] for key, value in looks(policy, front_depth_m=millimetres).items()}
    with pytest.raises(SpecMismatch, match=r"this test: front_depth_m: .* 0.001 to 51.0 m"):
        runtime.check(wrong, "this test")


def test_depth_alone_may_hold_holes_and_a_spec_says_so() -> None:
    policy = make()
    specs = policy.spec.observations
    shares = {key: spec.hole_share for key, spec in specs.items() if spec.hole_share}
    assert shares == {"front_depth_m": 0.5, "wrist_depth_m": 0.5}
    assert PolicySpec.from_json(policy.spec.to_json()) == policy.spec
    for change in (holed(0.5), holed(0.5, np.inf), holed(0.5, 0.0)):
        obs = looks(policy, front_depth_m=change)
        assert specs[FRONT].fault(obs[FRONT]) == "" == fault(obs, specs, 0)
        policy.check(tensors(obs), "this test")
    for change in (holed(0.6), holed(0.6, np.inf), holed(0.6, 0.0)):
        obs = looks(policy, front_depth_m=change)
        assert "more than 50% of it" in specs[FRONT].fault(obs[FRONT])
        assert fault(obs, specs, 0) == "front_depth_m mostly holes"
        with pytest.raises(SpecMismatch, match=r"this test: 62% of a picture of front_depth_m"):
            policy.check(tensors(obs), "this test")
    # A robot runs bundles, without the policy's own check.
    assert fault(looks(policy, front_depth_m=millimetres), specs, 0) == "front_depth_m mostly holes"
    lost = {**looks(policy), "gripper_opening": np.full(1, np.nan, np.float32)}
    assert fault(lost, specs, 0) == "gripper_opening not finite"


# ---- a server ------------------------------------------------------------------------------


def served() -> tuple[SAM2Act, Sessions, LiveEngine]:
    policy = make(**PLUS).eval()
    engine = LiveEngine(as_loaded(policy, "sam2act"))
    return policy, Sessions(engine.spec, lambda: engine.initial(1)), engine


def ask(sessions: Sessions, engine: LiveEngine, message: Arrays) -> np.ndarray:
    request = sessions.read(message, "a client")
    try:
        [chunk] = work(engine, [request])
    finally:
        request.session.busy = False
    assert chunk is not None
    return chunk


def test_a_server_answers_to_holes() -> None:
    policy, sessions, engine = served()
    chunks = []
    for time_s in (0.0, 5.0):
        message = looks(policy, front_depth_m=holed(0.4), wrist_depth_m=holed(0.1))
        chunks.append(ask(sessions, engine, {**message, "time_s": time_s}))
    assert np.isfinite(chunks).all()
    state = sessions._named["a client"].past.state
    assert all(np.isfinite(value).all() for value in state.values())
    with pytest.raises(MessageError, match=r"front_depth_m: more than 50% .* must not keep"):
        sessions.read(looks(policy, front_depth_m=holed(0.6)), "a client")


def test_a_server_refuses_a_session_that_begins_in_another_unit() -> None:
    policy, sessions, engine = served()
    # Within the bounds of depth, so that only the policy knows.
    wrong = looks(policy, front_depth_m=lambda depth: 49 + depth, wrist_depth_m=lambda d: 49 + d)
    for _ in range(2):
        with pytest.raises(SpecMismatch, match=r"session 'a client': no point of cameras"):
            ask(sessions, engine, wrong)
    assert sessions._named["a client"].past.tick == 0
    assert np.isfinite(ask(sessions, engine, {**looks(policy), "time_s": 0.0})).all()
    # Amid an episode it is looked at no more: a picture of nothing is drawn empty.
    assert np.isfinite(ask(sessions, engine, {**wrong, "time_s": 1.0})).all()


def test_a_server_refuses_millimetres_at_once() -> None:
    policy, sessions, _ = served()
    with pytest.raises(MessageError, match=r"front_depth_m: .* not within 0.001 to 51.0 m"):
        sessions.read(looks(policy, front_depth_m=millimetres), "a client")


# ---- an evaluation -------------------------------------------------------------------------


class Seeing(FakeVecEnv):
    """Shows the same to each row, and nothing to those without an episode."""

    def __init__(self, rows: int, policy: SAM2Act, obs: Arrays) -> None:
        super().__init__(rows)
        pose = {"eef_pos_world_m": np.zeros(3), "eef_quat_xyzw": np.array([0, 0, 0, 1.0])}
        shown = {**{key: value.astype(np.float32) for key, value in pose.items()}, **obs}
        self.observation_specs = {**self.observation_specs, **policy.spec.observations}
        self.obs |= {key: np.stack([value] * rows) for key, value in shown.items()}
        self.obs[FRONT][1:] = np.nan


def test_an_evaluation_begins_with_a_look_at_the_first_observations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = make()
    env = Seeing(3, policy, looks(policy, front_depth_m=millimetres))
    with pytest.raises(
        SpecMismatch, match=r"^put_block_back: front_depth_m must be in metres.*read as millimetres"
    ):
        run(policy, env, [1_000_000], task="put_block_back", progress=False)
    assert env.steps == 0

    looked = []
    monkeypatch.setattr(policy, "check", lambda obs, source: looked.append((obs, source)))
    env = Seeing(2, policy, looks(policy))
    env.obs[FRONT][:] = looks(policy)[FRONT]
    rows = run(policy, env, [1_000_000, 1_000_001, 1_000_002], progress=False)
    assert len(rows) == 3
    [(obs, source)] = looked
    assert source == "the environment"
    assert obs.keys() == policy.spec.observations.keys() and len(obs[FRONT]) == 2


def test_a_bundle_is_evaluated_from_whole_observations_alone() -> None:
    """Its policy's own check stayed behind; what its spec says is looked at."""
    from embodied.export.exported import ExportedPolicy

    policy = make()
    bundle: Any = dataclasses.make_dataclass("Bundle", ["spec", "act_steps"])(policy.spec, 1)
    exported = ExportedPolicy(bundle)
    exported.check(tensors(looks(policy, front_depth_m=holed(0.5))), "a task")
    with pytest.raises(SpecMismatch, match=r"a task: front_depth_m: more than 50% of it"):
        exported.check(tensors(looks(policy, front_depth_m=millimetres)), "a task")
