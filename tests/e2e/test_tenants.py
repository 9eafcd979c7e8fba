"""Tenants from the configuration: who is whose, what status and trace say, what a reload does."""
import os
import subprocess

import grpc
import pytest
from galerne.admin.v1 import admin_pb2
from galerne.v1 import inference_pb2 as pb

from daemon import NARROW, TINY, Daemon, build_dir, wait_until
from test_galernectl import run as galernectl
from test_quota import ask, still_worker, wait_for
from test_tls import Tls

ME = f"uid:{os.getuid()}"
TEN = pb.GenerateRequest(model="tiny", text="hello", max_tokens=10)
UNREAD = pb.GenerateRequest(model="tiny", text="hello", max_tokens=500, logprobs=20)
LONG = "The quick brown fox jumps over the lazy dog and runs away from it as fast as it can. " * 2


@pytest.fixture
def tls(fresh, authority, tmp_path):
    return lambda **settings: Tls(fresh, authority, tmp_path, **settings)


def generate(stub, request=TEN) -> pb.Usage:
    return list(stub.Generate(request, timeout=30))[-1].usage


def refusal(stub, request=TEN) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        generate(stub, request)
    return caught.value


def tenants_of(daemon, model="tiny") -> dict:
    return {t.name: t for t in daemon.model_status(model).tenants}


def test_everybody_is_one_tenant_without_a_list(daemon):
    assert generate(daemon.inference()).output_tokens == 10
    assert not daemon.model_status().tenants
    trace = daemon.admin().Trace(admin_pb2.TraceRequest(limit=1))
    assert trace.requests[0].tenant == "local"


def test_a_user_is_a_tenant(fresh):
    daemon = fresh(tenants=f"""
  - {{name: bank, weight: 3, reserved_percent: 10}}
  - {{name: chat, parent: bank, clients: ["{ME}"]}}
  - {{name: night, parent: bank, class: batch, limit_percent: 50}}
  - {{name: shop, clients: ["user:daemon"]}}
""")
    assert generate(daemon.inference()).output_tokens == 10
    rows = tenants_of(daemon)
    assert list(rows) == ["bank", "chat", "night", "shop"]
    assert (rows["chat"].parent, rows["bank"].parent) == ("bank", "")
    assert (rows["bank"].share_permille, rows["shop"].share_permille) == (750, 250)
    assert (rows["chat"].share_permille, rows["night"].share_permille) == (500, 500)
    blocks = daemon.model_status().kv_blocks_count
    assert rows["bank"].kv_blocks_reserved == blocks * 10 // 100
    assert (rows["night"].kv_blocks_limit, rows["shop"].kv_blocks_limit) == (blocks // 2, 0)
    for name in ("bank", "chat"):  # a row and all below it
        assert (rows[name].admitted_total, rows[name].output_tokens_total) == (1, 10), name
    assert rows["shop"].admitted_total == 0
    assert tenants_of(daemon, "mix")["chat"].admitted_total == 0

    trace = daemon.admin().Trace(admin_pb2.TraceRequest(limit=1))
    assert trace.requests[0].tenant == "chat"
    shown = galernectl(daemon, "trace").stdout
    assert "tenant chat" in shown
    lines = galernectl(daemon, "status").stdout.splitlines()
    header = next(line for line in lines if "TENANT" in line)
    assert header.split()[:4] == ["MODEL", "TENANT", "PART", "OF"]
    assert any(line.split()[:5] == ["tiny", "chat", "bank", "50.0", "%"] for line in lines)


def test_running_and_waiting_show(fresh):
    daemon = fresh(tenants=f"  - {{name: chat, clients: [\"{ME}\"]}}\n",
                   model_settings={"running_max": 1})
    calls = [daemon.inference(options=NARROW).Generate(UNREAD, timeout=60) for _ in range(3)]
    row = wait_until("one runs, two wait", lambda: [
        r for r in [tenants_of(daemon)["chat"]]
        if (r.requests_running, r.requests_waiting) == (1, 2)])[0]
    assert row.kv_blocks_used > 0
    for call in calls:
        call.cancel()
    wait_until("none is left", lambda: [
        r for r in [tenants_of(daemon)["chat"]]
        if (r.requests_running, r.requests_waiting, r.kv_blocks_used) == (0, 0, 0)])


def test_the_urgent_ones_of_a_tenant_go_first(fresh):
    """By class, then by deadline; not in the order in which they came."""
    daemon = fresh(tenants=f"  - {{name: chat, clients: [\"{ME}\"]}}\n",
                   model_settings={"running_max": 1})
    came = [("first", pb.PRIORITY_UNSPECIFIED, 90), ("later", pb.PRIORITY_BATCH, 90),
            ("usual", pb.PRIORITY_UNSPECIFIED, 90), ("soon", pb.PRIORITY_INTERACTIVE, 25)]
    stub = daemon.inference()
    with still_worker(daemon):
        calls = []
        for waiting, (name, priority, seconds) in enumerate(came):
            request = ask(5, 5, priority=priority, request_id=name)
            calls.append(stub.Generate(request, timeout=seconds))
            wait_for(daemon, 1, waiting)
    for call in calls:
        list(call)

    def first_step(name: str) -> int:
        (request,) = daemon.admin().Trace(admin_pb2.TraceRequest(request_id=name)).requests
        return next(e.value for e in request.events
                    if e.stage == admin_pb2.TRACE_STAGE_FIRST_STEP)

    assert sorted((name for name, _, _ in came), key=first_step) == [
        "first", "soon", "usual", "later"]


def test_strangers_are_refused_or_guests(fresh):
    daemon = fresh(tenants="  - {name: shop, clients: [alice]}\n")
    stub = daemon.inference()
    error = refusal(stub)
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert f'no tenant lists the client "{ME}"' in error.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Tokenize(pb.TokenizeRequest(model="tiny", text="x"))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert daemon.status().calls_open == 1  # the status call itself

    daemon.reload("  - {name: shop, clients: [alice]}\n  - name: guests\n",
                  default_tenant="guests")
    wait_until("it is read", lambda: "2 tenants are in force" in daemon.log_tail())
    assert generate(stub).output_tokens == 10
    assert tenants_of(daemon)["guests"].admitted_total == 1


def test_a_reload_changes_all_or_nothing(fresh):
    daemon = fresh(tenants=f"  - {{name: chat, clients: [\"{ME}\"], weight: 2}}\n  - name: shop\n")
    stub = daemon.inference()
    running = daemon.inference(options=NARROW).Generate(UNREAD, timeout=60)
    next(running)
    bad = [("  - {name: chat, weight: 0}\n", "weight: expected a whole number"),
           ("  - {name: chat, parent: nobody}\n", "no tenant is called nobody"),
           ("  - name: chat\n  - {name: below, parent: chat}\n", "takes requests of its own"),
           ("  - {name: chat, limit_percent: 1}\n", "the largest legal request needs")]
    for tenants, text in bad:
        before = daemon.log_tail().count("is not taken, what was in force goes on")
        daemon.reload(tenants)
        wait_until("it is refused", lambda: daemon.log_tail().count(
            "is not taken, what was in force goes on") == before + 1)
        assert text in daemon.log_tail(), tenants
        refusals = [line for line in daemon.log_tail().splitlines() if "is not taken" in line]
        assert str(daemon.config) in refusals[-1]
        assert tenants_of(daemon)["chat"].weight == 2
        assert generate(stub).output_tokens == 10

    daemon.reload(f"  - {{name: shop, clients: [\"{ME}\"]}}\n")
    wait_until("it is read", lambda: "1 tenants are in force" in daemon.log_tail())
    assert generate(stub).output_tokens == 10
    rows = wait_until("the engine has them", lambda: [
        r for r in [tenants_of(daemon)] if r["shop"].admitted_total == 1])[0]
    assert rows["chat"].closed and rows["chat"].requests_running == 1  # what runs goes on
    next(running)
    running.cancel()


def test_a_closed_tenant_takes_nothing_new(fresh):
    daemon = fresh(tenants=f"  - {{name: chat, clients: [\"{ME}\"], closed: true}}\n  - name: b\n")
    error = refusal(daemon.inference())
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "closed" in error.details()


def test_a_limit_below_the_largest_request_is_refused_at_start(fresh):
    daemon = fresh(tenants="  - name: a\n  - {name: chat, limit_percent: 1}\n", wait=False,
                   model_settings={"kv_blocks_count": 64})
    assert daemon.process.wait(20) == 1
    line = daemon.log_tail().splitlines()[-1]
    assert "tiny" in line and "row 1 (chat, line " in line and "could never run" in line


def test_certificates_are_tenants(tls):
    one = tls(tenants="  - {name: a, clients: [alice]}\n  - {name: b, clients: [bob]}\n")
    for name in ("alice", "bob"):
        assert generate(one.stub(name)).output_tokens == 10
    rows = tenants_of(one.daemon)
    assert (rows["a"].admitted_total, rows["b"].admitted_total) == (1, 1)
    error = refusal(one.daemon.inference())
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED


def test_caches_are_apart_unless_said(tls):
    """The same long prompt: found again by the same tenant, not by another."""
    one = tls(tenants="  - {name: a, clients: [alice]}\n  - {name: b, clients: [bob]}\n")
    long = pb.GenerateRequest(model="tiny", text=LONG, max_tokens=1)
    alice, bob = one.stub("alice"), one.stub("bob")
    assert generate(alice, long).cached_tokens == 0
    assert generate(bob, long).cached_tokens == 0
    assert generate(alice, long).cached_tokens > 16
    one.daemon.reload("  - name: top\n"
                      "  - {name: c, parent: top, clients: [alice], cache: shared}\n"
                      "  - {name: d, parent: top, clients: [bob], cache: shared}\n")
    wait_until("it is read", lambda: "3 tenants are in force" in one.daemon.log_tail())
    assert generate(alice, long).cached_tokens == 0
    assert generate(bob, long).cached_tokens > 16
    one.daemon.reload("  - {name: e, clients: [alice], cache: public}\n"
                      "  - {name: f, clients: [bob], cache: publish}\n")
    wait_until("it is read", lambda: "2 tenants are in force" in one.daemon.log_tail()[-300:])
    assert [generate(alice, long).cached_tokens for _ in range(2)] == [0, 0]  # adds nothing
    assert generate(bob, long).cached_tokens == 0
    assert generate(alice, long).cached_tokens > 16


def test_check_config_counts(tmp_path):
    daemon = Daemon(models={"tiny": TINY["tiny"]}, start=False, directory=tmp_path,
                    tenants="  - name: a\n")
    done = subprocess.run([build_dir() / "daemon/galerned", "--check-config", "--config",
                           daemon.config], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and done.stdout.endswith("good, 1 model, 1 tenant\n")


@pytest.mark.parametrize("clients, words", [
    ('["uid:4294967296"]', 'expected a user\'s number after uid:, got "uid:4294967296"'),
    ('["uid:-1"]', 'expected a user\'s number after uid:, got "uid:-1"'),
    ('["user:no-such-user"]', "there is no user no-such-user"),
    ('["user:root", "uid:0"]', '"uid:0" is listed twice, under two spellings'),
])
def test_check_config_finds_clients_that_are_none(tmp_path, clients, words):
    daemon = Daemon(models={"tiny": TINY["tiny"]}, start=False, directory=tmp_path,
                    tenants=f"  - name: a\n    clients: {clients}\n")
    done = subprocess.run([build_dir() / "daemon/galerned", "--check-config", "--config",
                           daemon.config], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"galerned: {daemon.config}: ") and words in done.stderr
