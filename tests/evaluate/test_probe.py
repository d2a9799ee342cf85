"""The cue probe finds what is there, and nothing where there is nothing."""

import torch

from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.evaluate.probe import fit_and_score, probe_cue
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA
from tests.data.conftest import original  # noqa: F401


def test_a_linear_trace_is_found_and_noise_is_not():
    torch.manual_seed(0)
    cues = torch.randint(0, 4, (400,))
    noise = torch.randn(400, 30)
    trace = noise.clone()
    trace[:, :2] += 3.0 * torch.stack([cues % 2, cues // 2], dim=-1)
    found, nothing = fit_and_score(trace, cues, 0.3), fit_and_score(noise, cues, 0.3)
    assert found.n == 120 and found.accuracy > 0.75 > 0.4 > nothing.accuracy
    assert found.low < found.accuracy < found.high
    assert 0.2 < found.chance < 0.4


def test_a_policy_is_probed_at_go(original):  # noqa: F811
    dataset = SegmentDataset(original, SegmentConfig(4, privileged=True))
    torch.manual_seed(0)

    def make(memory):
        config = MemoryVLAConfig(width=32, readout_queries=2, horizon=4, memory=memory)
        return MemoryVLA(config, dataset.interface).eval()

    with_memory = probe_cue(make("perceptual_cognitive"), dataset, batches=6)
    assert with_memory.keys() == {"kept", "told"}
    assert with_memory["kept"].n == 8
    assert probe_cue(make("none"), dataset, batches=6).keys() == {"told"}
