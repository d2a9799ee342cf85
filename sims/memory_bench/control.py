"""From a 7-D action to joint commands.

``fast``: the action moves a commanded hand pose; once a 50 ms tick damped least squares turn
the pose error into joint targets of stiff position servos, then MuJoCo makes ten 5 ms steps in
one call. ``osc``: robosuite's stock OSC_POSE in Python, twenty-five 2 ms steps. Both read the
same action; they are different controllers, and their data must not be mixed.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sims.memory_bench import robot
from sims.memory_bench.action import CONTROL_HZ, POS_PER_UNIT_M, ROT_PER_UNIT_RAD
from sims.memory_bench.parts import TABLE_TOP_M
from sims.memory_bench.scene import TIMESTEP_S, Scene

_GRIP_RATE = 0.25  # of full travel a tick: 0.2 s from open to closed, as fast as robosuite's
_DAMPING = 0.03
_POSTURE_GAIN = 0.02
_MAX_JOINT_STEP_RAD = 0.25
_MAX_LEAD_M = 0.06  # how far a command may run ahead of a blocked hand
_MAX_LEAD_RAD = 0.5
# The commanded grip point stays here: fingertips (1 cm below it) never press into the table.
_WORKSPACE_LOW = np.array([-0.30, -0.42, TABLE_TOP_M + 0.012])
_WORKSPACE_HIGH = np.array([0.32, 0.42, TABLE_TOP_M + 0.45])


class FastController:
    """Position servos with differential inverse kinematics, once a control tick."""

    step_m_per_unit = POS_PER_UNIT_M
    """How far a constant action of 1 moves the hand in a tick."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._m, self._d = scene, scene.m, scene.d
        self._nstep = round(1 / (CONTROL_HZ * TIMESTEP_S["fast"]))
        self.pos = np.zeros(3)
        self.quat = np.array([1.0, 0.0, 0.0, 0.0])
        self.closed = 0.0
        self._joints = len(scene.arm.joints)
        self.home = np.array(scene.arm.home_qpos_rad)
        self._jac = np.zeros((6, scene.m.nv))
        self._low, self._high = scene.m.actuator_ctrlrange[: self._joints].T.copy()
        self._eye6 = np.eye(6) * _DAMPING**2
        self._gram, self._solved = np.empty((6, 6)), np.empty(6)

    def reset(self, home_qpos: np.ndarray, closed: float = 0.0) -> None:
        """Commands the present pose; call after the arm has been put at `home_qpos`."""
        self.pos[:] = self._d.site_xpos[self._scene.grip_site]
        mujoco.mju_mat2Quat(self.quat, self._d.site_xmat[self._scene.grip_site])
        self.closed = float(closed)
        self.home[:] = home_qpos
        self._d.ctrl[: self._joints] = home_qpos
        self._write_gripper()

    def reference_pos(self) -> np.ndarray:
        """Returns the position [3] that a delta action adds to: the command."""
        return self.pos.copy()

    def reference_quat(self) -> np.ndarray:
        """Returns the orientation wxyz [4] that a delta action turns: the command."""
        return self.quat.copy()

    def step(self, action: np.ndarray) -> None:
        """Applies one checked action and advances the simulation by one tick."""
        d, site = self._d, self._scene.grip_site
        hand_pos = d.site_xpos[site]
        self.pos += action[:3] * POS_PER_UNIT_M
        lead = self.pos - hand_pos
        distance = np.sqrt(lead @ lead)
        if distance > _MAX_LEAD_M:
            self.pos[:] = hand_pos + lead * (_MAX_LEAD_M / distance)
        np.clip(self.pos, _WORKSPACE_LOW, _WORKSPACE_HIGH, out=self.pos)
        hand_quat = np.empty(4)
        mujoco.mju_mat2Quat(hand_quat, d.site_xmat[site])
        rotation = self._turn(action[3:6] * ROT_PER_UNIT_RAD, hand_quat)
        self._servo(self.pos - hand_pos, rotation)
        if action[6]:
            step = _GRIP_RATE if action[6] > 0 else -_GRIP_RATE
            self.closed = min(max(self.closed + step, 0.0), 1.0)
        self._write_gripper()
        mujoco.mj_step(self._m, d, self._nstep)

    def _turn(self, delta_rad: np.ndarray, hand_quat: np.ndarray) -> np.ndarray:
        """Turns the commanded orientation; returns the world rotation vector still to go."""
        if delta_rad.any():
            angle = np.sqrt(delta_rad @ delta_rad)
            turn, turned = np.empty(4), np.empty(4)
            mujoco.mju_axisAngle2Quat(turn, delta_rad / angle, angle)
            mujoco.mju_mulQuat(turned, turn, self.quat)
            mujoco.mju_normalize4(turned)
            self.quat[:] = turned
        rest = self._rotation_to(hand_quat)
        angle = np.sqrt(rest @ rest)
        if angle > _MAX_LEAD_RAD:
            rest *= _MAX_LEAD_RAD / angle
            turn = np.empty(4)
            mujoco.mju_axisAngle2Quat(turn, rest / _MAX_LEAD_RAD, _MAX_LEAD_RAD)
            mujoco.mju_mulQuat(self.quat, turn, hand_quat)
        return rest

    def _rotation_to(self, hand_quat: np.ndarray) -> np.ndarray:
        inverse, difference, rest = np.empty(4), np.empty(4), np.empty(3)
        mujoco.mju_negQuat(inverse, hand_quat)
        mujoco.mju_mulQuat(difference, self.quat, inverse)
        mujoco.mju_quat2Vel(rest, difference, 1.0)
        return rest

    def _servo(self, move: np.ndarray, turn: np.ndarray) -> None:
        """Writes joint targets: damped least squares, plus a pull to the home posture."""
        d, scene = self._d, self._scene
        mujoco.mj_jacSite(self._m, d, self._jac[:3], self._jac[3:], scene.grip_site)
        jac = np.ascontiguousarray(self._jac[:, scene.arm_dof])
        qpos = d.qpos[scene.arm_qpos]
        # The null-space pull is applied through the task: J+ (error - J pull) + pull.
        pull = _POSTURE_GAIN * (self.home - qpos)
        error = np.concatenate((move, turn)) - jac @ pull
        # MuJoCo's own Cholesky: LAPACK would start threads for six unknowns.
        mujoco.mju_mulMatMatT(self._gram, jac, jac)
        self._gram += self._eye6
        mujoco.mju_cholFactor(self._gram, 0.0)
        mujoco.mju_cholSolve(self._solved, self._gram, error)
        step = self._solved @ jac + pull
        largest = np.abs(step).max()
        if largest > _MAX_JOINT_STEP_RAD:
            step *= _MAX_JOINT_STEP_RAD / largest
        d.ctrl[: self._joints] = np.minimum(np.maximum(qpos + step, self._low), self._high)

    def _write_gripper(self) -> None:
        opening = robot.FINGER_OPEN_M * (1.0 - self.closed)
        self._d.ctrl[self._joints :] = opening, -opening

    def save(self) -> dict[str, np.ndarray]:
        """Returns the command as arrays; with the simulator's state it is all that matters."""
        return {
            "controller_command": np.concatenate((self.pos, self.quat, [self.closed], self.home))
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts back what `save` returned."""
        command = state["controller_command"]
        self.pos[:], self.quat[:] = command[:3], command[3:7]
        self.closed = float(command[7])
        self.home[:] = command[8:]


class OscController:
    """robosuite's stock OSC_POSE, driven at its stock 2 ms.

    Its goal is set anew from the achieved pose at every control tick, so that only the
    gripper's command and the posture it falls back to outlive a tick.
    """

    step_m_per_unit = 0.05 / 3.27
    """It lags: at a constant action of 1 the hand moves at 0.31 m/s (kp 150, critically damped),
    not at the 1 m/s of a goal that is 5 cm ahead every 50 ms."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._m, self._d = scene, scene.m, scene.d
        self._nstep = round(1 / (CONTROL_HZ * TIMESTEP_S["osc"]))
        self._robot = scene.robots[0]
        self._arm = self._robot.part_controllers["right"]
        self._gripper = self._robot.gripper["right"]

    def reset(self, home_qpos: np.ndarray, closed: float = 0.0) -> None:
        """Forgets everything; call after the arm has been put at `home_qpos`."""
        self._put(np.array([1.0 - 2.0 * closed, 2.0 * closed - 1.0]), home_qpos)

    def _put(self, gripper_command: np.ndarray, posture: np.ndarray) -> None:
        self._gripper.current_action = np.array(gripper_command)
        self._arm.initial_joint = np.array(posture)
        for controller in self._robot.part_controllers.values():
            controller.new_update = True

    def reference_pos(self) -> np.ndarray:
        """Returns the position [3] that a delta action adds to: the achieved one."""
        return self._scene.eef_pos()

    def reference_quat(self) -> np.ndarray:
        """Returns the orientation wxyz [4] that a delta action turns: the achieved one."""
        return self._scene.eef_quat()

    def step(self, action: np.ndarray) -> None:
        """Applies one checked action and advances the simulation by one tick."""
        for index in range(self._nstep):
            mujoco.mj_step1(self._m, self._d)
            self._robot.control(action, policy_step=index == 0)
            mujoco.mj_step2(self._m, self._d)

    def save(self) -> dict[str, np.ndarray]:
        """Returns what outlives a tick, as arrays."""
        return {
            "controller_command": np.concatenate(
                (self._gripper.current_action, self._arm.initial_joint)
            )
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts back what `save` returned."""
        command = state["controller_command"]
        self._put(command[:2], command[2:])


Controller = FastController | OscController


def make_controller(scene: Scene) -> Controller:
    """Returns the controller for the scene's control mode."""
    return FastController(scene) if scene.control == "fast" else OscController(scene)
