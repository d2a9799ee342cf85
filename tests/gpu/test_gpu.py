"""Training, evaluating and loading on a CUDA device."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from embodied.config import from_plain
from embodied.core.specs import Interface
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.evaluate.runner import run
from embodied.train import checkpoint, learner
from embodied.train.imitation import train
from embodied.train.logger import read_metrics
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA
from tests.contracts.segments import at, noise
from tests.contracts.tools import BATCH
from tests.gpu.small import POLICY, InstructedVecEnv, make_config, make_data, make_segment
from tests.policies import test_contract as memory_vla
from tests.policies.hcam import test_contract as hcam
from tests.policies.sam2act import test_contract as sam2act

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
TOLERANCE = 1e-3
CASES = [*memory_vla.CASES, *sam2act.CASES, *hcam.CASES]


@pytest.fixture(autouse=True)
def exact_products():
    """TF32 alone rounds products by about 1e-3; what is compared here is the code."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("gpu") / "data")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A run of 100 steps in bf16."""
    out = tmp_path_factory.mktemp("gpu") / "run"
    train(make_config(data, device=DEVICE, precision="bf16"), out)
    return out


def test_a_hundred_steps_in_bf16_learn(trained):
    rows = read_metrics(trained)
    assert rows[-1]["step"] == 99
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    weights = checkpoint.load(trained, DEVICE).policy.state_dict()
    assert all(tensor.is_cuda for tensor in weights.values())
    # bf16 is for products alone: weights, averages and memory stay in float32.
    floats = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}


@pytest.mark.parametrize("memory", ["none", "perceptual_cognitive", "gru", "full_history"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_inside_a_step_waits_for_the_device(data, tmp_path, monkeypatch, memory, precision):
    """The trainer's own loop, first steps (set-up) and last step (log, checkpoint) apart."""
    schedule = learner.learning_rate

    def watched(config, step, steps):
        torch.cuda.set_sync_debug_mode("error" if 2 <= step < steps - 1 else "default")
        return schedule(config, step, steps)

    monkeypatch.setattr(learner, "learning_rate", watched)
    config = make_config(
        data, steps=6, device=DEVICE, precision=precision, checkpoint_every=6, log_every=6
    )
    config.memory.name, config.memory.config = memory, {}
    try:
        train(config, tmp_path / "run")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_observing_and_acting_never_wait(trained, data):
    policy = checkpoint.load(trained, DEVICE).policy
    segment = make_segment(data).map(lambda x: x.to(DEVICE))
    noise = torch.randn(4, *policy.spec.noise_shape, device=DEVICE)
    state = policy.initial_state(4)
    obs = [{k: v[:, t] for k, v in segment.obs.items()} for t in range(4)]
    with torch.inference_mode():
        for tick in range(4):
            torch.cuda.set_sync_debug_mode("error" if tick else "default")
            try:
                _, state = policy.step(
                    obs[tick], segment.time_s[:, tick], state, segment.is_first[:, tick], noise
                )
            finally:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_policy_waits_for_the_device_inside_a_step(case):
    policy = case.make().to(DEVICE)
    segment, state = case.segment(policy).map(lambda x: x.to(DEVICE)), policy.initial_state(BATCH)
    drawn = noise(policy, BATCH).to(DEVICE)
    reset = torch.zeros(BATCH, dtype=torch.bool, device=DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(0)
    for mode in ("default", "error"):  # what is set up on the first call may wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            if case.imitates:
                policy.loss(segment, state, generator).loss.backward()
            if case.reinforces:
                policy.evaluate(segment, state).value.sum().backward()
            with torch.no_grad():
                policy.step(at(segment, 0), segment.time_s[:, 0], state, reset, drawn)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_checkpoint_answers_alike_on_both(trained, data):
    segment = make_segment(data)
    chunks, states = [], []
    for device in ("cpu", DEVICE):
        policy = checkpoint.load(trained, device).policy
        here = segment.map(lambda x, device=device: x.to(device))
        noise = torch.randn(4, *policy.spec.noise_shape, generator=torch.Generator().manual_seed(0))
        state, answers = policy.initial_state(4), []
        with torch.inference_mode():
            for tick in range(segment.valid.shape[1]):
                obs = {key: value[:, tick] for key, value in here.obs.items()}
                action, state = policy.step(
                    obs, here.time_s[:, tick], state, here.is_first[:, tick], noise.to(device)
                )
                answers.append(action.chunk.cpu())
        chunks.append(torch.stack(answers))
        states.append({name: tensor.cpu() for name, tensor in state.items()})
    torch.testing.assert_close(chunks[0], chunks[1], atol=TOLERANCE, rtol=TOLERANCE)
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=TOLERANCE, rtol=TOLERANCE)


def test_batches_lie_in_page_locked_memory(data):
    pinned = SegmentDataset(data, SegmentConfig(batch_episodes=4, pinned=True)).batch(0)
    assert all(tensor.is_pinned() for tensor in (pinned.chunk, *pinned.obs.values()))


def test_a_run_resumes_on_the_device(data, tmp_path):
    config = make_config(data, steps=4, checkpoint_every=2, device=DEVICE)
    last = train(config, tmp_path / "run")
    shutil.rmtree(last)
    assert train(config, tmp_path / "run", resume=True) == last
    assert checkpoint.load(last, "cpu").path == last


def test_what_the_device_draws_goes_on_where_it_was(data, tmp_path):
    config = make_config(data, steps=2, checkpoint_every=2, device=DEVICE)
    last = train(config, tmp_path / "run")
    expected = torch.rand(3, device=DEVICE)
    torch.rand(5, device=DEVICE)
    policy = checkpoint.load(last, DEVICE).policy
    learner.Learner(policy, config, torch.device(DEVICE)).restore(last)
    assert torch.equal(torch.rand(3, device=DEVICE), expected)


def test_ten_episodes(tmp_path):
    options = {**POLICY, "proprio": ["position"], "memory_config": {"capacity": 3}}
    specs = InstructedVecEnv(1).observation_specs
    torch.manual_seed(0)
    policy = MemoryVLA(from_plain(MemoryVLAConfig, options), Interface(specs, max_ticks=32))
    seeds = list(range(10))
    rows = run(policy.to(DEVICE), InstructedVecEnv(4), seeds, progress=False)
    assert [row.seed for row in rows] == seeds
    assert all(row.length > 0 and row.observations > 2 for row in rows)
    # One seed, one action: the same device repeats itself.
    again = run(policy, InstructedVecEnv(4), seeds, progress=False)
    assert [row.outcome() for row in again] == [row.outcome() for row in rows]


@pytest.mark.sim
def test_ten_episodes_of_the_simulator(tmp_path):
    from embodied.evaluate.api import evaluate
    from embodied.evaluate.results import read_episodes
    from tests.evaluate.checkpoints import untrained

    source = untrained(tmp_path / "run", "perceptual_cognitive")
    out = evaluate(source, episodes=10, batch=5, videos=0, device=DEVICE, progress=False)
    assert len(read_episodes(out / "episodes.jsonl")) == 10
