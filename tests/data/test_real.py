"""The same promises with the real simulator."""

import pytest

from embodied.collect import collect
from embodied.core.task import EnvConfig
from embodied.data.check import check
from embodied.data.reader import EpisodeStore
from embodied.data.render import render
from embodied.data.segments import SegmentDataset

pytestmark = [pytest.mark.sim, pytest.mark.render]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "data"
    options = {"episodes": 3, "num_workers": 0, "progress": False}
    collect("remember_color", "easy", EnvConfig(image_size=32), out=out, **options)
    return out


def test_collected_episodes_replay_bit_for_bit(real):
    report = check(real, sample=3)
    assert report.ok, report.text()
    assert report.resimulated == [0, 1, 2]
    (note,) = report.notes  # no other than that these are too few to look for a leak
    assert "cue was not asked" in note


def test_branches_leave_the_real_episode_untouched(real, tmp_path):
    options = {"episodes": 3, "num_workers": 1, "progress": False, "label_horizon": 1}
    collect("remember_color", "easy", EnvConfig(image_size=32), out=tmp_path / "one", **options)
    with EpisodeStore(real) as a, EpisodeStore(tmp_path / "one") as b:
        for i in range(3):
            one, other = a.read(i), b.read(i)
            for name, array in one.control.items():
                assert array.tobytes() == other.control[name].tobytes(), name
            for name, array in one.obs.items():
                assert array.tobytes() == other.obs[name].tobytes(), name


def test_rendering_again_is_equal(real, tmp_path):
    result = render(real, tmp_path / "again", num_workers=0, progress=False)
    with EpisodeStore(real) as store:
        assert result.content_sha256 == store.manifest.content_sha256


def test_depth_and_other_cameras_from_the_same_states(real, tmp_path):
    env = {"observation": "rgbd", "cameras": ["front", "wrist"], "image_size": 48}
    render(real, tmp_path / "d", env, num_workers=0, progress=False)
    segment = SegmentDataset(tmp_path / "d").batch(0)
    assert segment.obs["wrist_depth_m"].shape[2:] == (48, 48)
    assert segment.obs["front_intrinsics"].shape[2:] == (3, 3)
    render(real, tmp_path / "s", {"observation": "state"}, num_workers=0, progress=False)
    assert "entities" in SegmentDataset(tmp_path / "s").batch(0).obs


def test_decision_data_checks_renders_and_learns(tmp_path):
    options = {"episodes": 2, "num_workers": 0, "progress": False, "observe_on": "decision"}
    state = EnvConfig(observation="state", knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    collect("put_block_back", "easy", state, out=tmp_path / "d", **options)
    report = check(tmp_path / "d", sample=2)
    assert report.ok and report.resimulated == [0, 1]
    pictures = {"observation": "rgbd", "cameras": ["front"], "image_size": 32}
    render(tmp_path / "d", tmp_path / "rgbd", pictures, num_workers=0, progress=False)
    segment = SegmentDataset(tmp_path / "rgbd").batch(0)
    assert segment.extras["keyframe"].shape[2:] == (9,)
    assert segment.obs["front_depth_m"].shape[2:] == (32, 32)
    assert int(segment.extras["keyframe_valid"].sum()) >= 24
