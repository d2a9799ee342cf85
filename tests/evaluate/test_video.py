"""Videos can be decoded, strips say what happened, writing is atomic."""

from __future__ import annotations

import av
import numpy as np
import pytest

from embodied.core.errors import DataError
from embodied.evaluate import video
from embodied.evaluate.runner import run
from tests.evaluate.fakes import CUES, FakePolicy, FakeVecEnv


@pytest.fixture(scope="module")
def recordings():
    recorder = video.VideoRecorder([0, 2], "fake policy", size=96)
    run(FakePolicy(), FakeVecEnv(2), range(4), recorder=recorder, progress=False)
    return list(recorder.recordings.values())


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_recordings_tell_the_episode(recordings):
    for recording in recordings:
        assert recording.result.success and recording.ticks == recording.result.length + 1
        assert [c.phase for c in recording.captions][:: len(recording.captions) - 1] == [
            "cue",
            "execute",
        ]
        assert recording.captions[-1].outcome.endswith("success")
        assert recording.captions[-1].tick == recording.result.length
        moments = [recording.captions[i].phase for i in recording.moments()]
        assert moments[0] == "cue" and "gap" in moments and moments[-1] == "execute"


def test_videos_decode(recordings, tmp_path):
    path = video.write_video(tmp_path / "videos" / "one.mp4", recordings[0])
    frames = decode(path)
    assert len(frames) == len(recordings[0].frames) + 10
    height, width = frames[0].shape[:2]
    assert height % 2 == width % 2 == 0 and height > 96
    pair = decode(video.write_video(tmp_path / "pair.mp4", recordings, columns=2))
    assert pair[0].shape == (height, 2 * width, 3)
    # The cue's colour channel brightens with time, as the fake camera draws it.
    channel = recordings[0].result.cue
    assert frames[-1][:90, :90, channel].mean() > frames[0][:90, :90, channel].mean() + 50
    assert not list(tmp_path.rglob(".*"))


def test_strip_shows_the_outcome():
    frame = np.zeros((96, 96, 3), np.uint8)
    before = video.with_strip(frame, video.Caption("execute", "cue 1", 3, 0.15))
    after = video.with_strip(frame, video.Caption("execute", "cue 1", 3, 0.15, "red", False))
    np.testing.assert_array_equal(before[:96], after[:96])
    assert (before[96:] != after[96:]).any()


def test_swap_is_written_into_the_strip():
    recorder = video.VideoRecorder([0], size=32)
    run(
        FakePolicy(),
        FakeVecEnv(1),
        [5],
        intervene="swapped",
        n_cues=CUES,
        recorder=recorder,
        progress=False,
    )
    captions = recorder.recordings[0].captions
    assert "memory of" in captions[-1].cue and "memory" not in captions[0].cue
    assert captions[-1].outcome.endswith("memory followed") and captions[-1].success


def test_contact_sheet_and_empty_video(recordings, tmp_path):
    sheet = video.contact_sheet(recordings, columns=5)
    tile = video.with_strip(recordings[0].frames[0], recordings[0].captions[0])
    assert sheet.shape == (2 * tile.shape[0], 5 * tile.shape[1], 3)
    assert video.encode_picture(sheet)[:2] == b"\xff\xd8"
    with pytest.raises(DataError, match="frame"):
        video.write_frames(tmp_path / "none.mp4", [], 10)
    with pytest.raises(DataError, match="frame"):
        video.write_video(tmp_path / "none.mp4", video.Recording())
