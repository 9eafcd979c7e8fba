"""Admin/Trace and `galernectl trace`: the walk of a request with times, without its content."""
import json
import re
import time

import grpc
import pytest
from galerne.admin.v1 import admin_pb2
from galerne.v1 import inference_pb2 as pb

from daemon import NARROW, bad_field, wait_until
from test_galernectl import run

Stage = admin_pb2.TraceStage
WALK = ["ACCEPTED", "DECODED", "TEXT", "TOKENIZED", "INLET", "SUBMITTED", "FIRST_STEP",
        "FIRST_TOKEN", "FIRST_SENT", "TOKENS", "ENDED", "FINISHED", "LAST_SENT"]


def trace(daemon, **fields) -> list:
    return daemon.admin().Trace(admin_pb2.TraceRequest(**fields), timeout=5).requests


def stages(request) -> list:
    return [Stage.Name(e.stage).removeprefix("TRACE_STAGE_") for e in request.events]


def generate(daemon, **fields) -> str:
    """The id of a request that has run, the last byte included."""
    answers = list(daemon.inference().Generate(
        pb.GenerateRequest(**{"model": "tiny", "text": "hello", "max_tokens": 9, **fields}),
        timeout=10))
    name = answers[0].request_id
    wait_until("the last byte", lambda: "LAST_SENT" in stages(trace(daemon, request_id=name)[0]))
    return name


def test_every_stage_in_order(daemon):
    (walk,) = trace(daemon, request_id=generate(daemon))
    assert walk.model == "models/tiny" and walk.age_ms < 10000
    seen = stages(walk)
    assert set(seen) - {"FIRST_SENT"} == set(WALK) - {"FIRST_SENT"}
    times = {}
    for event, stage in zip(walk.events, seen):
        times.setdefault(stage, event.at_ns)
    assert [e.at_ns for e in walk.events] == sorted(e.at_ns for e in walk.events)
    assert walk.events[0].at_ns == 0 and walk.events[-1].at_ns < 10e9
    order = ["ACCEPTED", "DECODED", "TEXT", "TOKENIZED", "INLET", "SUBMITTED", "FIRST_STEP",
             "FIRST_TOKEN", "ENDED", "FINISHED", "LAST_SENT"]
    assert [times[s] for s in order] == sorted(times[s] for s in order)
    values = {stage: [e.value for e, s in zip(walk.events, seen) if s == stage] for stage in seen}
    assert values["TOKENIZED"] == [4] and values["ENDED"] == [9] and values["FINISHED"] == [0]
    assert values["TOKENS"] == [2, 4, 8] and values["FIRST_TOKEN"] == [1]


def test_the_callers_own_id_and_both_models(daemon):
    name = generate(daemon, request_id="my-own-id", model="mix")
    assert name == "my-own-id"
    (walk,) = trace(daemon, request_id="my-own-id")
    assert walk.model == "models/mix"
    generate(daemon, request_id="my-own-id")
    newest, oldest = trace(daemon, request_id="my-own-id")
    assert (newest.model, oldest.model) == ("models/tiny", "models/mix")


def test_most_recent_first(daemon):
    names = [generate(daemon) for _ in range(12)]
    assert [w.request_id for w in trace(daemon)] == names[:1:-1]
    assert [w.request_id for w in trace(daemon, limit=3)] == names[:8:-1]


def test_waiting_shows(daemon):
    """A client that reads slowly: its time lies between the first message and the last byte."""
    stream = daemon.inference(options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20), timeout=30)
    name = next(stream).request_id
    time.sleep(0.3)
    assert "ENDED" not in stages(trace(daemon, request_id=name)[0])  # one that still runs
    list(stream)
    wait_until("the end", lambda: "LAST_SENT" in stages(trace(daemon, request_id=name)[0]))
    (walk,) = trace(daemon, request_id=name)
    times = dict(zip(stages(walk), [e.at_ns for e in walk.events]))
    assert times["LAST_SENT"] - times["FIRST_SENT"] > 0.25e9


def test_cancelled(daemon):
    stream = daemon.inference(options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20), timeout=30)
    name = next(stream).request_id
    stream.cancel()
    wait_until("it ends", lambda: "ENDED" in stages(trace(daemon, request_id=name)[0]))
    daemon.wait_idle()
    assert "LAST_SENT" not in stages(trace(daemon, request_id=name)[0])


def test_bad_questions(daemon):
    with pytest.raises(grpc.RpcError) as caught:
        trace(daemon, request_id="no-such-request")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    for field, value in ("limit", 21), ("request_id", "x" * 129):
        with pytest.raises(grpc.RpcError) as caught:
            trace(daemon, **{field: value})
        assert bad_field(caught.value) == field


def test_memory_is_bounded_and_the_oldest_goes(fresh):
    daemon = fresh(trace_events_count=64, listener_threads_count=1)
    first = generate(daemon)
    for _ in range(40):
        generate(daemon)
    with pytest.raises(grpc.RpcError) as caught:
        trace(daemon, request_id=first)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    walks = trace(daemon, limit=20)
    assert len(walks) == 8 and stages(walks[0])[0] == "ACCEPTED"


def test_nothing_is_traced(fresh):
    daemon = fresh(trace_events_count=0)
    list(daemon.inference().Generate(pb.GenerateRequest(model="tiny", text="x", max_tokens=3),
                                     timeout=10))
    with pytest.raises(grpc.RpcError) as caught:
        trace(daemon)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "trace_events_count" in caught.value.details()


def test_galernectl_trace(daemon):
    generate(daemon)
    name = generate(daemon)
    done = run(daemon, "trace", name)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"request {name}  model tiny") and lines[0].endswith("ago")
    assert lines[1].split() == ["STAGE", "AT", "AFTER", "NOTE"]
    table = "\n".join(lines[2:])
    for words in ("accepted", "4 prompt tokens", "step ", "8 tokens", "status", "OK",
                  "last byte sent"):
        assert words in table
    times = [float(t) for t in re.findall(r" (\d+\.\d{3}) ms", table)]
    assert times == sorted(times) and len(times) == len(lines) - 2
    assert "hello" not in done.stdout
    assert run(daemon, "trace", "-n", 2).stdout.count("request ") == 2
    parsed = json.loads(run(daemon, "trace", name, "--json").stdout)
    assert parsed["requests"][0]["request_id"] == name
    assert run(daemon, "trace", "no-such-request").returncode == 5
    assert run(daemon, "trace", "a", "b").returncode == 64
    assert run(daemon, "trace", "-n", 21).returncode == 64
