"""A server in a process of its own, which can be killed, and what it takes of its machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from embodied.core.errors import EmbodiedError
from embodied.serve.client import TOKEN_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
"""Longest wait for a server to begin."""


class ServerProcess:
    """``embodied serve`` with the given words, at a free port.

    Args:
      log: File for what it prints.
      *words: Source and options.
      token: Asked of its clients; empty for none.

    Attributes:
      process: The process.
      uri: Where it listens.
      said: What it printed until then.

    Raises:
      EmbodiedError: If it does not begin, with what it printed.
    """

    def __init__(self, log: Path, *words: object, token: str = "") -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "embodied", "serve", *map(str, words), "port=0"],
                env={**os.environ, "PYTHONPATH": path, TOKEN_VARIABLE: token},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        end, self.said = time.monotonic() + START_S, ""
        while "\nhealth" not in self.said:
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise EmbodiedError(f"the server did not begin:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
            self.said = log.read_text()
        self.uri = re.search(r"ws://\S+", self.said)[0]  # type: ignore[index]

    def kill(self) -> None:
        """Ends it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()


class Watch(threading.Thread):
    """Looks at a process every second: its memory in bytes, and how many files it holds open."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="watch", daemon=True)
        self._directory, self._over = Path(f"/proc/{pid}"), threading.Event()
        self.resident: list[int] = []
        self.handles: list[int] = []

    def look(self) -> None:
        """Looks once, now."""
        pages = int((self._directory / "statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.handles.append(len(list((self._directory / "fd").iterdir())))

    def run(self) -> None:
        while not self._over.wait(1.0):
            self.look()

    def stop(self) -> None:
        """Ends looking."""
        self._over.set()
        self.join()
