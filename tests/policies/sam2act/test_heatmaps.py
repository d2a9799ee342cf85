"""Heatmaps and points: labels, cross-entropy, and the separable search against brute force."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.sam2act import heatmaps
from policies.sam2act.cloud import ZOOM, Cloud, CubeFrame
from policies.sam2act.heatmaps import (
    decode,
    gaussian_labels,
    pixel_m,
    project,
    soft_cross_entropy,
)
from policies.sam2act.views import RGB, render


def brute_force(logits):
    """Returns every candidate and its score [B, S^3], read from the heatmaps at its projection."""
    B, V, S, _ = logits.shape
    line = -1 + (2 * torch.arange(S, dtype=torch.float64) + 1) / S
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    heat = logits.double().flatten(2).softmax(dim=-1).view(B, V, S, S)
    pixels = project(grid, S)
    score = torch.zeros(B, len(grid), dtype=torch.float64)
    for view in range(V):
        at = pixels[:, view]
        low = at.floor().long().clamp(max=S - 2)
        (u, v), (fu, fv) = low.unbind(-1), (at - low).unbind(-1)
        h = heat[:, view]
        value = (
            h[:, v, u] * (1 - fu) * (1 - fv)
            + h[:, v, u + 1] * fu * (1 - fv)
            + h[:, v + 1, u] * (1 - fu) * fv
            + h[:, v + 1, u + 1] * fu * fv
        )
        score += torch.where((at > S - 1).any(dim=-1), 0.0, value) / V
    return grid, score


def log_labels(points, side):
    return (gaussian_labels(project(points, side), side) + 1e-12).log()


unit = st.floats(-0.9, 0.9)


@given(st.lists(unit, min_size=3, max_size=3), st.sampled_from([32, 64, 112]))
@settings(max_examples=40)
def test_j_labels_sum_to_one_peak_at_the_pixel_and_are_cut_off(point, side):
    pixels = project(torch.tensor(point), side)
    labels = gaussian_labels(pixels, side)
    torch.testing.assert_close(labels.sum(dim=(1, 2)), torch.ones(3), atol=1e-5, rtol=0)
    v, u = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for label, (at_u, at_v) in zip(labels, pixels, strict=True):
        peak = int(label.argmax())
        assert abs(peak % side - at_u) <= 0.5 + 1e-4 and abs(peak // side - at_v) <= 0.5 + 1e-4
        distance = torch.hypot(u - at_u, v - at_v)
        assert (label[distance > 4.5001] == 0).all() and (label[distance < 4.4999] > 0).all()


def test_j_label_falls_off_by_sigma():
    label = gaussian_labels(torch.tensor([20.0, 12.0]), 32)
    assert float(label[12, 23] / label[12, 20]) == pytest.approx(math.exp(-(3**2) / (2 * 1.5**2)))
    assert label[12, 20] > label[20, 12]


def test_targets_far_outside_a_view_have_no_label_and_no_loss():
    labels = gaussian_labels(torch.tensor([[-9.0, 5.0], [5.0, 5.0]]), 16)
    assert labels[0].sum() == 0 and torch.isfinite(labels).all()
    loss = soft_cross_entropy(torch.randn(2, 16, 16), labels)
    assert loss[0] == 0 and loss[1] > 0


@pytest.mark.parametrize("side", [64, 112, 128, 224])
def test_k_labels_decode_to_within_half_a_pixel(side):
    count = 200 if side < 200 else 40
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(side)) * 1.8 - 0.9
    error = (decode(log_labels(points, side)) - points).abs().max()
    assert error <= 1 / side + 1e-6
    assert error > 0.8 / side  # that near to the bound, it is half a pixel and not less


@given(st.integers(0, 10_000), st.sampled_from([2, 3, 8, 17]), st.sampled_from([0.3, 3.0, 30.0]))
@settings(max_examples=60)
def test_l_separable_search_is_brute_force(seed, side, sharpness):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(2, 3, side, side, generator=generator)
    grid, score = brute_force(logits)
    found = decode(logits)
    index = ((found.double() + 1) * side / 2).floor().long()
    flat = (index[:, 0] * side + index[:, 1]) * side + index[:, 2]
    torch.testing.assert_close(grid[flat], found.double(), atol=1e-6, rtol=0)
    of_found, best = score.gather(1, flat[:, None])[:, 0], score.amax(dim=1)
    assert (of_found >= best - 1e-6 * best).all()


def test_l_chunks_do_not_matter(monkeypatch):
    logits = 5 * torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    whole = decode(logits)
    monkeypatch.setattr(heatmaps, "_SCORES_AT_ONCE", 5 * 3 * 24 * 24)
    assert torch.equal(decode(logits), whole)
    assert torch.equal(torch.cat([decode(row[None]) for row in logits]), whole)


def test_l_the_last_pixel_gives_no_weight_in_its_view():
    S = 8
    logits = torch.full((1, 3, S, S), -20.0)
    logits[0, 0, S - 1, 3] = 0.0  # the top view's lowest row: candidates there are beyond S - 1
    logits[0, 1:, 4, 4] = 0.0
    # The top view still reads the row above, at half: y is the second lowest.
    assert decode(logits)[0, 1] == pytest.approx(-1 + 3 / S)


def test_each_view_alone_says_its_two_coordinates():
    S, point = 32, torch.tensor([[0.3, -0.5, 0.7]])
    for view, known in enumerate(((0, 1), (1, 2), (0, 2))):
        logits = torch.zeros(1, 3, S, S)
        logits[:, view] = log_labels(point, S)[:, view]
        found = decode(logits)
        for axis in known:
            assert abs(found[0, axis] - point[0, axis]) <= 1 / S + 1e-6


def test_projection_and_pictures_agree():
    S, point = 64, torch.tensor([0.31, -0.42, 0.23])
    at = project(point, S)
    one = Cloud(point[None, None], torch.ones(1, 1, 3), torch.ones(1, 1, dtype=torch.bool))
    for view, image in enumerate(render(one, S)[0]):
        rows, columns = torch.where(image[RGB].sum(dim=0) > 0)
        assert columns.float().mean() == at[view, 0].floor()
        assert rows.float().mean() == at[view, 1].floor()


def test_m_metric_resolution_of_the_published_box():
    frame = CubeFrame(side_m=1.0)
    assert pixel_m(frame, 224) == pytest.approx(4.46e-3, abs=5e-6)
    assert pixel_m(frame, 224, ZOOM) == pytest.approx(1.12e-3, abs=5e-6)
    step = torch.tensor([[0.0, 0, 0], [2 / 224, 0, 0]])
    world = frame.to_world(step)
    assert float(world[1, 0] - world[0, 0]) == pytest.approx(pixel_m(frame, 224))
    assert float(project(step, 224)[1, 0, 0] - project(step, 224)[0, 0, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize("side", [64, 224])
def test_n_cross_entropy_floor_is_the_labels_entropy(side):
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    labels = gaussian_labels(project(points, side), side)
    loss = soft_cross_entropy((labels + 1e-30).log(), labels)
    entropy = -(labels * (labels + 1e-30).log()).sum(dim=(-2, -1))
    torch.testing.assert_close(loss, entropy, atol=1e-4, rtol=0)
    assert loss.shape == (50, 3) and loss.min() > 3.565 and loss.max() < 3.615
    worse = soft_cross_entropy((labels + 1e-30).log() + torch.randn_like(labels), labels)
    assert (worse > loss).all()


def test_n_cross_entropy_ignores_a_constant():
    logits = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    labels = gaussian_labels(project(torch.zeros(2, 3), 32), 32)
    moved = soft_cross_entropy(logits + 7.0, labels)
    torch.testing.assert_close(moved, soft_cross_entropy(logits, labels), atol=1e-4, rtol=0)
    assert torch.equal(decode(logits), decode(logits + 8.0))


def test_cross_entropy_is_torchs_own():
    logits = torch.randn(5, 16, 16, dtype=torch.float64)
    labels = gaussian_labels(torch.rand(5, 2) * 10 + 3, 16)
    theirs = F.cross_entropy(logits.flatten(1).float(), labels.flatten(1), reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, labels), theirs)
