"""Clients that leave, are late, or do not read: what they held comes back."""
import os
import signal
import subprocess
import sys
import time

import grpc
import pytest
from galerne.admin.v1 import admin_pb2
from galerne.v1 import inference_pb2 as pb

from daemon import NARROW, details, wait_until

# 500 tokens with 20 best each are far more than a stream's window: the stream stalls unread.
LONG = pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20)


def start_stalled(daemon, **how):
    """A stream of which only the first message is read; it holds blocks of the cache."""
    stream = daemon.inference(options=NARROW).Generate(LONG, **how)
    first = next(stream)
    assert len(first.tokens) >= 1
    wait_until("the stream holds blocks", lambda: daemon.model_status().kv_blocks_used > 0)
    time.sleep(0.3)  # it has run into the window by now, and still holds them
    assert daemon.model_status().requests_running == 1
    assert daemon.model_status().kv_blocks_used > 0
    return stream


def test_stalled_stream_goes_on_when_it_is_read(daemon):
    stream = start_stalled(daemon, timeout=30)
    rest = list(stream)
    assert rest[-1].usage.output_tokens == 500
    daemon.wait_idle()


def test_cancel_frees_blocks(daemon):
    before = daemon.model_status().requests_cancelled_total
    stream = start_stalled(daemon, timeout=30)
    stream.cancel()
    daemon.wait_idle()
    assert daemon.model_status().requests_cancelled_total == before + 1
    daemon.log_has("finish cancelled CANCELLED")


def test_cancel_at_once(daemon):
    """Cancelled somewhere between the headers and the first token, a hundred times."""
    stub = daemon.inference()
    for i in range(100):
        stream = stub.Generate(LONG, timeout=30)
        time.sleep(0.0001 * (i % 10))
        stream.cancel()
    daemon.wait_idle()
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_deadline_frees_blocks(daemon):
    stream = start_stalled(daemon, timeout=1.0)
    time.sleep(1.0)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    daemon.wait_idle()


def test_deadline_that_is_over(daemon):
    with pytest.raises(grpc.RpcError) as caught:
        list(daemon.inference().Generate(LONG, timeout=0.000001))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    daemon.wait_idle()


def test_disconnect_frees_blocks(daemon):
    """The client's process dies in the middle of its stream."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
import grpc, time
from galerne.v1 import inference_pb2 as pb, inference_pb2_grpc
channel = grpc.insecure_channel("unix:{daemon.run_dir}/galerne.sock", {NARROW!r})
stream = inference_pb2_grpc.InferenceStub(channel).Generate(
    pb.GenerateRequest.FromString({LONG.SerializeToString()!r}))
next(stream)
print("reading", flush=True)
time.sleep(60)
"""
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"reading\n"
        wait_until("the stream runs", lambda: daemon.model_status().requests_running == 1)
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
        client.stdout.close()
    daemon.wait_idle()
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_stalled_reader_is_cancelled_and_harms_nobody(fresh):
    daemon = fresh(stall_timeout_ms=1500)
    began = time.monotonic()
    stream = start_stalled(daemon, timeout=30)
    # beside it others are served
    other = list(daemon.inference().Generate(
        pb.GenerateRequest(model="tiny", text="x", max_tokens=100), timeout=5))
    assert other[-1].usage.output_tokens == 100
    daemon.wait_idle()
    assert time.monotonic() - began >= 1.4
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not read" in caught.value.details()
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_more_requests_than_there_is_room_for(fresh):
    daemon = fresh(requests_max=2)
    streams = [daemon.inference(options=NARROW).Generate(LONG, timeout=30) for _ in range(2)]
    for stream in streams:
        next(stream)
    with pytest.raises(grpc.RpcError) as caught:
        list(daemon.inference().Generate(LONG, timeout=10))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(caught.value)["RetryInfo"].retry_delay.ToNanoseconds() > 0
    for stream in streams:
        stream.cancel()
    daemon.wait_idle()
    assert list(daemon.inference().Generate(LONG, timeout=10))[-1].usage.output_tokens == 500


def test_waiting_line_is_bounded(fresh):
    daemon = fresh(model_settings={"running_max": 1, "waiting_max": 1})
    worker = daemon.model_status().worker_pid
    stub = daemon.inference()
    os.kill(worker, signal.SIGSTOP)  # steps do not come back: who runs keeps running
    try:
        streams = [stub.Generate(LONG, timeout=30)]
        wait_until("one runs", lambda: daemon.model_status().requests_running == 1)
        streams.append(stub.Generate(LONG, timeout=30))
        wait_until("one waits", lambda: daemon.model_status().requests_waiting == 1)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(LONG, timeout=10))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(caught.value)["RetryInfo"].retry_delay.ToNanoseconds() > 0
        assert daemon.model_status().requests_refused_total == 1
    finally:
        os.kill(worker, signal.SIGCONT)
    for stream in streams:
        assert list(stream)[-1].usage.output_tokens == 500
    daemon.wait_idle()


def test_hung_worker_is_replaced(fresh):
    """A step that does not come back: the stream ends with an error or goes on, and the model
    serves again; cancelling in the meantime works too."""
    daemon = fresh(step_limit_ms=1000)
    stub = daemon.inference()
    worker = daemon.model_status().worker_pid
    os.kill(worker, signal.SIGSTOP)
    cancelled = stub.Generate(LONG, timeout=30)
    stream = stub.Generate(LONG, timeout=30)
    wait_until("both run", lambda: daemon.model_status().requests_running == 2)
    cancelled.cancel()
    try:
        assert list(stream)[-1].usage.output_tokens == 500
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert details(error)
    wait_until("a new worker", lambda: daemon.model_status().worker_pid not in (0, worker), 20)
    wait_until("it serves", lambda: daemon.model_status().worker_state ==
               admin_pb2.WORKER_STATE_SERVING, 20)
    assert list(stub.Generate(LONG, timeout=10))[-1].usage.output_tokens == 500
    daemon.wait_idle()
