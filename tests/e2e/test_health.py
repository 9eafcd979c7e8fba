"""grpc.health.v1 on both sockets, and its changes."""
import os
import signal
import threading

import grpc
import pytest
from galerne.v1 import inference_pb2 as pb
from health.v1 import health_pb2

from daemon import details, wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Watcher(threading.Thread):
    """Collects what a Watch says."""

    def __init__(self, stub, service):
        super().__init__(daemon=True)
        self.seen, self.error = [], None
        self.stream = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
        self.start()

    def run(self):
        try:
            for message in self.stream:
                self.seen.append(message.status)
        except grpc.RpcError as error:
            self.error = error


@pytest.mark.parametrize("socket", ["galerne.sock", "admin.sock"])
@pytest.mark.parametrize("service", ["", "galerne.v1.Inference", "models/tiny", "models/mix"])
def test_check(daemon, socket, service):
    answer = daemon.health(socket=socket).Check(health_pb2.HealthCheckRequest(service=service),
                                                timeout=5)
    assert answer.status == SERVING


@pytest.mark.parametrize("service", ["nobody", "models/nobody", "models/", "tiny"])
def test_check_unknown(daemon, service):
    with pytest.raises(grpc.RpcError) as caught:
        daemon.health().Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_watch_unknown_stays_open(daemon):
    watcher = Watcher(daemon.health(), "models/nobody")
    wait_until("an answer", lambda: watcher.seen)
    watcher.join(0.5)
    assert watcher.is_alive() and watcher.seen == [SERVICE_UNKNOWN]
    watcher.stream.cancel()
    watcher.join(5)
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_watch_follows_a_worker(fresh):
    daemon = fresh()
    health = daemon.health()
    tiny, mix = Watcher(health, "models/tiny"), Watcher(health, "models/mix")
    wait_until("both serve", lambda: tiny.seen == [SERVING] and mix.seen == [SERVING])
    os.kill(daemon.model_status("tiny").worker_pid, signal.SIGKILL)
    wait_until("it went and came back", lambda: tiny.seen == [SERVING, NOT_SERVING, SERVING], 20)
    assert mix.seen == [SERVING]
    assert daemon.model_status("tiny").restarts_total == 1


def test_watch_ends_when_the_daemon_stops(fresh):
    daemon = fresh()
    watcher = Watcher(daemon.health(), "")
    wait_until("it serves", lambda: watcher.seen == [SERVING])
    daemon.process.send_signal(signal.SIGTERM)
    watcher.join(5)
    assert watcher.seen == [SERVING, NOT_SERVING]
    assert watcher.error.code() == grpc.StatusCode.UNAVAILABLE
    assert daemon.process.wait(10) == 0


def test_before_ready(fresh, tmp_path):
    """A worker that does not come up: health says so, calls are told to try again."""
    slow = tmp_path / "slow-worker"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    daemon = fresh(wait=False, worker_binary=slow)
    stub = daemon.inference()
    wait_until("it listens", lambda: (daemon.run_dir / "admin.sock").exists())
    answer = daemon.health().Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
    assert answer.status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(pb.GenerateRequest(model="tiny", text="x"), timeout=5))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert details(caught.value)["RetryInfo"].retry_delay.ToNanoseconds() > 0
    models = stub.ListModels(pb.ListModelsRequest(), timeout=5).models
    assert [m.state for m in models] == [pb.MODEL_STATE_LOADING] * 2
