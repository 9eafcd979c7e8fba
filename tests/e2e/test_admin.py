"""The operator's socket."""
import os
import pwd
import subprocess
import sys

import grpc
import pytest
from galerne.admin.v1 import admin_pb2, admin_pb2_grpc
from galerne.v1 import inference_pb2 as pb

from daemon import details, wait_until


def test_status(daemon):
    stub = daemon.inference()
    before = daemon.model_status()
    list(stub.Generate(pb.GenerateRequest(model="tiny", text="hello", max_tokens=7), timeout=10))
    # A listener that is awake may take the end of a stream before the engine's turn is over.
    status = wait_until("it is counted", lambda: [
        s for s in [daemon.status()]
        if s.models[0].output_tokens_total > before.output_tokens_total], 2)[0]
    assert status.state == admin_pb2.DAEMON_STATE_READY
    assert status.pid == daemon.process.pid
    assert status.version and status.uptime_ms > 0 and status.requests_max == 1024
    assert 1 << 20 < status.resident_bytes
    assert status.calls_total > 0
    assert [m.name for m in status.models] == ["models/tiny", "models/mix"]
    after = status.models[0]
    assert after.worker_state == admin_pb2.WORKER_STATE_SERVING
    assert after.requests_total == before.requests_total + 1
    assert after.output_tokens_total == before.output_tokens_total + 7
    assert after.prompt_tokens_total == before.prompt_tokens_total + 4
    assert after.kv_blocks_count >= after.kv_blocks_free + after.kv_blocks_used  # some are cached
    assert after.worker_resident_bytes > 0 and after.weights_bytes > 0
    assert os.path.exists(f"/proc/{after.worker_pid}")


def test_admin_is_not_on_the_public_socket(daemon):
    stub = admin_pb2_grpc.AdminStub(daemon.channel("galerne.sock"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Status(admin_pb2.StatusRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "admin.sock" in caught.value.details()
    assert details(caught.value)["ErrorInfo"].reason == "UNSUPPORTED"


def test_inference_is_on_the_operators_socket_too(daemon):
    stub = daemon.inference(socket="admin.sock")
    assert len(stub.ListModels(pb.ListModelsRequest(), timeout=5).models) == 2


def test_modes(daemon):
    assert os.stat(daemon.run_dir / "galerne.sock").st_mode & 0o777 == 0o660
    assert os.stat(daemon.run_dir / "admin.sock").st_mode & 0o777 == 0o600
    assert os.stat(daemon.run_dir).st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_cannot_operate(daemon):
    """Even with the file's mode opened by hand, a peer of another uid is turned away."""
    nobody = pwd.getpwnam("nobody")
    script = f"""
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect({str(daemon.run_dir / "admin.sock")!r})
    s.settimeout(5)
    print(len(s.recv(100)))
except PermissionError:
    print("refused")
"""

    def become():
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)

    def run():
        done = subprocess.run([sys.executable, "-c", script], preexec_fn=become, timeout=20,
                              stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()
    directory = daemon.run_dir.parent
    mode = directory.stat().st_mode
    directory.chmod(0o755)
    try:
        assert run() == "refused"
        os.chmod(daemon.run_dir / "admin.sock", 0o666)
        assert run() == "0"  # closed without a byte
        assert f"connection of uid {nobody.pw_uid} refused" in daemon.log_tail()
    finally:
        os.chmod(daemon.run_dir / "admin.sock", 0o600)
        directory.chmod(mode)
