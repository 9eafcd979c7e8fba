"""galernectl status --follow: again and again, through a restart, until Ctrl-C."""
import json
import os
import select
import signal
import subprocess
import time

import pytest

from daemon import build_dir, wait_until
from test_galernectl import failed, run


# Ctrl-C between two calls, and in one.
QUIET = ["", "galernectl: interrupted: the call was cancelled\n"]


class Follower:
    def __init__(self, daemon, *words):
        settings = dict(os.environ, GALERNE_SOCKET=str(daemon.run_dir))
        self.process = subprocess.Popen(
            [build_dir() / "admin/galernectl", "status", "--follow", "--interval", "0.1", *words],
            env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line(self, timeout_s: float = 10) -> str:
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert ready, "no line in time"
        return self.process.stdout.readline()

    def interrupt(self) -> tuple:
        self.process.send_signal(signal.SIGINT)
        _, talk = self.process.communicate(timeout=10)
        return self.process.returncode, talk


@pytest.fixture
def follow(request):
    made = []

    def make(daemon, *words) -> Follower:
        made.append(Follower(daemon, *words))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()


def test_lines_of_json(daemon, follow):
    follower = follow(daemon, "--json")
    began = time.monotonic()
    told = [json.loads(follower.line()) for _ in range(4)]
    assert time.monotonic() - began > 0.25  # it waits in between
    assert [len(one["models"]) for one in told] == [2] * 4
    code, talk = follower.interrupt()
    assert code == 130 and talk in QUIET


def test_tables(daemon, follow):
    follower = follow(daemon)
    seen = 0
    while seen < 3:  # the head of each
        seen += follower.line().startswith("galerned ")
    code, talk = follower.interrupt()
    assert code == 130 and talk in QUIET


def test_a_restart_is_waited_for(fresh, follow):
    daemon = fresh()
    follower = follow(daemon, "--json")
    first = json.loads(follower.line())["pid"]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    # It says that nobody is there, and goes on asking.
    assert select.select([follower.process.stderr], [], [], 10)[0]
    daemon.log_path.unlink()
    daemon.start()
    wait_until("the new one's line", lambda: json.loads(follower.line())["pid"] != first)
    code, talk = follower.interrupt()
    assert code == 130
    assert "galernectl:" in talk


def test_nobody_there(tmp_path):
    failed(run(None, "status", "-f", "--socket", tmp_path / "none.sock"), 7, "none.sock")


@pytest.mark.parametrize("interval", ["0", "x", "4000"])
def test_bad_interval(interval):
    failed(run(None, "status", "--interval", interval), 64, "--interval")
