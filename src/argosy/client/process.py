"""One engine process, as its supervisor holds it."""

from __future__ import annotations

import signal
import socket
import subprocess

import msgspec

from argosy import errors
from argosy.engine.board import Board
from argosy.engine.spec import FAILED, READY, EngineSpec, command
from argosy.errors import ArgosyError, EngineDead

_LAST_WORDS_S = 2.0
"""What a process is given to end once it has closed its lifeline."""


class EngineProcess:
    """A process just started. Raises OSError where none can be.

    lifeline: this side of the socket pair.  is_serving: whether it said that it serves.
    error: why it could not, as an error of argosy.errors where it said so.
    """

    def __init__(self, spec: EngineSpec, listener: socket.socket, board: Board) -> None:
        self.lifeline, theirs = socket.socketpair()
        self.lifeline.setblocking(False)
        self.is_serving = False
        self._heard = b""
        self._why: str | None = None
        self._was_left = False
        fds = (listener.fileno(), board.fd, theirs.fileno())
        spec = msgspec.structs.replace(
            spec, listener=listener.fileno(), board=board.fd, lifeline=theirs.fileno()
        )
        try:
            self._process = subprocess.Popen(
                command(spec), stdin=subprocess.DEVNULL, pass_fds=fds, start_new_session=True
            )
        except BaseException:
            self.lifeline.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def error(self) -> ArgosyError | None:
        """What the engine said of its failure to start, or how its start ended by its own doing."""
        if self._heard.startswith(FAILED):
            name, _, message = self._heard[len(FAILED) :].decode(errors="replace").partition(" ")
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, ArgosyError):
                return kind(message.strip())
            return EngineDead(f"the engine could not start: {name}: {message.strip()}")
        if not self.is_serving and (self._process.returncode or 0) > 0:
            return EngineDead(
                f"the engine could not start: it exited with status {self._process.returncode}; "
                "what it wrote on stderr says why"
            )
        return None

    def listen(self) -> bool:
        """Take what it wrote; whether it still lives."""
        try:
            while data := self.lifeline.recv(65536):
                self._heard += data
                self.is_serving = self.is_serving or self._heard.startswith(READY)
        except BlockingIOError:
            return self._process.poll() is None
        except OSError:
            pass
        self._was_left = True
        return False

    def give_up(self, why: str) -> None:
        """Note why it is to be killed."""
        self._why = why

    def end(self, patience: float) -> str:
        """End the process if it lives, and reap it; how it ended, in words.

        patience: seconds from SIGTERM to SIGKILL; 0 is SIGKILL at once, except for one that closed
        its lifeline, since that is about to end by itself.
        """
        if patience:
            self._process.terminate()
        try:
            self._process.wait(patience or (_LAST_WORDS_S if self._was_left else 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.lifeline.close()
        return self._words()

    def _words(self) -> str:
        code = self._process.returncode
        if self._why is not None:
            return f"killed: {self._why}"
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"killed by signal {-code}"
