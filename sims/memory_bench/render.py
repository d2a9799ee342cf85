"""Offscreen pictures without a display: EGL where it works, else OSMesa.

Cost is by the vertex, not by the pixel, so geometry is collected once a tick and drawn once for
each camera; colour and depth come from the same pass.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import TYPE_CHECKING

import numpy as np

from embodied.core.errors import SimulatorError

if TYPE_CHECKING:
    import mujoco

    from sims.memory_bench.scene import Scene

INSTALL_HINT = "apt-get install -y libegl1 libgl1-mesa-dri  (or libosmesa6 for software only)"

_EGL_PLATFORM_DEVICE_EXT = 0x313F


def egl_works() -> bool:
    """Returns whether EGL can open a device display, without importing any GL binding."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_of = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not display_of:
        return False
    devices, count = (pointer * 16)(), ctypes.c_int()
    query_type = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(ctypes.c_int)
    )
    if not query_type(query)(16, devices, ctypes.byref(count)):
        return False
    display_type = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    for index in range(count.value):
        display = display_type(display_of)(_EGL_PLATFORM_DEVICE_EXT, devices[index], None)
        if display and egl.eglInitialize(display, None, None):
            return True
    return False


def choose_backend() -> str:
    """Sets ``MUJOCO_GL`` for this process to ``"egl"`` or ``"osmesa"`` and returns it.

    A backend named by the environment variable ``MUJOCO_GL`` is respected. Must run before
    robosuite is imported, which otherwise decides by itself.

    Raises:
      SimulatorError: If ``MUJOCO_GL`` names a backend that needs a display.
    """
    # Mesa's software driver: threads cost more than they bring on pictures this small, and
    # workers share the cores. Pictures are the same bit for bit.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wanted in ("egl", "osmesa"):
        return wanted
    if wanted and wanted not in ("glfw", "glx"):
        raise SimulatorError(
            f"MUJOCO_GL={wanted!r} is not supported; expected egl or osmesa. Unset it to let "
            "the package choose"
        )
    backend = "egl" if egl_works() else "osmesa"
    os.environ["MUJOCO_GL"] = backend
    return backend


def _new_context(side: int):
    backend = choose_backend()
    try:
        if backend == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
        context = GLContext.__new__(GLContext)
        context._context = None  # or the destructor of one that failed prints a traceback
        context.__init__(side, side)
        context.make_current()
        return context
    except Exception as error:
        raise SimulatorError(
            f"no offscreen picture with MUJOCO_GL={backend}: {str(error).rstrip('.')}. Expected a "
            f"working EGL or OSMesa; install one with: {INSTALL_HINT}"
        ) from error


def _free(gl_context, mjr_context) -> None:
    try:
        gl_context.make_current()
        mjr_context.free()
        gl_context.free()
    except Exception:  # GL may already be gone when the interpreter ends
        gl_context._context = None  # or its destructor would complain on standard error


class Renderer:
    """Draws one scene's cameras at one size.

    Args:
      scene: The scene to draw.
      size: Side of the square pictures in pixels.
      depth: Whether to read depth as well.
    """

    def __init__(self, scene: Scene, size: int, depth: bool = False) -> None:
        import mujoco

        self._mujoco = mujoco
        self._m, self._d = scene.m, scene.d
        self.size, self.depth = int(size), depth
        self._gl = _new_context(self.size)
        m = self._m
        m.vis.global_.offwidth = m.vis.global_.offheight = self.size
        self._con = mujoco.MjrContext(m, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._con)
        self._con.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        self._scene = mujoco.MjvScene(m, maxgeom=m.ngeom + 32)
        full = scene.visuals == "full"
        flags = mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_SHADOW] = full
        self._scene.flags[flags.mjRND_REFLECTION] = full
        self._scene.flags[flags.mjRND_SKYBOX] = full
        self._scene.flags[flags.mjRND_CULL_FACE] = True
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[1] = 1
        self._option.sitegroup[:] = 0
        self._rect = mujoco.MjrRect(0, 0, self.size, self.size)
        self._cams = {}
        for index in range(m.ncam):
            camera = mujoco.MjvCamera()
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = index
            self._cams[m.camera(index).name] = camera
        self._rgb = np.empty((self.size, self.size, 3), np.uint8)
        self._raw_depth = np.empty((self.size, self.size), np.float32)
        near, far = m.vis.map.znear * m.stat.extent, m.vis.map.zfar * m.stat.extent
        # Depth as read: 1 at the near plane, 0 at the far plane (precise far away).
        self._depth_a = near * far / (far - near)
        self._depth_b = near / (far - near)
        self._finalizer = weakref.finalize(self, _free, self._gl, self._con)

    def render(self, cameras: tuple[str, ...], out: dict[str, np.ndarray]) -> None:
        """Draws `cameras` into ``out["<camera>_image_u8"]`` (and ``..._depth_m``) in place."""
        mujoco = self._mujoco
        self._gl.make_current()
        for number, name in enumerate(cameras):
            camera = self._cams[name]
            if number == 0:
                mujoco.mjv_updateScene(
                    self._m,
                    self._d,
                    self._option,
                    None,
                    camera,
                    mujoco.mjtCatBit.mjCAT_ALL.value,
                    self._scene,
                )
            else:
                mujoco.mjv_updateCamera(self._m, self._d, camera, self._scene)
            mujoco.mjr_render(self._rect, self._scene, self._con)
            mujoco.mjr_readPixels(
                self._rgb, self._raw_depth if self.depth else None, self._rect, self._con
            )
            out[f"{name}_image_u8"][:] = self._rgb[::-1]
            if self.depth:
                out[f"{name}_depth_m"][:] = self._depth_a / (self._raw_depth[::-1] + self._depth_b)

    def close(self) -> None:
        """Frees the GL context; safe to call twice."""
        self._finalizer()


def intrinsics(fovy_deg: float, size: int) -> np.ndarray:
    """Returns the float32 [3, 3] pinhole matrix of a square picture, in pixels."""
    focal = size / 2 / np.tan(np.deg2rad(fovy_deg) / 2)
    centre = size / 2
    return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], np.float32)


_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


def cam_to_world(data: mujoco.MjData, camera_id: int) -> np.ndarray:
    """Returns float32 [4, 4]: OpenCV camera frame (x right, y down, z forward) to world."""
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = data.cam_xmat[camera_id].reshape(3, 3) @ _OPENGL_TO_OPENCV
    pose[:3, 3] = data.cam_xpos[camera_id]
    return pose
