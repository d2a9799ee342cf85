"""Every vision-language model as a trunk: trained by the trainer, and back from its checkpoint."""

import copy

import pytest
import torch

from embodied.nn.encoders.pretrained import ADAPTER
from embodied.train import checkpoint, imitation
from embodied.train.config import Component, OptimConfig
from embodied.train.learner import Learner
from tests.nn.tiny_vlms import KINDS, MODELS
from tests.policies.test_memory_vla import random_obs
from tests.train.test_imitation import (  # noqa: F401
    POLICY,
    assert_equal,
    dataset,
    make_config,
    weights,
)

pytest.importorskip("transformers")
pytest.importorskip("peft")


def acts(policy):
    """Two ticks of two rows, of which the second reads what the first stored."""
    # As a loaded one: torch folds products in another way where weights may learn.
    policy.eval().requires_grad_(False)
    state, chunks = policy.initial_state(2), []
    for tick in range(2):
        obs = random_obs(policy.spec.observations, 2, seed=tick)
        obs["instruction_u8"] = torch.full_like(obs["instruction_u8"], ord("a"))
        obs["instruction_u8"][:, 20:] = 0
        noise = torch.randn(
            2, *policy.spec.noise_shape, generator=torch.Generator().manual_seed(tick)
        )
        first = torch.full((2,), tick == 0)
        with torch.no_grad():
            action, state = policy.step(obs, torch.full((2,), 0.4 * tick), state, first, noise)
        chunks.append(action.chunk)
    return torch.stack(chunks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vlm_learns_with_adapters_and_comes_back(dataset, tmp_path, monkeypatch, kind):  # noqa: F811
    made = []

    class Watched(Learner):
        def __init__(self, policy, *args):
            made.append((self, {k: v.clone() for k, v in policy.state_dict().items()}))
            super().__init__(policy, *args)

    monkeypatch.setattr(imitation, "Learner", Watched)
    # The pictures have 16 px.
    encoder = {"image_size": 32, "resize": True, "text_tokens": 100, "learn": "lora"}
    config = make_config(
        dataset,
        steps=3,
        batch_episodes=2,
        features="",
        optim=OptimConfig(lr=1e-2, warmup_steps=0, ema=0.0),
        policy=Component(
            "memory_vla",
            {
                **POLICY,
                "trunk": kind.split()[0],
                "encoder": {**encoder, "model": copy.deepcopy(MODELS[kind])},
            },
        ),
    )
    run = imitation.train(config, tmp_path / "run")
    ((learner, before),) = made
    policy = learner.policy
    assert_equal(weights(run), dict(policy.state_dict()))
    changed = {k for k, v in policy.state_dict().items() if not torch.equal(v, before[k])}
    within = {name for name in changed if name.startswith("trunk.encoder.")}
    assert within and all(ADAPTER in name for name in within)
    assert any(name.startswith("head.") for name in changed)

    loaded = checkpoint.load(run).policy
    assert torch.equal(acts(loaded), acts(policy))
