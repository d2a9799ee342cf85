"""Looking into memory: which slot held which tick, shares of what was read, and the files."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embodied.core.errors import ConfigError
from embodied.core.files import read_json
from embodied.core.rng import EVAL_SEED_START
from embodied.evaluate import keyframe_pictures
from embodied.evaluate.api import evaluate
from embodied.evaluate.inspection import (
    Inspection,
    attention_to_ticks,
    seen,
    slots_of_ticks,
    write_inspection,
)
from embodied.evaluate.results import read_episodes
from embodied.evaluate.scrubber import Looks
from embodied.evaluate.video import Caption, Recording
from embodied.memory import build_memory
from tests.evaluate.checkpoints import untrained


@given(
    seed=st.integers(0, 999),
    capacity=st.integers(1, 5),
    overflow=st.sampled_from(["similar", "fifo"]),
)
def test_slots_of_ticks_follow_the_bank(seed: int, capacity: int, overflow: str) -> None:
    """Ticks are one-hot tokens, so what a slot holds says which ticks went into it."""
    ticks = 9
    options = {"capacity": capacity, "overflow": overflow, "time_encoding": False}
    memory = build_memory("perceptual_cognitive", {"s": (1, 16)}, options)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand(ticks, 16 - ticks, generator=draw)  # so that similarities differ
    items = torch.cat([torch.eye(ticks), noise], dim=1)
    state, counts, expected = memory.initial(1), [], np.full((ticks, ticks), -1)
    for t in range(ticks):
        live = torch.arange(capacity) < state["s.count"]
        counts.append(state["s.items"][0][live].numpy())
        for slot, token in enumerate(state["s.tokens"][0, live, 0, :ticks]):
            expected[t, (token > 0).numpy()] = slot
        query = {"s": items[t].view(1, 1, -1)}
        _, state = memory.step(query, torch.full((1,), float(t)), state, torch.zeros(1) > 0)
    assert np.array_equal(slots_of_ticks(counts), expected)


def test_times_tell_which_slot_was_dropped_where_counts_cannot() -> None:
    """A bank of two with its first item pinned: the later one is the one that goes."""
    items = [[], [1], [1, 1], [1, 1]]
    ages = [[], [1.0], [2.0, 1.0], [3.0, 1.0]]
    arrays = [[np.asarray(row) for row in rows] for rows in (items, ages)]
    held = slots_of_ticks(arrays[0], [0.0, 1.0, 2.0, 3.0], arrays[1])
    assert held[-1].tolist() == [0, -1, 1, -1]
    assert slots_of_ticks(arrays[0])[-1].tolist() == [-1, 0, 1, -1]


def test_another_memory_put_in_holds_none_of_these_ticks() -> None:
    counts = [[], [1], [1, 1], [5, 2, 1], [5, 2, 1, 1]]
    assert slots_of_ticks(np.asarray(c) for c in counts)[-1].tolist() == [-1, -1, -1, 3, -1]


def test_shares_are_of_what_the_meant_tokens_read() -> None:
    attention = np.zeros((3, 1, 2, 2))
    attention[2, 0] = [[1.0, 0.0], [0.25, 0.75]]
    arrays = {
        "time_s": np.arange(3.0),
        "other.gate": np.zeros((3, 4)),
        "s.gate": np.zeros((3, 2)),
        "s.attention": attention,
        "s.slot_of_tick": np.array([[-1, -1, -1], [0, -1, -1], [0, 1, -1]]),
        "goal.weight": np.array([[0.1] * 6] * 2 + [[0.2, 0, 0, 0, 0, 0.8]]),
    }
    share = attention_to_ticks(arrays, "s")
    np.testing.assert_allclose(share[2], [0.25, 0.75, 0.0])
    arrays["s.slot_of_tick"][2] = [1, 1, -1]  # both in one slot: its share is split
    np.testing.assert_allclose(attention_to_ticks(arrays, "s")[2], [0.375, 0.375, 0.0])


@pytest.mark.sim
def test_an_evaluation_writes_what_was_read(tmp_path) -> None:
    run = untrained(tmp_path / "run", "perceptual_cognitive")
    options = {"episodes": 2, "videos": 1, "batch": 2, "progress": False}
    out = evaluate(run, inspect=True, out=str(tmp_path / "seen"), **options)
    stem = f"remember_color-easy-policy-none-{EVAL_SEED_START}"
    arrays = np.load(out / "inspection" / f"{stem}.npz", allow_pickle=False)
    row = read_episodes(out / "episodes.jsonl")[0]
    ticks = row.observations
    assert arrays["time_s"].shape == (ticks,) and str(arrays["phase"][0]) == "cue"
    attention, live = arrays["entities.attention"], arrays["entities.live"]
    assert attention.shape == (ticks, 2, 32, 16) and live[-1].any() and not live[0].any()
    np.testing.assert_allclose(attention[1:].sum(-1), 1.0, atol=2e-2)
    assert arrays["entities.slot_of_tick"][-1, 0] == 0
    assert arrays["entities.gate"].shape == (ticks, 32)
    assert arrays["action"].shape == (ticks, 8, 7) and np.isnan(arrays["action"][0]).all()
    assert arrays["frame_u8"].shape == (ticks, 144, 144, 3)
    picture = out / "inspection" / f"{stem}.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    report = (out / "report.md").read_text()
    assert f"inspection/{stem}.png" in report and f"inspection/{stem}.npz" in report
    assert "data:image/png" in (out / "report.html").read_text()
    plain = evaluate(run, out=str(tmp_path / "unseen"), **options)
    assert read_episodes(plain / "episodes.jsonl") == read_episodes(out / "episodes.jsonl")


@pytest.mark.sim
def test_of_a_memory_without_slots_frames_and_actions_are_kept(tmp_path) -> None:
    run = untrained(tmp_path / "run", "none")
    options = {"episodes": 1, "batch": 1, "progress": False, "intervene": ["none", "swapped"]}
    out = evaluate(run, inspect=True, videos=1, out=str(tmp_path / "seen"), **options)
    files = sorted(file.name for file in (out / "inspection").iterdir())
    stem = "remember_color-easy-policy-{}-" + str(EVAL_SEED_START) + ".npz"
    assert files == [stem.format("none"), stem.format("swapped")]
    looks = Looks()
    looks.add(out, read_json(out / "results.json")["rows"], read_episodes(out / "episodes.jsonl"))
    (look,) = looks.episodes
    own, other = look["sides"]
    gate = own["phases"].index("execute")
    assert [chunk is None for chunk in own["actions"]] == [p != "execute" for p in own["phases"]]
    assert len(own["actions"][gate][0]) == len(own["names"]) == 7
    assert own["frames"][: gate + 1] == other["frames"][: gate + 1]  # equal until go, kept once
    assert len(looks.images) < len(own["frames"]) + len(other["frames"])
    assert "memory of:" in other["said"][-1] and own["streams"] == []
    assert 'id="inspector"' in (out / "report.html").read_text()
    with pytest.raises(ConfigError, match="videos=0"):
        evaluate(run, episodes=1, inspect=True, videos=0)


def test_frames_are_the_last_ones_seen_by_then() -> None:
    film = Recording(stride=2)
    for tick in range(3):
        film.frames.append(np.full((4, 4, 3), tick, np.uint8))
        film.captions.append(Caption("cue", f"cue: {tick}", 2 * tick, 0.1 * tick))
    found = seen([0.0, 0.15, 0.2], film)
    assert found["frame_u8"][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert found["frame_u8"].shape == (3, 2, 2, 3) and found["caption"][1] == "cue: 1"


def test_a_keyframe_policys_decisions_are_drawn() -> None:
    ticks, side = 3, 16
    heat = np.zeros((ticks, 3, side, side), np.float32)
    heat[:, :, 4, 8] = 1.0
    arrays = {
        "time_s": np.arange(3, dtype=np.float32),
        "phase": np.array(["cue", "gap", "execute"]),
        "view.image": np.full((ticks, 3, side, side, 3), 100, np.uint8),
        "view.heatmap": heat,
        "view.pixel": np.full((ticks, 3, 2), 8.0),
    }
    share = np.array([[0, 0, 0], [1, 0, 0], [0.25, 0.75, 0]])
    plain = open_png(keyframe_pictures.draw(arrays, [], "t", lambda *_: share))
    told = open_png(keyframe_pictures.draw(arrays, ["top"], "t", lambda *_: share))
    assert told.width == plain.width + 2 * (keyframe_pictures.PAST + keyframe_pictures.MARGIN)
    assert told.height == plain.height
    # Of the first decision that the last one read, all three views are there.
    shades = np.array([50, 100, 150], np.uint8)[:, None, None, None]
    shaded = {**arrays, "view.image": np.ones_like(arrays["view.image"]) * shades}
    drawn = np.asarray(open_png(keyframe_pictures.draw(shaded, ["top"], "t", lambda *_: share)))
    top = told.height - keyframe_pictures.VIEW - keyframe_pictures.MARGIN
    column = drawn[top:, plain.width - keyframe_pictures.MARGIN + 40, 0]
    assert [column[keyframe_pictures.PAST * n + 50] for n in range(3)] == [50, 100, 150]
    # The likeliest place is red, other places are as they were.
    view = keyframe_pictures.heated(arrays["view.image"][0, 0], heat[0, 0])
    assert view[4, 8, 0] > 200
    assert (view[0, 0] == 100).all()


def test_a_keyframe_policys_film_shows_each_decision_while_it_is_carried_out(
    tmp_path: Path,
) -> None:
    side, red = 16, np.array(keyframe_pictures.HEAT_RGB)
    found = Inspection(time_s=[0.0, 0.25, 0.5], phase=["cue", "execute", "execute"])
    for t in range(3):
        heat = np.zeros((3, side, side), np.float32)
        heat[:, 3 * t + 2, 3 * t + 2] = 1.0
        found.images.append({"front_image_u8": np.zeros((8, 8, 3), np.uint8)})
        found.actions.append(np.zeros((1, 9)))
        found.reports.append(
            {
                "view.image": np.full((3, side, side, 3), 90, np.uint8),
                "view.heatmap": heat,
                "view.pixel": np.zeros((3, 2), np.float32),
                "top.attention": np.full((1, 4, 2), 0.5 if t > 1 else float(t > 0), np.float32),
                "top.items": np.array([t > 0, t > 1], np.float32),
                "top.live": np.array([t > 0, t > 1]),
                "top.age_s": np.array([0.25 * t, 0.25], np.float32),
            }
        )
    film = Recording()
    for tick in range(8):
        film.frames.append(np.full((48, 48, 3), 10 * tick, np.uint8))
        film.captions.append(Caption("execute", "cue", 2 * tick, 0.1 * tick))
    files = write_inspection(tmp_path, "episode", found, film)
    assert [file.suffix for file in files] == [".npz", ".png", ".mp4"]

    shares = attention_to_ticks
    frames = list(keyframe_pictures.film(found.arrays(), ["top"], shares, film))
    assert all(frame.shape == frames[0].shape for frame in frames)
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    left = frames[0].shape[1] - (frames[7].shape[1] - 48)
    told = []
    for frame in frames:
        panel = frame[keyframe_pictures.LINE :, left + keyframe_pictures.MARGIN :]
        view = panel[: keyframe_pictures.VIEW, : keyframe_pictures.VIEW].astype(float)
        hot = np.abs(view - (90 + 0.8 * (red - 90))).sum(axis=2).argmin()
        told.append(hot // keyframe_pictures.VIEW * side // keyframe_pictures.VIEW)
    assert told == [2, 2, 2, 5, 5, 8, 8, 8]
    # Nothing is remembered at first, two decisions at last.
    below = [
        frame[keyframe_pictures.LINE + keyframe_pictures.VIEW + 40 :, left:] for frame in frames
    ]
    drawn = [
        int((part == np.array(keyframe_pictures.SHARE_RGB)).all(axis=2).sum()) for part in below
    ]
    assert drawn[0] == 0 < drawn[3] and drawn[5] > 0
    with av.open(str(files[2])) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(frames) + 10


def open_png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
