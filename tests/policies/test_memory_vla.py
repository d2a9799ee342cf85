"""MemoryVLA as a policy: contract, twins, normalisation, heads."""

import numpy as np
import pytest
import torch

from embodied.core.entities import FEATURES, MAX_ENTITIES
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.core.types import Segment
from embodied.nn.action_head import ActionHeadConfig
from policies.memory_vla import model
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA

VECTORS = {
    "eef_pos_world_m": ArraySpec((3,), "float32", "m"),
    "gripper_opening": ArraySpec((1,), "float32"),
    "instruction_u8": ArraySpec((160,), "uint8"),
}
IMAGES = {
    **VECTORS,
    **camera_specs("front", 32),
    **camera_specs("wrist", 32),
}
ENTITIES = {
    **VECTORS,
    "entities": ArraySpec((MAX_ENTITIES, FEATURES), "float32"),
    "entities_mask": ArraySpec((MAX_ENTITIES,), "bool"),
}
SMALL = {"width": 32, "readout_queries": 2, "horizon": 4}


def make(observations=IMAGES, **options):
    torch.manual_seed(0)
    config = MemoryVLAConfig(**{**SMALL, **options})
    return MemoryVLA(config, Interface(observations, max_ticks=6)).eval()


def random_obs(spec, *leading, seed=0):
    rng = np.random.default_rng(seed)
    obs = {}
    for key, array in spec.items():
        shape = (*leading, *array.shape)
        if array.dtype == "uint8":
            value = rng.integers(0, 256, shape, dtype=np.uint8)
        elif array.dtype == "bool":
            value = rng.random(shape) < 0.5
        else:
            value = rng.normal(size=shape).astype(np.float32)
        obs[key] = torch.from_numpy(value)
    return obs


def make_segment(policy, batch=3, ticks=5, seed=0):
    size, horizon = policy.spec.action.size, policy.spec.action.horizon
    rng = np.random.default_rng(seed)
    valid = torch.ones(batch, ticks, dtype=torch.bool)
    valid[0, -1] = False
    first = torch.zeros_like(valid)
    first[:, 0] = True
    act = valid.clone()
    act[:, :2] = False
    chunk = torch.from_numpy(rng.uniform(-1, 1, (batch, ticks, horizon, size)).astype(np.float32))
    goal = torch.from_numpy(rng.normal(size=(batch, ticks, 3)).astype(np.float32))
    return Segment(
        obs=random_obs(policy.spec.observations, batch, ticks, seed=seed),
        time_s=torch.arange(ticks).repeat(batch, 1) * 0.4,
        is_first=first,
        valid=valid,
        act_mask=act,
        chunk=chunk,
        chunk_valid=act[..., None].repeat(1, 1, horizon),
        extras={"goal_pos_world_m": goal, "goal_valid": act},
    )


def without_gradient(policy, segment):
    """Returns the parameters that the loss does not reach."""
    # Zero-initialised outputs hide gradients behind them at the very first step.
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    out = policy.loss(segment, policy.initial_state(3), torch.Generator().manual_seed(0))
    out.loss.backward()
    assert torch.isfinite(out.loss)
    return [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]


MEMORIES = {
    "none": {},
    "perceptual_cognitive": {},
    "gru": {},
    "recurrent_tokens": {},
    "full_history": {},
    "lstm": {"layers": 2},
    "transformer_xl": {"width": 16, "capacity": 3},
    "gated_transformer_xl": {"width": 16},
    # Two chunks are finished before the last of five ticks.
    "hierarchical_chunks": {"width": 16, "chunk": 2, "window": 2, "top_k": 2},
}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("observations", [IMAGES, ENTITIES], ids=["images", "entities"])
def test_loss_reaches_every_parameter(memory, observations):
    trunk = "conv" if observations is IMAGES else "entities"
    options = {"memory": memory, "memory_config": MEMORIES[memory]}
    policy = make(observations, trunk=trunk, **options)
    dead = without_gradient(policy, make_segment(policy))
    if memory == "none":
        # The twin keeps the gate, so that parameter counts agree; it fuses equals.
        dead = [name for name in dead if not name.startswith("fuse.")]
    # The last tick's write is never read: a recurrent cell may keep such parameters unused.
    assert dead == []


def test_padding_changes_nothing():
    policy = make()
    segment = make_segment(policy)
    other = make_segment(policy)
    other.obs = {k: v.clone() for k, v in segment.obs.items()}
    other.obs["front_image_u8"][0, -1] = 255
    other.chunk[0, -1] = 9.0
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    first = policy.loss(segment, policy.initial_state(3), noise[0])
    second = policy.loss(other, policy.initial_state(3), noise[1])
    assert torch.equal(first.loss, second.loss)


@pytest.mark.parametrize("store", ["raw", "fused"])
def test_stepping_and_learning_see_the_same_memory(store):
    policy = make(store=store)
    segment = make_segment(policy, ticks=4)
    segment.valid[:] = True
    # Reads are skipped at held ticks in learning; what is stored raw does not depend on them.
    segment.act_mask[:] = True
    learnt = policy.loss(segment, policy.initial_state(3)).state
    state = policy.initial_state(3)
    for tick in range(4):
        obs = {key: value[:, tick] for key, value in segment.obs.items()}
        _, state = policy.observe(obs, segment.time_s[:, tick], state, segment.is_first[:, tick])
    for name in state:
        torch.testing.assert_close(state[name], learnt[name], atol=1e-5, rtol=1e-5)


def test_the_first_tick_of_each_goal_may_weigh_more():
    """Goals of the segment: A A B | B B (not acting) A; ticks 0, 2, 5 begin one."""
    segment, misses = make_segment(make(), batch=1, ticks=6), {}
    segment.valid[:], segment.act_mask[:] = True, True
    segment.act_mask[:, 4] = False
    goals = torch.tensor([[0.1, 0.2, 0.9], [-0.1, 0.1, 0.9]])[[0, 0, 1, 1, 1, 0]]
    firsts = torch.tensor([0, 2, 5])
    segment.extras["goal_pos_world_m"] = goals[None].clone()
    segment.extras["goal_valid"] = segment.act_mask.clone()
    for weight in (1.0, 4.0, 1e6):
        policy = make(goal_first_weight=weight)
        out = policy.loss(segment, policy.initial_state(1), torch.Generator().manual_seed(0))
        misses[weight] = out.metrics["goal_loss"].item()
    only = torch.zeros_like(segment.act_mask)
    only[:, firsts] = True
    segment.extras["goal_valid"] = only
    policy = make()
    out = policy.loss(segment, policy.initial_state(1), torch.Generator().manual_seed(0))
    first = out.metrics["goal_loss"].item()
    assert out.metrics["goal_error_m"] == out.metrics["goal_first_error_m"]
    assert misses[1e6] == pytest.approx(first, abs=1e-4)
    # Five acting ticks, three of them first: all = (3 first + 2 later) / 5.
    later = (5 * misses[1.0] - 3 * first) / 2
    assert misses[4.0] == pytest.approx((12 * first + 2 * later) / 14, abs=1e-4)


def test_twin_ignores_the_past():
    policy = make(memory="none")
    obs = random_obs(policy.spec.observations, 2)
    noise = torch.randn(2, *policy.spec.noise_shape)
    fresh = policy.initial_state(2)
    go = torch.zeros(2, dtype=torch.bool)
    _, used = policy.observe(
        random_obs(policy.spec.observations, 2, seed=1), torch.zeros(2), fresh, ~go
    )
    first, _ = policy.step(obs, torch.ones(2), fresh, go, noise)
    second, _ = policy.step(obs, torch.full((2,), 9.0), used, go, noise)
    assert torch.equal(first.chunk, second.chunk)


def test_memory_changes_the_action():
    policy = make()
    with torch.no_grad():
        policy.head.dit.out.weight.normal_(std=0.1)
    obs = random_obs(policy.spec.observations, 1)
    noise = torch.randn(1, *policy.spec.noise_shape)
    go = torch.zeros(1, dtype=torch.bool)
    chunks = []
    for seed in (1, 2):
        past = random_obs(policy.spec.observations, 1, seed=seed)
        _, state = policy.observe(past, torch.zeros(1), policy.initial_state(1), ~go)
        chunks.append(policy.step(obs, torch.ones(1), state, go, noise)[0].chunk)
    assert not torch.allclose(chunks[0], chunks[1])


@pytest.mark.parametrize("kind", ["flow", "ddim"])
def test_heads_learn_a_constant_chunk(kind):
    from embodied.nn.action_head import build_action_head
    from embodied.nn.dit import DiTConfig

    torch.manual_seed(0)
    config = ActionHeadConfig(kind=kind, dit=DiTConfig(1, 32, 2), steps=10, samples=8)
    head = build_action_head(config, 2, 3, 4, 4)
    target = torch.tensor([[0.5, -0.5], [0.0, 0.25], [-0.75, 0.1]]).expand(16, 3, 2)
    condition, tokens = torch.ones(16, 4), torch.ones(16, 2, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(500):
        optimizer.zero_grad()
        head.loss(target, torch.ones(16, 3), condition, tokens).backward()
        optimizer.step()
    with torch.no_grad():
        drawn = head.sample(torch.randn(16, 3, 2), condition, tokens)
    assert (drawn - target).abs().mean() < 0.08


def test_ddim_tables_match_diffusers():
    diffusers = pytest.importorskip("diffusers")
    from embodied.nn.action_head import build_action_head

    head = build_action_head(ActionHeadConfig(kind="ddim"), 7, 8, 16, 16)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False
    )
    torch.testing.assert_close(head.alpha_bar, scheduler.alphas_cumprod, atol=1e-6, rtol=1e-5)


def test_statistics_are_used_and_saved():
    policy = make()
    statistics = {
        "action": {"low": -np.full(7, 0.5), "high": np.full(7, 0.5)},
        "eef_pos_world_m": {"mean": np.ones(3), "std": np.ones(3), "low": np.full(3, 0.8)},
        "gripper_opening": {"mean": np.zeros(1), "std": np.ones(1)},
        "front_image_u8": {"mean": np.full((32, 32, 3), 0.25)},
        "wrist_image_u8": {"mean": np.full((32, 32, 3), 0.75)},
    }
    policy.set_statistics(statistics)
    action = torch.full((1, 2, 7), 0.25)
    torch.testing.assert_close(policy.action_norm.normalize(action), torch.full((1, 2, 7), 0.5))
    torch.testing.assert_close(
        policy.action_norm.denormalize(policy.action_norm.normalize(action)), action
    )
    assert policy.state_dict()["trunk.cameras.front.mean_image"].mean() == 0.25


def test_wrong_observations_are_named():
    with pytest.raises(SpecMismatch, match="camera images"):
        make(VECTORS)
    with pytest.raises(SpecMismatch, match="entities"):
        make(IMAGES, trunk="entities")
    with pytest.raises(SpecMismatch, match="gripper_opening"):
        make({k: v for k, v in IMAGES.items() if k != "gripper_opening"})


def test_entity_rows_bound_what_is_read_and_refuse_what_stands_further_on(monkeypatch):
    policy = make(ENTITIES, trunk="entities", entity_rows=4)
    state, time_s, fresh = policy.initial_state(2), torch.zeros(2), torch.ones(2, dtype=torch.bool)
    assert state["entities.tokens"].shape[2] == 4
    obs = random_obs(policy.spec.observations, 2)
    obs["entities_mask"][:] = False
    obs["entities_mask"][:, :4] = True
    seen, _ = policy.observe(obs, time_s, state, fresh)
    assert seen.features["perceptual"].shape[1] == 4

    obs["entities_mask"][1, 6] = True
    with pytest.raises(SpecMismatch, match="up to row 7, but this policy reads 4"):
        policy.observe(obs, time_s, state, fresh)
    # Where nothing may be looked at, the answer is none that a robot or a trainer would take.
    monkeypatch.setattr(model, "looks_at_data", lambda tensor: False)
    after, _ = policy.observe(obs, time_s, state, fresh)
    torch.testing.assert_close(after.features["condition"][0], seen.features["condition"][0])
    assert after.features["condition"][1].isnan().all()
    with pytest.raises(ConfigError, match="has 32 rows"):
        make(ENTITIES, trunk="entities", entity_rows=33)


def test_the_hand_is_a_token_at_its_place():
    policy = make(ENTITIES, trunk="entities", entity_rows=4, hand_token=True)
    assert policy.initial_state(1)["entities.tokens"].shape[2] == 5
    obs = random_obs(policy.spec.observations, 2)
    obs["entities_mask"][:, 4:] = False
    seen = policy.trunk(obs)
    assert seen.tokens.shape[1] == 5 and seen.mask[:, 4].all()
    assert torch.equal(seen.positions[:, 4], obs["eef_pos_world_m"])
    moved = {**obs, "eef_pos_world_m": obs["eef_pos_world_m"] + 0.1}
    after = policy.trunk(moved)
    assert torch.equal(after.tokens[:, :4], seen.tokens[:, :4])
    assert not torch.allclose(after.tokens[:, 4], seen.tokens[:, 4])
    without = {k: v for k, v in ENTITIES.items() if k != "gripper_opening"}
    with pytest.raises(SpecMismatch, match="gripper_opening"):
        make(without, trunk="entities", hand_token=True, proprio=[])


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="did you mean 'conv'"):
        MemoryVLAConfig(trunk="convv")
    with pytest.raises(ConfigError, match="multiple of 16"):
        MemoryVLAConfig(width=40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grounding": False}, "grounding=False does nothing with trunk=conv"),
        ({"token_grid": 2}, "token_grid=2 does nothing with trunk=conv"),
        ({"compress": "squeeze_excite_wide"}, "does nothing with trunk=conv"),
        ({"hand_token": True}, "hand_token=True does nothing with trunk=conv"),
        ({"entity_rows": 8}, "entity_rows=8 does nothing with trunk=conv"),
        ({"trunk": "tiny", "blocks": 2}, "blocks=2 does nothing with trunk=tiny"),
        ({"fusion": "add", "gate_weighs": "memory"}, "does nothing with fusion=add"),
        ({"goal_loss": 0.0, "goal_noise_m": 0.03}, "goal_noise_m=0.03 does nothing with goal_loss"),
        ({"goal_loss": 0.0, "goal_first_weight": 4.0}, "goal_first_weight=4.0 does nothing"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MemoryVLAConfig(**options)


def test_temperature_scales_the_noise_in_acting():
    chunks = []
    for temperature in (0.0, 1.0):
        policy = make(head=ActionHeadConfig(temperature=temperature))
        with torch.no_grad():
            policy.head.dit.out.weight.normal_(std=0.1)
        obs, fresh = random_obs(policy.spec.observations, 1), policy.initial_state(1)
        first = torch.ones(1, dtype=torch.bool)
        working, _ = policy.observe(obs, torch.zeros(1), fresh, first)
        noise = [torch.randn(1, *policy.spec.noise_shape) for _ in range(2)]
        chunks.append([policy.act(working, n).chunk for n in noise])
    assert torch.equal(*chunks[0]) and not torch.equal(*chunks[1])
    with pytest.raises(ConfigError, match="temperature must be within"):
        ActionHeadConfig(temperature=1.5)
