"""A program on a pseudo-terminal of its own, and a person who types and reads."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

# What moves the cursor or changes how text looks, as line editors write it.
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\([A-Z]")


class Terminal:
    def __init__(self, command, env=None, rows: int = 24, columns: int = 80):
        self.here, self.there = pty.openpty()
        self.resize(rows, columns)
        self.settings = termios.tcgetattr(self.there)
        self.shown = b""
        self.seen = 0  # where in plain() the latest wait ended
        settings = {"TERM": "xterm", "HOME": "/nonexistent", **os.environ, **(env or {})}
        # setsid --ctty: Ctrl-C, Ctrl-Z and a new size come as signals. Whoever runs the tests may
        # ignore some (nohup does), which the program would inherit.
        self.process = subprocess.Popen(["env", "--default-signal", "setsid", "--ctty",
                                         *map(str, command)], env=settings,
                                        stdin=self.there, stdout=self.there, stderr=self.there)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.here)
        os.close(self.there)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.here, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """As fast as the terminal takes it, reading what it shows meanwhile."""
        left = text.encode()
        while left:
            self.read(0)
            _, ready, _ = select.select([], [self.here], [], 10)
            assert ready, "the terminal takes no more input"
            left = left[os.write(self.here, left[:512]):]

    def read(self, timeout_s: float) -> bool:
        if not select.select([self.here], [], [], timeout_s)[0]:
            return False
        self.shown += os.read(self.here, 65536)
        return True

    def plain(self) -> str:
        """All that was shown, without the editor's own control sequences."""
        return CONTROL.sub(b"", self.shown).decode(errors="replace")

    def text(self) -> str:
        """The same, since the last wait."""
        return self.plain()[self.seen:]

    def wait(self, wanted: str, timeout_s: float = 10) -> str:
        """Until `wanted` was shown; the text up to its end, where the next wait begins."""
        end = time.monotonic() + timeout_s
        while wanted not in self.text():
            assert time.monotonic() < end, f"not shown in {timeout_s} s: {wanted!r}, but " \
                                           f"{self.text()!r}"
            self.read(0.05)
        text = self.text()
        text = text[:text.index(wanted) + len(wanted)]
        self.seen += len(text)
        return text

    def is_as_before(self) -> bool:
        """The terminal's settings are those that it had at the start."""
        return termios.tcgetattr(self.there) == self.settings

    def end(self, timeout_s: float = 10) -> int:
        """The exit code of a program that ends now; negative: the signal that ended it."""
        until = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < until:
            self.read(0.02)
        assert self.process.poll() is not None, f"it does not end: {self.text()!r}"
        while self.read(0.05):
            pass
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
