"""Looking at datasets and deriving others from their states."""

import numpy as np
import pytest
from PIL import Image

from embodied.core.errors import ConfigError, DataError
from embodied.data.reader import EpisodeStore
from embodied.data.render import render
from embodied.data.show import show, summarize
from tests.data import fake_env
from tests.data.conftest import collect_fake

OPTIONS = {"num_workers": 0, "progress": False, "env_factory": fake_env.make}


def test_show_writes_a_sheet_and_a_video(dataset, tmp_path):
    summary, files = show(dataset, tmp_path / "pictures", episodes=3, video_episodes=2)
    assert [f.name for f in files] == ["contact_sheet.png", "episodes.mp4"]
    assert np.asarray(Image.open(files[0])).std() > 5
    import av

    with av.open(str(files[1])) as video:
        assert len(list(video.decode(video=0))) > 10
    text = summary.text()
    assert "balance over cues" in text and "seed 7 left out: wrong_choice" in text
    assert summary.episodes == 11 and sum(summary.cue_counts.values()) == 11


def test_rendering_the_same_way_gives_the_same_data(original, tmp_path):
    result = render(original, tmp_path / "same", **OPTIONS)
    assert result.content_sha256 == summarize(original).content_sha256


def test_other_cameras_sizes_and_ticks(original, tmp_path):
    out = tmp_path / "derived"
    env = {"cameras": ["front", "overhead"], "image_size": 32}
    result = render(original, out, env, observe_period_s=0.2, label_horizon=5, **OPTIONS)
    assert result.stored == 11
    with EpisodeStore(original) as old, EpisodeStore(out) as new:
        for i in range(len(old)):
            a, b = old.read(i), new.read(i, verify=True)
            for name, array in a.control.items():
                assert array.tobytes() == b.control[name].tobytes()
            assert b.obs["overhead_image_u8"].shape[1:] == (32, 32, 3)
            shared = np.isin(b.obs["tick"], a.obs["tick"])
            assert shared.sum() == len(a.obs["tick"])
            assert (b.label["chunk"][shared] == a.label["chunk"][:, :5]).all()
            assert b.label["chunk"].shape[1:] == (5, 7)
    assert render(original, out, env, observe_period_s=0.2, label_horizon=5, **OPTIONS).new == 0


def test_what_shaped_the_motion_cannot_be_changed(original, tmp_path):
    with pytest.raises(ConfigError, match="control='osc'"):
        render(original, tmp_path / "d", {"control": "osc"}, **OPTIONS)
    with pytest.raises(ConfigError, match="environment field"):
        render(original, tmp_path / "d", {"camera": ["front"]}, **OPTIONS)
    with pytest.raises(ConfigError, match="source itself"):
        render(original, original, **OPTIONS)


def test_a_changed_simulator_is_refused(original, tmp_path, monkeypatch):
    targets = fake_env.TARGETS + 1e-9
    monkeypatch.setattr(fake_env, "TARGETS", targets)
    with pytest.raises(DataError, match="expert's action"):
        render(original, tmp_path / "d", **OPTIONS)


def test_keyframes_of_decision_data_are_counted(decisions):
    text = summarize(decisions).text()
    assert "at decisions (pauses of at most 20 ticks)" in text
    assert "keyframes     2 / 2 / 2 an episode by the script" in text
    assert "an episode by the motion" in text
    assert "published" not in text  # nobody knows this task here


def test_keyframes_of_a_published_task_stand_beside_those_of_the_original(tmp_path):
    for task, published in (("rearrange_block", 11), ("remember_color", None)):
        collect_fake(tmp_path / task, 2, task=task, observe_on="decision", noise=0.0)
        text = summarize(tmp_path / task).text()
        line = f"keyframes     {published} published, of the original task"
        assert (line in text) == (published is not None) and "by the motion" in text


def test_data_observed_by_the_clock_counts_no_keyframes(original):
    assert summarize(original).keyframes == {}
    assert "every 0.4 s (period)" in summarize(original).text()


def test_pauses_survive_rendering(decisions, original, tmp_path):
    """What is derived from paused demonstrations replays them as they were made."""
    by_the_clock = render(decisions, tmp_path / "period", observe_on="period", **OPTIONS)
    back = render(by_the_clock.path, tmp_path / "decision", observe_on="decision", **OPTIONS)
    assert back.content_sha256 == summarize(decisions).content_sha256
    assert summarize(by_the_clock.path).settings["pause_ticks"] == 20
    labelled = render(original, tmp_path / "labelled", observe_on="decision", **OPTIONS)
    with EpisodeStore(labelled.path) as store:
        assert store.read(0).label["keyframe_valid"].any()
    assert "pause_ticks" not in summarize(labelled.path).settings


def test_pauses_are_settings_of_a_dataset(decisions, original, tmp_path):
    import shutil

    from embodied.data.check import check

    assert check(decisions, sample=2, env_factory=fake_env.make).ok
    derived = render(original, tmp_path / "derived", observe_on="decision", **OPTIONS)
    for where, other in ((derived.path, decisions), (decisions, derived.path)):
        mixed = tmp_path / f"mixed-{where.name}"
        shutil.copytree(where, mixed)
        shutil.copy(other / "shard-00000.h5", mixed / "shard-00000.h5")
        assert "pause_ticks" in check(mixed, sample=0).text()
    with pytest.raises(DataError, match="pause_ticks: '\\(absent\\)' against 20"):
        render(original, decisions, observe_on="decision", **OPTIONS)
