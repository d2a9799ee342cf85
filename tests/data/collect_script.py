"""Collects slowly in two processes, to be killed: ``python -m tests.data.collect_script OUT N``."""

import sys
from pathlib import Path

from tests.data import fake_env
from tests.data.conftest import collect_fake

if __name__ == "__main__":
    collect_fake(Path(sys.argv[1]), int(sys.argv[2]), num_workers=2, env_factory=fake_env.make_slow)
