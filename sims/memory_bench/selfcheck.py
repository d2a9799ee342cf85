"""Draws one picture and measures whether the robot is in it; what `embodied doctor` runs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

SIZE = 64
FRAMES = 50
VISIBLE_STEPS = 8
"""Intensity steps (of 255) by which a pixel must change to count as covered by the robot."""


def check_rendering() -> dict[str, Any]:
    """Draws the front camera with and without the robot.

    Returns:
      ``backend`` (egl or osmesa), ``renderer`` (the driver's name), ``size`` in pixels,
      ``frames_per_s``, and ``robot_fraction``: the share of pixels the robot covers.

    Raises:
      SimulatorError: If no picture can be drawn.
    """
    from sims.gym_env import MemoryBenchEnv
    from sims.memory_bench.render import Renderer, choose_backend

    env = MemoryBenchEnv("remember_color", observation="state")
    env.reset(seed=0)
    scene = env.scene
    renderer = Renderer(scene, SIZE)
    picture = {"front_image_u8": np.zeros((SIZE, SIZE, 3), np.uint8)}

    def draw() -> np.ndarray:
        renderer.render(("front",), picture)
        return picture["front_image_u8"].astype(np.int16)

    seen = draw()
    began = time.perf_counter()
    for _ in range(FRAMES):
        draw()
    frames_per_s = FRAMES / (time.perf_counter() - began)
    robot = [
        index
        for index in range(scene.m.ngeom)
        if scene.m.body(scene.m.geom_bodyid[index]).name.startswith(("robot0_", "gripper0_"))
    ]
    scene.m.geom_rgba[robot, 3] = 0.0  # MuJoCo leaves out what is fully transparent
    covered = np.abs(seen - draw()).max(axis=-1) > VISIBLE_STEPS
    result = {
        "backend": choose_backend(),
        "renderer": renderer_name(),
        "size": SIZE,
        "frames_per_s": frames_per_s,
        "robot_fraction": float(covered.mean()),
    }
    renderer.close()
    env.close()
    return result


def renderer_name() -> str:
    """Returns the name of the GL driver of the current context, for example llvmpipe."""
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER)
    return name.decode() if name else "unknown"
