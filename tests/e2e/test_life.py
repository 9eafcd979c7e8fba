"""Sockets at start, and the end of the daemon."""
import os
import signal
import socket
import subprocess
import time

import grpc
import pytest
from galerne.admin.v1 import admin_pb2
from galerne.v1 import inference_pb2 as pb

from daemon import NARROW, build_dir, details, wait_until
from test_cancel import LONG, start_stalled


def refused(config) -> str:
    """What galerned says when it does not start."""
    done = subprocess.run([build_dir() / "daemon/galerned", "--config", config], timeout=20,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    return done.stderr


def test_second_daemon_is_refused(daemon):
    said = refused(daemon.config)
    assert "another galerned" in said and str(daemon.process.pid) in said
    assert str(daemon.run_dir) in said and "runtime_dir" in said
    # and the first one has lost nothing
    assert len(daemon.inference().ListModels(pb.ListModelsRequest(), timeout=5).models) == 2


def test_somebody_elses_live_socket_is_left_alone(fresh):
    daemon = fresh(start=False)
    daemon.run_dir.mkdir()
    path = str(daemon.run_dir / "galerne.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        said = refused(daemon.config)
    assert f"process {os.getpid()} listens on {path}" in said
    assert os.path.exists(path)


def test_a_file_in_the_sockets_place_is_left_alone(fresh):
    daemon = fresh(start=False)
    daemon.run_dir.mkdir()
    path = daemon.run_dir / "admin.sock"
    path.write_text("precious")
    assert "is no socket" in refused(daemon.config)
    assert path.read_text() == "precious"
    assert not (daemon.run_dir / "galerne.sock").exists()


def test_stale_socket_is_replaced(fresh):
    daemon = fresh()
    daemon.process.kill()
    daemon.process.wait()
    assert (daemon.run_dir / "galerne.sock").exists()
    daemon.log_path.unlink()
    daemon.start()
    assert "replaced the stale socket" in daemon.log_tail()
    answer = list(daemon.inference().Generate(
        pb.GenerateRequest(model="tiny", text="x", max_tokens=3), timeout=10))
    assert answer[-1].usage.output_tokens == 3


def test_path_too_long(fresh, tmp_path):
    deep = tmp_path / ("d" * 100)
    daemon = fresh(start=False, runtime_dir=deep)
    said = refused(daemon.config)
    assert "107" in said and "runtime_dir" in said


def test_runtime_dir_that_cannot_be_made(fresh):
    daemon = fresh(start=False, runtime_dir="/proc/galerne-test")
    assert "/proc/galerne-test" in refused(daemon.config)


def test_sockets_go_with_the_daemon(fresh):
    daemon = fresh()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    assert not (daemon.run_dir / "galerne.sock").exists()
    assert not (daemon.run_dir / "admin.sock").exists()
    assert "stopped" in daemon.log_tail()


def test_drain_lets_streams_finish(fresh):
    daemon = fresh()
    stream = start_stalled(daemon, timeout=60)
    connected = daemon.inference()
    assert len(connected.ListModels(pb.ListModelsRequest(), timeout=5).models) == 2
    daemon.process.send_signal(signal.SIGTERM)
    wait_until("the sockets go", lambda: not (daemon.run_dir / "galerne.sock").exists())
    # a new connection, and a new call on an old one
    for stub, words in (daemon.inference(), ""), (connected, "stopping"):
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(LONG, timeout=5))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert words in caught.value.details()
    assert daemon.process.poll() is None
    rest = list(stream)
    assert rest[-1].usage.output_tokens == 500
    assert daemon.process.wait(10) == 0
    assert "cancelled" not in daemon.log_tail()


def test_drain_has_an_end(fresh):
    daemon = fresh(drain_timeout_ms=500)
    stream = start_stalled(daemon, timeout=60)
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(15) == 0
    assert 0.4 < time.monotonic() - began < 8
    assert "1 calls are cancelled" in daemon.log_tail()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_worker_dies_in_mid_stream(fresh):
    """The stream either goes on without a gap or ends with an error; the daemon serves on, and the
    other model has noticed nothing."""
    daemon = fresh()
    stub = daemon.inference()

    def ids(model):
        request = pb.GenerateRequest(model=model, text="hello", max_tokens=500, logprobs=20)
        return [t.id for m in stub.Generate(request, timeout=30) for t in m.tokens]
    whole, whole_of_other = ids("tiny"), ids("mix")
    stream = daemon.inference(options=NARROW).Generate(LONG, timeout=60)
    got = [t.id for t in next(stream).tokens]
    other = daemon.inference(options=NARROW).Generate(
        pb.GenerateRequest(model="mix", text="hello", max_tokens=500, logprobs=20), timeout=60)
    got_of_other = [t.id for t in next(other).tokens]
    wait_until("it runs", lambda: daemon.model_status().requests_running == 1)
    os.kill(daemon.model_status().worker_pid, signal.SIGKILL)
    try:
        for message in stream:
            got += [t.id for t in message.tokens]
        assert got == whole
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert details(error)
        assert got == whole[:len(got)]
    got_of_other += [t.id for m in other for t in m.tokens]
    assert got_of_other == whole_of_other
    wait_until("it serves again", lambda: daemon.model_status().worker_state ==
               admin_pb2.WORKER_STATE_SERVING, 20)
    assert ids("tiny") == whole
    assert daemon.model_status("mix").restarts_total == 0


def test_hundreds_of_connections(daemon):
    """Descriptors come back: more connections, one after the other, than may be open at once."""
    path = str(daemon.run_dir / "galerne.sock")
    for _ in range(3):
        opened = []
        for _ in range(400):
            one = socket.socket(socket.AF_UNIX)
            one.connect(path)
            opened.append(one)
        for one in opened:
            one.close()
    answer = daemon.inference().ListModels(pb.ListModelsRequest(), timeout=10, wait_for_ready=True)
    assert len(answer.models) == 2


def cpu_seconds(pid: int) -> float:
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_descriptors_run_out(fresh):
    """More connections than descriptors: the daemon waits without spinning, says so, and serves
    again when some are closed."""
    daemon = fresh(files_max=160, listener_threads_count=1)
    path = str(daemon.run_dir / "galerne.sock")
    opened = []
    for _ in range(250):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        opened.append(one)
    wait_until("it says so", lambda: "new connections wait" in daemon.log_tail())
    before = cpu_seconds(daemon.process.pid)
    time.sleep(1)
    assert cpu_seconds(daemon.process.pid) - before < 0.3
    for one in opened:
        one.close()
    answer = list(daemon.inference().Generate(
        pb.GenerateRequest(model="tiny", text="x", max_tokens=3), timeout=20, wait_for_ready=True))
    assert answer[-1].usage.output_tokens == 3


def test_garbage_on_the_socket(daemon):
    """Bytes that are no HTTP/2, and a preface that never goes on."""
    path = str(daemon.run_dir / "galerne.sock")
    for talk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096),
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                 + b"\xff\xff\xff\x01\x05\0\0\0\1" + b"x" * 100):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(path)
            one.sendall(talk)
            one.settimeout(0.2)
            try:
                while one.recv(4096):
                    pass
            except (TimeoutError, ConnectionResetError):
                pass
    assert len(daemon.inference().ListModels(pb.ListModelsRequest(), timeout=5).models) == 2
