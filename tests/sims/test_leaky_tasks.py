"""Tasks of another package that give their cue away at go; certifying them has to say so."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from embodied.commands import certify
from sims.gym_env import MemoryBenchEnv
from sims.memory_bench import aliasing, attack, onward
from sims.memory_bench import certify as certificates
from tests.examples import installed, own_task

POSTURE_RAD, OFFSET_M = 0.02, 0.002


class RemembersByPosture(own_task.RememberSide):
    """At go the arm's first joint is turned a little towards the side that was shown."""

    def setup_execute(self) -> None:
        super().setup_execute()
        turned = self.homes[2].copy()
        turned[0] += POSTURE_RAD * (2 * self.cue - 1)
        self.scene.set_arm(turned)


class RemembersByOffset(own_task.RememberSide):
    """At go one cube lies 2 mm off where the other side was shown."""

    def setup_execute(self) -> None:
        super().setup_execute()
        moved = self.plan["pos"][0] + np.array([OFFSET_M * self.cue, 0.0, 0.0])
        self.scene.place(own_task.SIDES[0], moved)


class ShowsLater(own_task.RememberSide):
    """At go nothing tells the side; a tick later its cube is white."""

    def execute_tick(self) -> None:
        super().execute_tick()
        if self.phase_tick == 1:
            self.scene.paint(own_task.SIDES[self.cue], (1.0, 1.0, 1.0))


def _row(name: str, task: type):
    entry = f"{task.__module__}:{task.__name__}"
    return dataclasses.replace(own_task.INFO, name=name, entry=entry)


POSTURE = _row("posture", RemembersByPosture)
OFFSET = _row("offset", RemembersByOffset)


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("posture", {"joint_pos_rad", "eef_pos_world_m", "mujoco_integration"}),
        ("offset", {"entities", "mujoco_integration"}),
    ],
)
def test_a_leak_is_told_loudly(name, found, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(attack, "GENERATIONS", 1)
    row = f"[embodied.tasks]\n{name} = {__name__}:{name.upper()}\n"
    with installed(tmp_path, row):
        options = certify.Options(
            name, episodes=2, reactive_episodes=1, attack_seeds=20, out=str(tmp_path)
        )
        assert certify.run(options) == 1
    said = capsys.readouterr().out
    assert f"NOT certified: see {tmp_path / name}.json for what differs" in said
    easy = json.loads((tmp_path / f"{name}.json").read_text())["levels"]["easy"]
    assert not easy["holds"] and not easy["aliasing"]["fast"]["holds"]
    attacked = easy["attack"]["fast"]["state"]
    assert not attacked["holds"] and attacked["largest_difference"] >= OFFSET_M / 2, attacked
    assert "LEAKS" in said
    differ = {row["name"].removeprefix("go: ") for row in easy["aliasing"]["fast"]["differences"]}
    assert found <= differ, differ
    # The leak is in what go shows, not in the end of the cue phase or in the task's answer.
    assert all(row["name"].startswith("go: ") for row in easy["aliasing"]["fast"]["differences"])
    assert easy["expert"]["fast"]["successes"] == 2 and easy["ceiling"]["exact"]


@pytest.mark.sim
@pytest.mark.render
def test_a_cue_that_shows_after_go_is_found() -> None:
    seeds = [certificates.ALIASING_SEED_START]
    for task, holds in ((own_task.RememberSide, True), (ShowsLater, False)):
        env = MemoryBenchEnv(_row("later", task), observation="rgbd", image_size=32)
        assert aliasing.compare(env, seeds)["holds"]
        found = onward.measure(env, seeds)
        env.close()
        assert found["holds"] is holds and found["gates"] == 1 and found["ticks"] > 10
        assert found["pictures"] >= 1
        names = {row["name"] for row in found["differences"]}
        assert holds or "entities" in names
