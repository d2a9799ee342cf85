"""A push button: a spring-loaded cap on a base, wide enough for an open or a closed hand."""

from __future__ import annotations

from sims.memory_bench.parts import PARK_POS_M, Part

TRAVEL_M = 0.014
"""How far the cap can be pushed down."""

PRESSED_M = 0.007
"""From this depth on the button counts as pressed."""

TOP_M = 0.042
"""Height of the released cap's top above the table."""

CAP_RADIUS_M = 0.048
BASE_HALF_M = 0.06

CAP_RGB, BASE_RGB = (0.80, 0.08, 0.10), (0.16, 0.16, 0.18)

_BASE_HEIGHT_M = 0.02


def joint_name(name: str) -> str:
    """Returns the name of the cap's slide joint; its position is the depth pressed, in m."""
    return f"{name}_joint"


def button(name: str) -> Part:
    """The button as a mocap body with a sliding cap.

    The cap is wider than the open fingers are apart, so a press with either hand shape counts
    anywhere within about 4 cm of its centre.
    """
    half_cap = (TOP_M - 0.012) / 2
    pos = " ".join(f"{v:g}" for v in PARK_POS_M)
    common = 'group="1" contype="1" conaffinity="0" material="matte" friction="1 0.01 0.0005"'
    return Part(
        name,
        "mocap",
        f'<body name="{name}" mocap="true" pos="{pos}">'
        f'<geom type="box" pos="0 0 {_BASE_HEIGHT_M / 2}" {common}'
        f' size="{BASE_HALF_M} {BASE_HALF_M} {_BASE_HEIGHT_M / 2}"'
        f' rgba="{BASE_RGB[0]} {BASE_RGB[1]} {BASE_RGB[2]} 1"/>'
        f'<body name="{name}_cap" pos="0 0 {TOP_M - half_cap:.6g}">'
        f'<joint name="{joint_name(name)}" type="slide" axis="0 0 -1" range="0 {TRAVEL_M}"'
        ' limited="true" stiffness="250" springref="-0.004" damping="6" armature="0.05"/>'
        f'<geom name="{name}_cap_geom" type="cylinder" size="{CAP_RADIUS_M} {half_cap:.6g}"'
        f' mass="0.05" {common} rgba="{CAP_RGB[0]} {CAP_RGB[1]} {CAP_RGB[2]} 1"/>'
        "</body></body>",
    )
