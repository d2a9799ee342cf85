"""A server in a process of its own, which can be killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """``embodied serve`` with the given words, at a free port.

    Attributes:
      process: The process.
      uri: Where it listens.
      said: What it printed before it served.
    """

    def __init__(self, *words: object) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "embodied", "serve", *map(str, words), "port=0"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith("health"):
                break
        found = re.search(r"ws://\S+", self.said)
        assert found, self.said
        self.uri = found.group()

    def kill(self) -> None:
        """Ends it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
