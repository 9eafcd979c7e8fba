"""What a service manager sees of galerned, and what clients see of its restarts."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

from manager import LONG, NARROW, build_dir, wait_until
from threads import Stopped, hold_sockets, thread_named

SILENT = (pathlib.Path(__file__).parent / "silent_worker.py").read_text()


class Call(threading.Thread):
    """A short answer, asked for in a thread of its own."""

    def __init__(self, manager, timeout: float = 30):
        super().__init__(daemon=True)
        self.manager, self.timeout, self.ids, self.error = manager, timeout, None, None
        self.start()

    def run(self) -> None:
        try:
            self.ids = self.manager.generate(self.timeout)
        except grpc.RpcError as error:
            self.error = error

    def result(self) -> list:
        self.join(self.timeout)
        assert self.error is None, self.error
        assert self.ids, "no answer in time"
        return self.ids


# ---- READY ----

def test_ready_is_said_by_the_daemon_itself(manager):
    m = manager()
    front = m.start()
    assert len(m.said("READY=1")) == 1
    assert {pid for _, _, pid in m.heard} == {front.pid}
    wait_until("status", lambda: m.said("STATUS=ready"))
    assert m.generate()


def test_no_ready_before_the_self_test_token(manager):
    """A worker that says READY and gives no token; its loss is no READY either; a real one is."""
    m = manager(worker="held")
    m.start(wait=False)
    silent = m.spawn([sys.executable, "-c", SILENT], {"worker": m.worker_socket})
    wait_until("the worker greets", lambda: "silent worker: said READY" in m.log())
    time.sleep(2.2)
    assert not m.said("READY=1")
    assert m.said("STATUS=loading")
    assert len(m.said("EXTEND_TIMEOUT_USEC=")) >= 2  # it goes on asking for time
    silent.kill()
    silent.wait()
    wait_until("the loss", lambda: "worker lost" in m.log())
    time.sleep(0.5)
    assert not m.said("READY=1")
    m.start_worker()
    wait_until("READY=1", lambda: m.said("READY=1"))
    assert m.generate()


LEAVING = """
import socket
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.recv(1)
    connection.close()
"""


def test_a_worker_that_leaves_before_it_serves(manager):
    m = manager(worker="held")
    front = m.start(wait=False)
    m.spawn([sys.executable, "-c", LEAVING], {"worker": m.worker_socket})
    assert front.wait(30) == 1  # after a few attempts
    assert "model tiny failed: the worker left while it loaded the model; see its log" in m.log()
    assert not m.said("READY=1")


def test_a_worker_that_stands_still_delays_ready(manager):
    m = manager(worker="held")
    worker = m.start_worker()
    worker.send_signal(signal.SIGSTOP)
    m.start(wait=False)
    time.sleep(1.5)
    assert not m.said("READY=1")
    assert m.status().models[0].worker_pid == 0  # who listens is not who serves
    worker.send_signal(signal.SIGCONT)
    wait_until("READY=1", lambda: m.said("READY=1"))
    assert m.status().models[0].worker_pid == worker.pid


def test_nothing_serves(manager):
    """No worker's socket, and a program that cannot be run: said clearly, no READY, exit code 1."""
    m = manager(worker="none", worker_binary="/nonexistent/galerne-worker")
    assert m.start(wait=False).wait(20) == 1
    assert not m.said("READY=1")
    said = m.log()
    assert f"nobody listens on {m.run_dir}/worker-tiny.sock" in said
    assert "enable galerne-worker@tiny.socket" in said and "worker_binary" in said


def test_without_a_socket_the_front_starts_the_worker(manager):
    m = manager(worker="none")
    m.start()
    assert m.generate()
    assert m.worker is None
    pid = m.status().models[0].worker_pid
    parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
    assert int(parent) == m.front.pid


# ---- clients that come early ----

def test_a_client_before_the_daemon_is_served(manager):
    m = manager()
    early = Call(m)
    time.sleep(0.5)
    assert early.is_alive()
    m.start()
    ids = early.result()
    assert ids == m.generate()


def test_a_client_while_the_model_loads_is_served(manager):
    m = manager(worker="held")
    worker = m.start_worker()
    worker.send_signal(signal.SIGSTOP)
    m.start(wait=False)
    wait_until("it listens", lambda: "listening on" in m.log())
    early = Call(m)
    time.sleep(1)
    assert early.is_alive()
    worker.send_signal(signal.SIGCONT)
    early.result()


def test_sockets_survive_restarts(manager):
    """The paths stay, a client in between waits and is served, the worker keeps its weights."""
    m = manager(kv_memory_percent=10)
    inodes = [os.stat(m.run_dir / f"{name}.sock").st_ino for name in m.sockets]
    m.start()
    first, worker = m.generate(), m.worker.pid
    assert m.stop() == 0
    assert m.said("STOPPING=1")
    between = Call(m)
    time.sleep(0.3)
    assert between.is_alive()
    m.start()
    assert between.result() == first
    m.front.kill()  # not a word of farewell
    m.front.wait()
    between = Call(m)
    m.start()
    assert between.result() == first
    assert m.worker.pid == worker == m.status().models[0].worker_pid
    assert inodes == [os.stat(m.run_dir / f"{name}.sock").st_ino for name in m.sockets]


# ---- stop ----

def stalled_stream(m):
    """A stream whose client does not read on: it runs until it is read or cancelled."""
    stream = m.inference(options=NARROW).Generate(LONG, timeout=60)
    next(stream)
    return stream


def test_drain_ends_within_its_limit(manager):
    m = manager(drain_timeout_ms=1000)
    m.start()
    stream = stalled_stream(m)
    began = time.monotonic()
    m.front.send_signal(signal.SIGTERM)
    wait_until("STOPPING=1", lambda: m.said("STOPPING=1"), 1)
    assert m.said("EXTEND_TIMEOUT_USEC=21000000")
    late = Call(m)  # waits for the next daemon
    assert m.front.wait(15) == 0
    assert 0.9 < time.monotonic() - began < 9
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert late.is_alive()
    m.start()
    late.result()


def test_drain_lets_a_stream_finish(manager):
    m = manager()
    m.start()
    stream = stalled_stream(m)
    m.front.send_signal(signal.SIGTERM)
    wait_until("STOPPING=1", lambda: m.said("STOPPING=1"), 1)
    assert list(stream)[-1].usage.output_tokens == 500
    assert m.front.wait(10) == 0
    assert (m.run_dir / "galerne.sock").exists()  # not ours to remove


# ---- the watchdog ----

def test_watchdog_is_fed(manager):
    m = manager(watchdog_s=1.5)
    m.start()
    began = time.monotonic()
    time.sleep(3)
    assert m.fed_since(began) >= 4


def test_watchdog_waits_for_a_step_within_its_limit(manager):
    m = manager(watchdog_s=1.5, step_limit_ms=60000)
    m.start()
    m.worker.send_signal(signal.SIGSTOP)
    call = Call(m)
    wait_until("the step is out", lambda: m.status().models[0].steps_in_flight)
    began = time.monotonic()
    time.sleep(3)
    assert m.fed_since(began) >= 4
    m.worker.send_signal(signal.SIGCONT)
    call.result()


def test_a_hung_worker_is_the_engines_to_handle(manager):
    """Past its limit the worker is killed by the pid of its messages, the next one takes the same
    socket, the call goes on, and the watchdog never missed a meal."""
    m = manager(watchdog_s=1.5, step_limit_ms=1000)
    m.start()
    ids, hung = m.generate(), m.worker
    hung.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert m.generate(30) == ids
    assert hung.wait(1) == -signal.SIGKILL
    assert m.worker.pid != hung.pid
    fed = [t for t in m.said("WATCHDOG=1") if t > began - 1.5]
    assert max(b - a for a, b in zip(fed, fed[1:])) < 1.5


def watchdog_starves(m) -> None:
    """No sign for three times its period, at the latest when 10 s of grace and some are over."""
    def silent() -> bool:
        return time.monotonic() - m.said("WATCHDOG=1")[-1] > 4.5
    wait_until("the watchdog is fed no more", silent, 25)


def test_watchdog_stops_when_an_engine_does_not_turn(manager):
    m = manager(watchdog_s=1.5)
    m.start()
    wait_until("it is fed", lambda: m.said("WATCHDOG=1"))
    with Stopped(thread_named(m.front.pid, "engine tiny")):
        watchdog_starves(m)
        assert m.status().models  # the rest of the daemon goes on
    began = time.monotonic()
    wait_until("it is fed again", lambda: m.fed_since(began), 5)


def test_watchdog_stops_when_a_step_hangs_for_good(manager):
    """A worker that cannot be got rid of, as one stuck in a driver: its connection never ends."""
    m = manager(watchdog_s=1.5, step_limit_ms=1000)
    m.start()
    wait_until("it is fed", lambda: m.said("WATCHDOG=1"))
    m.worker_kind = "held"
    m.worker.send_signal(signal.SIGSTOP)
    held = hold_sockets(m.worker.pid)
    call = Call(m, timeout=60)
    watchdog_starves(m)
    assert m.worker.wait(1) == -signal.SIGKILL  # it was tried
    assert call.is_alive()
    for fd in held:  # at last it is gone: the next worker answers, and the call never ended
        os.close(fd)
    m.worker_kind = "activated"
    began = time.monotonic()
    call.result()
    wait_until("it is fed again", lambda: m.fed_since(began), 5)


# ---- what is handed over ----

def test_a_socket_that_nobody_serves_is_refused(manager):
    m = manager(names=("galerne", "admin", "metrics"))
    assert m.start(wait=False).wait(20) == 1
    assert '"metrics"' in m.log() and "FileDescriptorName" in m.log()
    assert not m.said("READY=1")


def test_one_of_two(manager):
    """The operator's socket is not handed over: the daemon makes it, and removes it."""
    m = manager(names=("galerne",))
    m.start()
    assert m.status().models and m.generate()
    assert m.stop() == 0
    assert not (m.run_dir / "admin.sock").exists()
    assert (m.run_dir / "galerne.sock").exists()


def test_a_socket_of_the_wrong_kind(manager):
    m = manager()
    m.sockets["galerne"].close()
    m.sockets["galerne"] = m.listen("other.sock", socket.SOCK_SEQPACKET)
    assert m.start(wait=False).wait(20) == 1
    assert "no listening unix socket of kind stream" in m.log() and "ListenStream=" in m.log()


def test_an_environment_that_is_not_so(manager):
    m = manager()
    done = subprocess.run(["bash", "-c", 'LISTEN_FDS=many LISTEN_PID=$$ exec "$@"', "bash",
                           build_dir() / "daemon/galerned", "--config", m.config], timeout=20,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "LISTEN_FDS" in done.stderr


def test_descriptors_of_another_process_are_not_ours(manager):
    m = manager(worker="none")
    os.unlink(m.run_dir / "galerne.sock")
    os.unlink(m.run_dir / "admin.sock")
    with open(m.log_path, "ab") as log:
        m.front = subprocess.Popen([build_dir() / "daemon/galerned", "--config", m.config],
                                   env={**m.environment(), "LISTEN_FDS": "2", "LISTEN_PID": "1"},
                                   stdout=log, stderr=log)
    m.started.append(m.front)
    wait_until("ready", lambda: "ready after" in m.log(), 30)
    assert m.generate()
    assert m.stop() == 0
    assert not (m.run_dir / "galerne.sock").exists()


# ---- the worker ----

def test_an_inherited_worker_stays(manager):
    """It does not leave for want of a front, and its socket is not its own to remove."""
    m = manager(worker="held")
    worker = m.start_worker("--linger-ms", "200")
    time.sleep(1.2)
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 0
    assert (m.run_dir / "worker-tiny.sock").exists()


def test_a_worker_by_name_makes_the_socket_itself(manager):
    m = manager(worker="none")
    with open(m.log_path, "ab") as log:
        worker = subprocess.Popen([build_dir() / "daemon/galerne-worker", "--config", m.config,
                                   "--model", "tiny"], stdout=log, stderr=log)
    m.started.append(worker)
    wait_until("its socket", lambda: (m.run_dir / "worker-tiny.sock").exists())
    m.start()
    assert m.status().models[0].worker_pid == worker.pid
    assert m.stop() == 0
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 0
    assert not (m.run_dir / "worker-tiny.sock").exists()


@pytest.mark.parametrize("arguments, code, words", [
    (["--model", "other"], 1, ['no model called "other"', "it has tiny"]),
    (["--model", "tiny", "--config", "/nonexistent.yaml"], 1, ["/nonexistent.yaml"]),
    (["--model", "tiny", "--path", "/tmp"], 64, ["usage"]),
    ([], 64, ["usage"]),
    (["--path", "/tmp"], 1, ["no socket", "--socket"])])
def test_worker_arguments(manager, arguments, code, words):
    m = manager(worker="none")
    line = arguments + (["--config", m.config] if "--config" not in arguments else [])
    done = subprocess.run([build_dir() / "daemon/galerne-worker", *line], timeout=20,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    assert all(word in done.stderr for word in words), done.stderr


def test_an_inline_model_has_no_worker(manager):
    m = manager(worker="held", model_worker="inline")
    assert m.start_worker().wait(10) == 1
    assert "model tiny is inline" in m.log()


def test_a_worker_with_the_wrong_socket(manager):
    m = manager(worker="held")
    m.worker_socket.close()
    m.worker_socket = m.listen("stream.sock", socket.SOCK_STREAM)
    assert m.start_worker().wait(10) == 1
    assert "ListenSequentialPacket=" in m.log()


def test_a_worker_of_another_user_is_refused(manager):
    if os.geteuid() != 0:
        pytest.skip("needs root to be another user")
    m = manager(worker="held")
    m.spawn(["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", SILENT],
            {"worker": m.worker_socket})
    m.start(wait=False)
    wait_until("refused", lambda: "must run as uid 0" in m.status().models[0].state_text, 20)
    assert not m.said("READY=1")
