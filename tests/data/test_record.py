"""Recording one episode: ticks, labels from branches, hindsight goals, replay."""

import dataclasses

import numpy as np
import pytest

from embodied.core import ticks
from embodied.core.errors import DataError
from embodied.core.task import EnvConfig
from embodied.data import schema
from embodied.data.goals import hindsight_goals
from embodied.data.record import RecordPlan, record_episode
from tests.data import fake_env

CONFIG = EnvConfig(image_size=16)


def record(seed=1, config=CONFIG, env=None, replay=None, **plan):
    env = env or fake_env.make("fake", "easy", config)
    settings = {"env_config": dataclasses.asdict(config), "versions": {}, "replay": replay}
    episode = record_episode(env, seed, RecordPlan(**plan), **settings)
    if not isinstance(episode, str):
        schema.validate(episode, "test")
    return episode


def same(one, other):
    return all(one[k].tobytes() == other[k].tobytes() for k in one)


def test_branches_leave_the_episode_untouched():
    short, long = record(label_horizon=1), record(label_horizon=30)
    assert same(short.control, long.control) and same(short.obs, long.obs)
    assert (long.label["chunk"][:, :1] == short.label["chunk"]).all()


def test_clean_labels_equal_branch_labels():
    """Without noise the episode itself is the branch."""
    clean = record(noise=0.0)
    branched = record(noise=1e-300)
    assert same(clean.label, branched.label)
    assert (clean.control["action"] == clean.control["expert_action"]).all()


def test_a_share_of_episodes_is_clean_as_their_seeds_decide():
    plan = RecordPlan(clean=0.5)
    noises = [plan.noise_of(seed) for seed in range(200)]
    assert set(noises) == {0.0, 1.0} and 80 < noises.count(0.0) < 120
    assert {RecordPlan().noise_of(seed) for seed in range(200)} == {1.0}
    for seed in (noises.index(0.0), noises.index(1.0)):
        episode, alone = record(seed=seed, clean=0.5), record(seed=seed, noise=noises[seed])
        assert same(episode.control, alone.control) and same(episode.label, alone.label)
        assert episode.meta.noise == 1.0 and episode.meta.clean == 0.5
        assert schema.EpisodeMeta.from_attrs(episode.meta.to_attrs(), "here") == episode.meta
        again = record(seed=seed, clean=0.5, replay=episode)
        assert schema.content_sha256(again) == schema.content_sha256(episode)
    assert "clean" not in record().meta.to_attrs()


def test_labels_start_from_the_disturbed_state():
    episode = record()
    control, label = episode.control, episode.label
    asked = np.flatnonzero(episode.obs["act_mask"])
    for row in asked:
        tick = episode.obs["tick"][row]
        assert (label["chunk"][row, 0] == control["expert_action"][tick]).all()
    assert (control["action"] != control["expert_action"]).any()
    # The noise takes the episode elsewhere than the clean branch goes.
    row = asked[0]
    tick, valid = episode.obs["tick"][row], label["chunk_valid"][row]
    taken = control["expert_action"][tick : tick + valid.sum()]
    assert not np.array_equal(label["chunk"][row, : len(taken)], taken)


def test_chunks_stop_at_holds_and_the_end():
    episode = record(noise=0.0, label_horizon=200)
    held, label = episode.control["held"], episode.label
    for row, tick in enumerate(episode.obs["tick"]):
        expected = 0 if held[tick] else episode.meta.length - tick
        assert label["chunk_valid"][row].sum() == expected
        assert label["chunk_valid"][row, :expected].all()
    assert not label["chunk"][~label["chunk_valid"]].any()


def test_observation_ticks_are_those_of_the_one_function():
    for on in (ticks.PERIOD, ticks.DECISION):
        episode = record(observe_on=on)
        control = episode.control
        expected = ticks.observation_ticks(control["gate"], control["decision"], on, 8)
        assert (episode.obs["tick"] == expected).all()
        gates = np.flatnonzero(control["gate"])
        assert len(gates) == 2 and set(gates) <= set(episode.obs["tick"])
    assert control["decision"].sum() == 1


def test_pictures_are_drawn_at_observation_ticks_only():
    env = fake_env.make("fake", "easy", CONFIG, render_every_step=False)
    episode = record(env=env)
    assert env.renders == len(episode.obs["tick"])


def test_failure_gives_its_reason():
    assert record(seed=7) == "wrong_choice"


def test_replay_equals_the_original_and_refuses_drift():
    episode = record()
    again = record(replay=episode)
    assert schema.content_sha256(again) == schema.content_sha256(episode)
    finer = record(replay=episode, observe_period_s=0.1, label_horizon=4)
    assert same(finer.control, episode.control)
    seen, walked = finer.obs["eef_pos_world_m"], finer.control["eef_pos_world_m"]
    assert len(seen) > len(episode.obs["tick"]) and (seen == walked[finer.obs["tick"]]).all()
    episode.control["expert_action"][-1] += np.float32(1e-7)
    with pytest.raises(DataError, match="expert's action"):
        record(replay=episode)
    episode.control["state"].view(np.uint8)[0, 0] ^= 1
    with pytest.raises(DataError, match="state at tick 0"):
        record(replay=episode)


def test_instruction_must_not_change(monkeypatch):
    env = fake_env.make("fake", "easy", CONFIG)
    real = env.observe

    def observe(draw=True):
        obs = real(draw)
        obs["instruction_u8"][0] = env.tick
        return obs

    env.observe = observe
    with pytest.raises(DataError, match="instruction changed"):
        record(env=env)


def goals(command, held=None, gate=None, phase=None, at=None):
    length = len(command)
    action = np.zeros((length, 7), np.float32)
    action[:, 6] = command
    control = {
        "expert_action": action,
        "held": np.zeros(length, bool) if held is None else np.array(held, bool),
        "gate": np.zeros(length, bool) if gate is None else np.array(gate, bool),
        "phase": np.zeros(length, np.uint8) if phase is None else np.array(phase, np.uint8),
        "eef_pos_world_m": np.arange(length + 1, dtype=np.float32)[:, None].repeat(3, 1),
    }
    goal, valid = hindsight_goals(control, np.arange(length) if at is None else np.array(at))
    return [float(g[0]) if v else None for g, v in zip(goal, valid, strict=True)]


def test_goal_is_the_next_gripper_change_or_the_end():
    assert goals([-1, -1, -1, 1, 1, 1]) == [3, 3, 3, 6, 6, 6]
    assert goals([-1, -1, -1, 1, 1, 1], at=[2, 3]) == [3, 6]
    assert goals([1, 1, 1]) == [3, 3, 3]


def test_goal_never_reaches_over_a_gate():
    # acting 0..2, gate at 3 (held gap 3..4), gate at 5 (acting 5..7), end at 8
    command = [-1, -1, -1, 0, 0, -1, -1, -1]
    held = [0, 0, 0, 1, 1, 0, 0, 0]
    gate = [0, 0, 0, 1, 0, 1, 0, 0]
    # The last place before the snap is that of tick 2, not the snapped one of tick 3.
    assert goals(command, held, gate) == [2, 2, 2, None, None, 8, 8, 8]
    # A gate between two acting stretches is a border too.
    assert goals([-1] * 4, gate=[0, 0, 1, 0]) == [1, 1, 4, 4]


def test_goals_of_a_recorded_episode():
    episode = record()
    control, at = episode.control, episode.obs["tick"]
    goal, valid = hindsight_goals(control, at)
    assert (valid == episode.obs["act_mask"]).all() and goal.dtype == np.float32
    close = int(np.flatnonzero(control["expert_action"][:, 6] > 0)[0])
    for row in np.flatnonzero(valid):
        event = close if at[row] < close else episode.meta.length
        assert (goal[row] == control["eef_pos_world_m"][event]).all()


def decisions(**plan):
    return record(observe_on=ticks.DECISION, **plan)


def test_decision_episodes_are_labelled_with_the_next_keyframe():
    for noise in (0.0, 1.0):
        episode = decisions(noise=noise)
        label, at = episode.label, episode.obs["tick"]
        assert label["keyframe"].dtype == np.float32 and label["keyframe"].shape == (len(at), 9)
        assert (label["keyframe_valid"] == episode.obs["act_mask"]).all()
        assert not label["keyframe"][~label["keyframe_valid"]].any()
        target = fake_env.TARGETS[episode.meta.cue].astype(np.float32)
        assert (label["keyframe"][label["keyframe_valid"], :3] == target).all()
        # What was labelled is what the expert said at that tick, the mark of it included.
        grip = label["keyframe"][label["keyframe_valid"], 7]
        assert (grip == np.where(at[label["keyframe_valid"]] < at[-1], -1.0, 1.0)).all()
    assert set(record().label) == {"chunk", "chunk_valid"}


def test_keyframe_labels_leave_the_rest_as_it_was():
    """Chunks and control arrays are those of the same episode observed by the clock."""
    on, by = decisions(label_horizon=6), record(label_horizon=6)
    assert same(by.control, on.control)
    shared = np.isin(on.obs["tick"], by.obs["tick"])
    rows = np.isin(by.obs["tick"], on.obs["tick"])
    assert shared.sum() >= 3
    assert (on.label["chunk"][shared] == by.label["chunk"][rows]).all()


def test_pauses_are_part_of_the_episode_and_stored_only_if_there_are_any():
    paused, without = decisions(pause_ticks=4, noise=0.0), decisions(noise=0.0)
    assert paused.meta.length == without.meta.length + 4
    assert "pause_ticks" in paused.meta.to_attrs()
    assert "pause_ticks" not in without.meta.to_attrs()
    assert schema.EpisodeMeta.from_attrs(without.meta.to_attrs(), "here") == without.meta
    assert schema.EpisodeMeta.from_attrs(paused.meta.to_attrs(), "here") == paused.meta
    again = decisions(replay=paused, pause_ticks=4, noise=0.0)
    assert schema.content_sha256(again) == schema.content_sha256(paused)
    with pytest.raises(DataError, match="expert's action"):
        decisions(replay=paused, noise=0.0)


def broken(change):
    episode = decisions()
    change(episode)
    with pytest.raises(DataError) as error:
        schema.validate(episode, "here")
    return str(error.value)


def test_bad_keyframe_labels_are_refused():
    def put(name, index, value):
        def change(episode):
            episode.label[name][index] = value

        return change

    acting = int(np.flatnonzero(decisions().obs["act_mask"])[0])
    assert "NaN" in broken(put("keyframe", (acting, 2), np.nan))
    assert "NaN" in broken(put("keyframe", (0, 2), np.inf))  # also where it is not valid
    assert "quaternion" in broken(put("keyframe", (acting, 6), 0.5))
    assert "while the arm is held" in broken(put("keyframe_valid", 0, True))
    assert "without a keyframe label" in broken(put("keyframe_valid", acting, False))
    assert "earlier version" in broken(lambda e: [e.label.pop(k) for k in list(e.label)[2:]])
    assert "keyframe_valid should be" in broken(lambda e: e.label.pop("keyframe_valid"))
    cut = lambda e: e.label.update(keyframe=e.label["keyframe"][:, :8])  # noqa: E731
    assert "8 numbers instead of 9" in broken(cut)
    by_the_clock, labels = record(), decisions().label
    by_the_clock.label["keyframe"] = labels["keyframe"]
    with pytest.raises(DataError, match="unknown arrays in label: keyframe"):
        schema.validate(by_the_clock, "here")


def test_after_the_last_keyframe_of_a_stretch_none_is_asked_for():
    episode = decisions()
    episode.label["keyframe_valid"][-1] = False
    schema.validate(episode, "here")
