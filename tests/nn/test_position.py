"""Sinusoids and the time encoding; the numbers are those of MemoryVLA's parity cases."""

from __future__ import annotations

import math

import pytest
import torch

from embodied.core.errors import ConfigError
from embodied.nn.position import FourierFeatures, TimeEncoding, sinusoid


@pytest.mark.parametrize(
    ("time", "features", "expected"),
    [
        (0, 4, [1, 1, 0, 0]),
        (1, 4, [0.540302, 0.999950, 0.841471, 0.010000]),
        (5, 4, [0.283662, 0.998750, -0.958924, 0.049979]),
        (1, 8, [0.540302, 0.995004, 0.999950, 1.0, 0.841471, 0.099833, 0.010000, 0.001000]),
    ],
)
def test_sinusoid_parity(time: int, features: int, expected: list[float]) -> None:
    found = sinusoid(torch.tensor(time), features)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_sinusoid_of_odd_width_ends_with_zero() -> None:
    odd = sinusoid(torch.tensor([1.0, 2.0]), 5)
    assert odd.shape == (2, 5)
    assert torch.equal(odd[:, :4], sinusoid(torch.tensor([1.0, 2.0]), 4))
    assert not odd[:, 4].any()
    assert torch.equal(sinusoid(torch.tensor(3), 1), torch.zeros(1))


def test_time_scale_turns_seconds_into_frame_indices() -> None:
    torch.manual_seed(0)
    frames, seconds = TimeEncoding(16, scale_hz=20.0), TimeEncoding(16)
    seconds.load_state_dict(frames.state_dict())
    time_s = torch.tensor([0.0, 0.05, 1.0])
    assert torch.allclose(frames(time_s), seconds(torch.tensor([0.0, 1.0, 20.0])), atol=1e-6)


def test_time_encoding_has_the_published_size() -> None:
    width = 256
    count = sum(p.numel() for p in TimeEncoding(width).parameters())
    assert count == width * width // 4 + width**2 + 2 * width


def test_time_scale_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="time_scale_hz must be > 0, got 0"):
        TimeEncoding(16, scale_hz=0)


def test_fourier_features_compare_points_by_distance() -> None:
    torch.manual_seed(0)
    code = FourierFeatures(3, 4096, scale=0.1)
    here = torch.tensor([[0.3, -0.2, 0.9]])
    for distance in (0.0, 0.05, 0.1, 0.2, 1.0):
        there = here + torch.tensor([distance, 0.0, 0.0])
        alike = (code(here) * code(there)).mean().item()
        assert alike == pytest.approx(math.exp(-(distance**2) / 0.02), abs=0.06)


def test_fourier_features_keep_their_digits_under_autocast() -> None:
    code, point = FourierFeatures(3, 8, scale=0.01), torch.tensor([[0.3, -0.2, 0.9]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(code(point), code(point.double().float()))
        narrow = code(point)
    assert torch.equal(narrow, code(point))
