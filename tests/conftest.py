"""Settings of the whole test run, made before numpy, torch or a GL library is loaded."""

import os

# Two cores are shared by test workers and simulator processes; small matrices gain nothing.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from embodied.extras import importable  # noqa: E402

# How fast examples are made and run says how busy the machine is, not whether they hold.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this machine cannot run, and says why."""
    no_sim = None if importable("robosuite") else "the [sim] extra is not installed"
    # Markers, not keywords: those hold the names of directories too.
    no_gpu = _no_gpu() if any(item.get_closest_marker("gpu") for item in items) else None
    for item in items:
        if no_sim and (item.get_closest_marker("sim") or item.get_closest_marker("render")):
            item.add_marker(pytest.mark.skip(reason=no_sim))
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=no_gpu))


def _no_gpu() -> str | None:
    if not importable("torch"):
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device that torch can use"


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory):
    """Returns a function: name of a small policy -> (policy, its bundle), exported once."""
    from tests.export.small import make_bundle

    made = {}

    def get(name: str):
        if name not in made:
            made[name] = make_bundle(name, tmp_path_factory.mktemp("bundles") / name)
        return made[name]

    return get
