"""The bank as MemoryVLA's paper, its code and the successor's have it: numbers and presets.

Names cite the parity cases of the specification's section 6 where there is one. The presets
are ``configs/memory/{paper,released,plus,ours}.yaml``; their values are those of the
specification's tables 1.8 and 1.9.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embodied.commands.compose import compose
from embodied.config import Raw
from embodied.core.errors import ConfigError
from embodied.memory import build_memory, memory_config
from embodied.memory.bank import PerceptualCognitiveConfig, StreamBank
from embodied.memory.perceptual_cognitive import PerceptualCognitiveMemory
from embodied.memory.slots import similarity
from embodied.nn.attention import RetrievalBlock
from embodied.nn.fusion import GateFusion
from embodied.nn.position import TimeEncoding, sinusoid
from policies.memory_vla.config import MemoryVLAConfig
from tests.policies.test_memory_vla import make, make_segment

PAPER = {
    "projections": False,
    "qk_init": "independent",
    "similarity": "entry",
    "detach": True,
    "skip_zero_tokens": False,
    "time_network": False,
}


def count(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module for p in module.parameters())


def preset(name: str, **groups: str) -> dict[str, Any]:
    """Returns what ``embodied train memory=NAME`` composes."""
    data, rest = compose("train", {"memory": Raw(name), **{k: Raw(v) for k, v in groups.items()}})
    assert rest == {}
    return data


# ---- sizes (1.5.7) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "blocks", "gate", "time", "total"),
    # Millions, to the printed digit.
    [(4096, 369.2, 33.6, 21.0, 423.7), (256, 1.45, 0.13, 0.08, 1.66)],
)
def test_streams_have_the_published_sizes(
    width: int, blocks: float, gate: float, time: float, total: float
) -> None:
    config = memory_config("perceptual_cognitive", preset("released")["memory"]["config"])
    with torch.device("meta"):
        bank, fusion = StreamBank("s", 1, width, config), GateFusion(width)
    assert count(bank.blocks) == 2 * (11 * width**2 + 12 * width)
    assert count(fusion) == 2 * width**2 + width
    assert count(bank.time) == width * (width // 4) + width**2 + 2 * width
    digits = 1 if width == 4096 else 2
    found = [count(*parts) for parts in ([bank.blocks], [fusion], [bank.time], [bank, fusion])]
    assert [round(n / 1e6, digits) for n in found] == [blocks, gate, time, total]


def test_keys_of_the_published_bank() -> None:
    config = memory_config("perceptual_cognitive", preset("released")["memory"]["config"])
    with torch.device("meta"):
        memory = PerceptualCognitiveMemory({"per": (256, 256), "cog": (1, 4096)}, config)
        state, long = memory.initial(1), memory.initial(1, capacity=256)
    assert state["per.tokens"].shape == (1, 16, 256, 256)  # 4096 keys
    assert state["cog.tokens"].shape == (1, 16, 1, 4096)
    assert long["per.tokens"].shape[1:3].numel() == 65_536


# ---- retrieval without projections (paper) --------------------------------------------------


def rows(*vectors: list[float]) -> Tensor:
    """Slots of one token: [1, S, 1, D]."""
    return torch.tensor(vectors)[None, :, None]


def attended(block: RetrievalBlock, query: Tensor, slots: Tensor, code: Tensor | None):
    """Returns the weights, and what the attention adds to the query, in both forms."""
    seen: list[Tensor] = []
    hook = block.norm_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    live = torch.ones(slots.shape[:3], dtype=torch.bool)
    _, weights = block(query, slots, code, live)
    block.attend(query, *block.project(slots, code), torch.zeros(1, 1))
    hook.remove()
    return weights.flatten(), [(u - query).flatten() for u in seen]


@pytest.mark.parametrize("qk_init", ["equal", "independent"])
def test_r1_r2_without_projections(qk_init: str) -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(2, qk_init=qk_init, projections=False)
    query, slots = torch.tensor([[[1.0, 0]]]), rows([1.0, 0], [0, 1.0])
    near, far = 0.669762, 0.330238
    for code, expected in (
        (None, [near, far]),  # R1
        (torch.tensor([[[0.0, 0], [2.0, 0]]]), [far, near]),  # R2
    ):
        weights, outputs = attended(block, query, slots, code)
        for found in (weights, *outputs):
            assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


def test_r3_without_projections() -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(4, projections=False)
    for linear in (block.ffn[0], block.ffn[3]):  # R3 has no feed-forward
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    slots, value = rows([1.0, 0, 0, 0], [0, 1.0, 0, 0]), torch.tensor([[[1.0, 0, 0, 0]]])
    for expected in (
        [1.685040, -0.183836, -0.750602, -0.750602],
        [1.668428, -0.117642, -0.775393, -0.775393],
    ):
        value, _ = block(value, slots, None, torch.ones(1, 2, 1, dtype=torch.bool))
        assert torch.allclose(value.flatten(), torch.tensor(expected), atol=1e-5)


def test_absent_projections_do_not_learn() -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(8, projections=False)
    optimizer = torch.optim.AdamW(block.parameters(), lr=1e-2, weight_decay=0.1)
    before = {name: p.clone() for name, p in block.named_parameters()}
    live = torch.ones(2, 3, 4, dtype=torch.bool)
    for _ in range(3):
        value, _ = block(torch.randn(2, 5, 8), torch.randn(2, 3, 4, 8), None, live)
        optimizer.zero_grad()
        (value * torch.randn_like(value)).sum().backward()
        optimizer.step()
    still = {name for name, p in block.named_parameters() if torch.equal(p, before[name])}
    parts = {f"{layer}.{p}" for layer in ("query", "key", "value") for p in ("weight", "bias")}
    assert still == parts
    for layer in (block.query, block.key, block.value):
        assert torch.equal(layer.weight, torch.eye(8))
        assert not layer.bias.any()
    # What is left to learn of 11 d^2 + 12 d: the feed-forward layer and two norms.
    assert sum(p.numel() for p in block.parameters() if p.requires_grad) == 8 * 8**2 + 9 * 8


def test_time_without_a_network_is_the_sinusoid() -> None:
    time_s = torch.tensor([0.0, 0.4, 5.0])
    encoding = TimeEncoding(8, scale_hz=20.0, network=False)
    assert count(encoding) == 0
    assert torch.equal(encoding(time_s), sinusoid(20.0 * time_s, 8))
    # The sinusoid cases of section 6, through the encoding.
    frame = TimeEncoding(4, network=False)(torch.tensor([1.0, 5.0]))
    expected = [[0.540302, 0.999950, 0.841471, 0.010000], [0.283662, 0.998750, -0.958924, 0.049979]]
    assert torch.allclose(frame, torch.tensor(expected), atol=1e-6)
    with pytest.raises(ConfigError, match="time_features=4 needs time_network=true"):
        TimeEncoding(8, features=4, network=False)


def test_paper_bank_reads_by_the_papers_equation() -> None:
    torch.manual_seed(0)
    config = PerceptualCognitiveConfig(**PAPER, capacity=3)
    memory = PerceptualCognitiveMemory({"s": (2, 8)}, config).eval()
    items, now = torch.randn(1, 3, 2, 8), torch.tensor([[0.0, 1.5, 4.0]])
    no = torch.zeros(1, 3, dtype=torch.bool)
    value, _ = memory.unroll({"s": items}, now, memory.initial(1), no, ~no)
    expected = items[0, 2]
    stored = items[0, :2].flatten(0, 1)
    keys = stored + sinusoid(now[0, :2], 8).repeat_interleave(2, dim=0)
    for block in memory.banks["s"].blocks:
        read = torch.softmax(expected @ keys.T / math.sqrt(8), dim=-1) @ stored
        expected = block.finish(expected, read)
    assert torch.allclose(value["s"][0, 2], expected, atol=1e-5)


# ---- merging: cosine of tokens or of entries ------------------------------------------------

TWO_TOKENS = torch.tensor(
    [
        [[2.0, 0], [0, 1]],
        [[2.0, 0], [0, -1]],
        [[0.0, 2], [0, -1]],
    ]
)
"""Case M7's entries, and a third: tokens (1, 2) and (2, 3) have cosines (1, -1) and (0, 1)."""


def test_m7_entry_similarity() -> None:
    left, right = TWO_TOKENS[:-1], TWO_TOKENS[1:]
    entry, tokens = (similarity(left, right, kind) for kind in ("entry", "tokens"))
    assert torch.allclose(entry, torch.tensor([0.6, 0.2]), atol=1e-6)
    assert torch.allclose(tokens, torch.tensor([0.0, 0.5]), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "entries", "times"),
    [
        ("entry", [[[2, 0], [0, 0]], [[0, 2], [0, -1]]], [0, 2]),
        ("tokens", [[[2, 0], [0, 1]], [[1, 1], [0, -1]]], [0, 1]),
    ],
)
def test_similarity_decides_which_pair_merges(kind: str, entries: list, times: list) -> None:
    config = PerceptualCognitiveConfig(capacity=2, similarity=kind)
    memory = PerceptualCognitiveMemory({"s": (2, 2)}, config)
    no = torch.zeros(1, 3, dtype=torch.bool)
    items, now = TWO_TOKENS[None], torch.arange(3.0)[None]
    _, unrolled = memory.unroll({"s": items}, now, memory.initial(1), no, ~no)
    stepped = memory.initial(1)
    for t in range(3):
        _, stepped = memory.step({"s": items[:, t]}, now[:, t], stepped, no[:, t])
    for state in (unrolled, stepped):
        assert torch.equal(state["s.tokens"][0], torch.tensor(entries, dtype=torch.float32))
        assert state["s.time_s"][0].tolist() == times


def test_m13_entry_similarity_ignores_the_scale_of_an_entry() -> None:
    left, right = TWO_TOKENS[:-1], TWO_TOKENS[1:]
    for kind in ("entry", "tokens"):
        scaled = similarity(3 * left, right, kind)
        assert torch.allclose(scaled, similarity(left, right, kind), atol=1e-6)
    # Scaling one token alone is seen by the entry's cosine only: (40 - 1) / sqrt(401 * 5).
    bright = left * torch.tensor([10.0, 1.0])[:, None]
    assert torch.allclose(similarity(bright, right, "tokens"), torch.tensor([0.0, 0.5]), atol=1e-6)
    found = similarity(bright[0], right[0], "entry").item()
    assert found == pytest.approx((40 - 1) / math.sqrt(401 * 5), abs=1e-4)


# ---- the first frame, and time, of the successor --------------------------------------------


def single(name: str, capacity: int) -> PerceptualCognitiveMemory:
    """One stream of one 8-wide token with a preset's bank."""
    torch.manual_seed(0)
    options = {**preset(name)["memory"]["config"], "capacity": capacity}
    return build_memory("perceptual_cognitive", {"s": (1, 8)}, options).eval()


@pytest.mark.parametrize("name", ["paper", "released", "plus"])
def test_e1_first_frame_of_each_preset(name: str) -> None:
    memory, items = single(name, 4), torch.randn(1, 4, 1, 8)
    first = torch.tensor([[True, False, True, False]])
    now = torch.tensor([[0.0, 1, 0, 1]])
    value, state = memory.unroll({"s": items}, now, memory.initial(1), first, first | ~first)
    assert int(state["s.count"]) == 2  # the second episode alone
    itself = memory.banks["s"].neutral(items, now)
    for t in (0, 2):
        assert torch.equal(itself[:, t], items[:, t]) is (name != "plus")
        assert torch.allclose(value["s"][:, t], itself[:, t], atol=1e-6)
    # The first frame of the second episode is read as if there had been none before it.
    alone, _ = memory.unroll(
        {"s": items[:, 2:]}, now[:, 2:], memory.initial(1), first[:, 2:], first[:, 2:] | True
    )
    assert torch.allclose(value["s"][:, 2:], alone["s"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "time"), [("paper", 0.0), ("released", 0.0), ("plus", 2.125), ("ours", 0.0)]
)
def test_m5_merged_time_of_each_preset(name: str, time: float) -> None:
    # Times are those of case M5, so are the first numbers of the items; capacity is one.
    memory, items = single(name, 1), torch.zeros(1, 4, 1, 8)
    items[0, :, 0, :2] = torch.tensor([[8.0, 1], [4, 1], [0, 1], [16, 1]])
    no = torch.zeros(1, 4, dtype=torch.bool)
    now = torch.arange(4.0)[None]
    _, state = memory.unroll({"s": items}, now, memory.initial(1), no, ~no)
    assert torch.allclose(state["s.tokens"][0, 0, 0, :2], torch.tensor([9.5, 1]))
    assert state["s.time_s"].item() == pytest.approx(time)


# ---- presets (1.8, 1.9) ---------------------------------------------------------------------

COMMON = {
    "capacity": 16,  # L
    "layers": 2,
    "overflow": "similar",
    "anchor": 0,
    "count_weighted": False,
    "detach": True,
    "time_encoding": True,
    "qk_init": "independent",
    "skip_zero_tokens": False,
    "pool_maps": 1,
    "remember": [],
    "capacities": {},
    "pool": {},
}
"""What all published forms share."""

CODE = {"projections": True, "similarity": "tokens", "time_network": True, "time_scale_hz": 20.0}
"""1.9, rows 4, 5, 7 and 12: learned maps, mean of cosines, a network, frame indices (20 Hz)."""

OWN = {
    # The unit of the paper's time (row 12) is left open here: it names "episode timesteps".
    "paper": {
        **{k: PAPER[k] for k in ("projections", "similarity", "time_network")},
        "heads": 1,
        "dropout": 0.0,
        "empty_read": "query",
    },
    "released": {
        **CODE,
        "heads": 1,
        "dropout": 0.0,
        "merged_time": "earlier",
        "time_features": 0,  # d / 4
        "empty_read": "query",
    },
    "plus": {
        **CODE,
        "heads": 4,
        "dropout": 0.1,
        "merged_time": "mean",
        "time_features": 256,
        "empty_read": "self",
    },
}

POLICY = {
    # 1.9, rows 1 and 2: what is stored, and what the gate weighs.
    "paper": {"store": "fused", "gate_weighs": "memory"},
    "released": {"store": "raw", "gate_weighs": "present"},
    "plus": {"store": "fused", "gate_weighs": "present"},
}


@pytest.mark.parametrize("name", sorted(OWN))
def test_presets_hold_the_published_options(name: str) -> None:
    data = preset(name)
    assert data["memory"]["name"] == "perceptual_cognitive"
    config = memory_config("perceptual_cognitive", data["memory"]["config"])
    found = {key: getattr(config, key) for key in (*COMMON, *OWN[name])}
    assert found == {**COMMON, **OWN[name]}
    policy = MemoryVLAConfig(**data["policy"]["config"])
    assert {key: getattr(policy, key) for key in POLICY[name]} == POLICY[name]
    assert policy.fusion == "gate"


def test_our_preset_is_the_default_bank() -> None:
    ours, default = preset("ours"), preset("perceptual_cognitive")
    assert ours["memory"] == default["memory"]
    assert ours["policy"] == default["policy"]


@pytest.mark.parametrize("name", sorted(POLICY))
def test_presets_survive_a_size_preset(name: str) -> None:
    data = preset(name, preset="state")
    assert data["memory"] == preset(name)["memory"]
    config = MemoryVLAConfig(**data["policy"]["config"])
    assert config.trunk == "entities"
    assert {key: getattr(config, key) for key in POLICY[name]} == POLICY[name]


@pytest.mark.parametrize("name", [*OWN, "ours"])
def test_presets_build_and_take_a_training_step(name: str) -> None:
    data = preset(name)
    memory, policy_config = data["memory"], data["policy"]["config"]
    policy = make(memory=memory["name"], memory_config=memory["config"], **policy_config).train()
    # With the last layers at zero no gradient gets past them in the first step.
    nn.init.normal_(policy.head.dit.out.weight, std=0.1)
    before = {key: p.detach().clone() for key, p in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
    out = policy.loss(
        make_segment(policy), policy.initial_state(3), torch.Generator().manual_seed(0)
    )
    out.loss.backward()
    optimizer.step()
    assert torch.isfinite(out.loss)
    assert all(torch.isfinite(p).all() for p in policy.parameters())
    still = {key for key, p in policy.named_parameters() if torch.equal(p, before[key])}
    expected = set()
    if name == "paper":
        parts = ("query", "key", "value")
        expected = {k for k in before if ".blocks." in k and k.startswith("memory.")}
        expected = {k for k in expected if k.split(".")[-2] in parts}
        assert len(expected) == 3 * 2 * 6  # streams, blocks, weights and biases
    assert still & {key for key in before if key.startswith(("memory.", "fuse."))} == expected
    stored = out.state["cognitive.tokens"]
    assert stored.requires_grad is (name == "ours")
    assert len(policy.memory.banks["cognitive"].blocks) == (1 if name == "ours" else 2)
