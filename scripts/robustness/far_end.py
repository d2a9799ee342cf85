"""The other side of a real-time run: a robot's process, and a line to it that can be cut."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from embodied.core.errors import SimulatorError


class RobotProcess:
    """``embodied robot`` in a process of its own, that can be killed and started again.

    Args:
      words: ``key=value`` of the command.
      log: File that takes what it says.
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._words, self._log, self.port = list(words), log, 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, at the same port as before, and waits until it listens.

        Raises:
          SimulatorError: If it ends instead; what it said is in the log.
        """
        command = [sys.executable, "-m", "embodied", "robot", *self._words, f"port={self.port}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.search(rb"deploy BUNDLE .*port=(\d+)", line)
            if found:
                self.port = int(found[1])
                return
        raise SimulatorError(f"the robot's process ended at its start; see {self._log}")

    def restart(self) -> None:
        """Kills it and starts it again."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """Ends it at once, without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class Relay:
    """A line that passes everything on until it is cut.

    Args:
      port: Of the robot's process, on this machine.

    Attributes:
      port: Where to connect instead.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._down = False
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Cuts the line; nobody gets through until `join`."""
        self._down = True
        self._drop()

    def join(self) -> None:
        """Lets the next connection through again."""
        self._down = False

    def close(self) -> None:
        """Ends the relay."""
        self.cut()
        self._listener.close()

    def _drop(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends = []

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    if self._down:
                        raise OSError("the line is cut")
                    far = socket.create_connection(("127.0.0.1", self._target), timeout=2)
                except OSError:
                    near.close()
                    continue
                for end in (near, far):
                    end.settimeout(None)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends = [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):  # one end has gone: so must the other
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
