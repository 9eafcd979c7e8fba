"""Quotas of tenants: each limit hit, what its refusal says, and that it keeps its word."""
import calendar
import contextlib
import datetime
import os
import re
import signal
import subprocess
import time

import grpc
import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import NARROW, TINY, Daemon, bad_field, build_dir, details, wait_until
from test_galernectl import run as galernectl
from test_tls import Tls

ME = f"uid:{os.getuid()}"


def tenant(quota: str) -> str:
    return f"  - {{name: chat, clients: [\"{ME}\"], {quota}}}\n"


def ask(prompt: int, output: int, model: str = "tiny", **more) -> pb.GenerateRequest:
    """So many tokens in, and exactly so many out."""
    return pb.GenerateRequest(model=model, token_ids=pb.TokenIds(ids=[5] * prompt),
                              max_tokens=output, ignore_eos=True, **more)


def generate(stub, request: pb.GenerateRequest) -> pb.GenerateResponse:
    return list(stub.Generate(request, timeout=60))[-1]


def refusal(stub, request) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        generate(stub, request)
    return caught.value


def refused(stub, request, limit: str, subject: str = "organisation:chat") -> float:
    """RESOURCE_EXHAUSTED by this limit of that tenant; the seconds after which to come back."""
    error = refusal(stub, request)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    said = details(error)
    (violation,) = said["QuotaFailure"].violations
    assert violation.subject == subject
    assert violation.description == error.details()
    assert violation.description.startswith(f"{limit} of {subject.replace(':', ' ')} is ")
    assert said["ErrorInfo"].metadata["limit"] == limit
    assert said["ErrorInfo"].metadata["subject"] == subject
    delay = said["RetryInfo"].retry_delay
    return delay.seconds + delay.nanos / 1e9


def left(stub, request) -> int:
    """What a refusal says is left of the tokens."""
    words = refusal(stub, request).details().split(": ", 1)[1]
    return int(words.split(", ")[1].split()[0])


def test_requests_a_minute_on_two_models_together(fresh):
    daemon = fresh(tenants=tenant("requests_per_minute: 30, requests_burst: 2"))
    stub = daemon.inference()
    generate(stub, ask(3, 2))
    generate(stub, ask(3, 2, "mix"))
    for model in ("tiny", "mix"):
        delay = refused(stub, ask(3, 2, model), "requests_per_minute")
        assert 0 < delay <= 2
    time.sleep(delay)
    generate(stub, ask(3, 2, "mix"))  # as was said
    refused(stub, ask(3, 2), "requests_per_minute")


def test_hard_tokens_on_two_models_together(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_minute: 1200, tokens_burst: 100"))
    stub = daemon.inference()
    usage = generate(stub, ask(20, 30)).usage
    assert (usage.prompt_tokens, usage.output_tokens) == (20, 30)
    generate(stub, ask(20, 30, "mix"))
    delay = refused(stub, ask(20, 60), "tokens_per_minute")  # about 80 of a second's 20
    assert 3 < delay <= 4
    time.sleep(delay)
    generate(stub, ask(20, 60))


def test_above_the_burst_is_for_ever(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_minute: 100, queued_tokens_max: 40"))
    daemon.log_has("tenant chat (line ")
    daemon.log_has("never admits a request of more than 100 tokens; those of model tiny may "
                   "have 512")
    stub = daemon.inference()
    for request, field, text in [
            (ask(20, 81), "max_tokens", "the prompt of 20 tokens and 1 x 81 of output are more "
             "than the 100 that tokens_per_minute of organisation chat can ever admit at once"),
            (ask(20, 30, n=3), "max_tokens", "3 x 30"),
            (ask(41, 1), "prompt", "queued_tokens_max of organisation chat admits no request of "
             "more than 40, ever")]:
        error = refusal(stub, request)
        assert bad_field(error) == field
        assert text in error.details()
        said = details(error)
        assert "RetryInfo" not in said
        assert said["QuotaFailure"].violations[0].subject == "organisation:chat"
    # Who names no max_tokens gets what the burst allows, and is told why it ended.
    open_ended = ask(20, 1)
    open_ended.ClearField("max_tokens")
    last = generate(stub, open_ended)
    assert last.choices[0].finish_reason == pb.FINISH_REASON_QUOTA
    assert last.usage.output_tokens == 80


def test_soft_tokens_become_debt(fresh):
    daemon = fresh(tenants=tenant("tokens_per_minute: 600, tokens_burst: 100, "
                                  "overdraft_tokens: 100"))
    stub = daemon.inference()
    generate(stub, ask(4, 160))  # 4 and a quarter are estimated, all of it is used
    delay = refused(stub, ask(4, 10), "tokens_per_minute")
    assert 6 < delay <= 8  # a debt of 64 at 10 a second, and room for the estimate
    time.sleep(delay)
    generate(stub, ask(4, 10))
    assert bad_field(refusal(stub, ask(4, 300))) == "max_tokens"  # over burst and overdraft


def test_requests_at_once(fresh):
    daemon = fresh(tenants=tenant("concurrent_max: 2"))
    stub = daemon.inference(options=NARROW)
    calls = [stub.Generate(ask(3, 500, model, logprobs=20), timeout=60)
             for model in ("tiny", "mix")]
    for call in calls:
        next(call)
    assert refused(daemon.inference(), ask(3, 2), "concurrent_max") > 0
    calls[0].cancel()
    wait_until("one has ended", lambda: daemon.model_status().requests_running == 0)
    generate(daemon.inference(), ask(3, 2, "mix"))
    calls[1].cancel()


@contextlib.contextmanager
def still_worker(daemon):
    """Whoever is given to the worker meanwhile has begun, and stays where it is."""
    pid = daemon.model_status().worker_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_for(daemon, running: int, waiting: int) -> None:
    wait_until(f"{running} run, {waiting} wait", lambda: [
        m for m in [daemon.model_status()]
        if (m.requests_running, m.requests_waiting) == (running, waiting)])


def test_prompts_that_wait(fresh):
    daemon = fresh(tenants=tenant("queued_tokens_max: 50"), model_settings={"running_max": 1})
    stub = daemon.inference()
    with still_worker(daemon):
        calls = [stub.Generate(ask(30, 20), timeout=60)]
        wait_for(daemon, 1, 0)  # its prompt does not wait any more
        calls.append(stub.Generate(ask(30, 10), timeout=60))
        wait_for(daemon, 1, 1)
        assert refused(stub, ask(30, 10), "queued_tokens_max") > 0
        calls.append(stub.Generate(ask(20, 10), timeout=60))
    assert [list(call)[-1].usage.output_tokens for call in calls] == [20, 10, 10]
    generate(stub, ask(50, 10))


def test_a_month_ends_in_the_middle_of_an_answer(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_month: 200"))
    stub = daemon.inference()
    last = generate(stub, ask(20, 100))
    assert last.choices[0].finish_reason == pb.FINISH_REASON_LENGTH
    last = generate(stub, ask(20, 100, "mix"))
    assert last.choices[0].finish_reason == pb.FINISH_REASON_QUOTA
    assert last.usage.output_tokens == 60
    delay = refused(stub, ask(1, 1), "tokens_per_month")
    now = datetime.datetime.now(datetime.timezone.utc)
    days = calendar.monthrange(now.year, now.month)[1]
    month_start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    seconds = (month_start + datetime.timedelta(days=days) - now).total_seconds()
    assert abs(delay - seconds) < 30
    daemon.log_has("finish quota")


def test_galernectl_says_so(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_month: 100"))
    asked = ["generate", "--model", "tiny", "--max-tokens", "300", "--ignore-eos", "hello"]
    done = galernectl(daemon, *asked)
    assert done.returncode == 0
    assert done.stderr == "galernectl: the quota allows no more output: the answer is not whole\n"
    done = galernectl(daemon, *asked)
    assert done.returncode != 0
    assert "tokens_per_month of organisation chat is 100" in done.stderr
    assert re.search(r"try again in \d+ (d \d+ h|h \d+ min|min \d+ s)\n", done.stderr)


def test_choices_share_a_prompt_and_a_promise(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_minute: 2, tokens_burst: 100"))
    stub = daemon.inference()
    usage = generate(stub, ask(10, 20, n=3)).usage
    assert (usage.prompt_tokens, usage.output_tokens) == (10, 60)
    assert left(stub, ask(40, 10)) == 30
    generate(stub, ask(10, 20))
    assert left(stub, ask(1, 1)) == 0


def test_what_is_not_used_comes_back(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_minute: 2, tokens_burst: 500"),
                   model_settings={"running_max": 1, "waiting_max": 1})
    stub = daemon.inference()
    with still_worker(daemon):
        running = stub.Generate(ask(10, 290), timeout=60)
        wait_for(daemon, 1, 0)
        waiting = stub.Generate(ask(10, 90), timeout=60)
        wait_for(daemon, 1, 1)
        # Held: 300 and 100. The queue is full: refused, not for the quota, and nothing is kept.
        error = refusal(stub, ask(10, 60))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "QuotaFailure" not in details(error)
        assert left(stub, ask(10, 290)) == 100
        waiting.cancel()  # never ran: costs nothing
        wait_for(daemon, 1, 0)
        assert left(stub, ask(10, 400)) == 200
        running.cancel()  # had begun: costs its prompt
        wait_for(daemon, 0, 0)
        generated = daemon.model_status().output_tokens_total
        assert left(stub, ask(200, 300)) == 490 - generated
    daemon.wait_idle()
    assert generate(stub, ask(200, 290 - generated)).usage.output_tokens == 290 - generated


def test_a_stop_string_ends_what_is_charged(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_minute: 2, tokens_burst: 300"))
    stub = daemon.inference()
    text = "".join(c.text for r in stub.Generate(ask(5, 40)) for c in r.choices)
    stop = text[len(text) // 2:len(text) // 2 + 4]
    usage = generate(stub, ask(5, 200, stop=[stop])).usage
    assert usage.output_tokens < 40
    assert left(stub, ask(5, 290)) == 300 - 45 - 5 - usage.output_tokens


def test_a_lost_worker_charges_once(fresh):
    daemon = fresh(tenants=tenant("quota: hard, tokens_per_minute: 2, tokens_burst: 900"))
    stub = daemon.inference(options=NARROW)
    call = stub.Generate(ask(10, 400, logprobs=20), timeout=60)
    next(call)
    os.kill(daemon.model_status().worker_pid, signal.SIGKILL)
    assert list(call)[-1].usage.output_tokens == 400
    assert daemon.model_status().restarts_total == 1
    assert left(stub, ask(10, 500)) == 490


@pytest.fixture
def tls(fresh, authority, tmp_path):
    return lambda **settings: Tls(fresh, authority, tmp_path, **settings)


def test_every_level_counts_and_neighbours_do_not(tls):
    one = tls(tenants="""
  - {name: bank, quota: hard, tokens_per_minute: 60, tokens_burst: 100}
  - {name: teller, parent: bank, clients: [alice], requests_per_minute: 1, requests_burst: 2}
  - {name: vault, parent: bank, clients: [bob]}
  - {name: shop, clients: ["%s"]}
""" % ME)
    alice, bob, shop = one.stub("alice"), one.stub("bob"), one.daemon.inference()
    generate(alice, ask(10, 30))
    generate(alice, ask(10, 10))
    refused(alice, ask(10, 10), "requests_per_minute", "project:teller")
    refused(bob, ask(10, 60), "tokens_per_minute", "organisation:bank")
    generate(bob, ask(10, 20))
    for _ in range(5):
        assert generate(shop, ask(10, 100)).usage.output_tokens == 100
    # None of what was refused has cost anything.
    assert left(bob, ask(10, 80)) in (10, 11, 12, 13, 14, 15)


def test_status_shows_what_is_left(fresh):
    daemon = fresh(tenants="""
  - {name: bank, tokens_per_month: 1000}
  - {name: chat, parent: bank, clients: ["%s"], quota: hard, requests_per_minute: 1,
     requests_burst: 3, tokens_per_minute: 2, tokens_burst: 300}
  - {name: shop}
""" % ME)
    stub = daemon.inference()
    generate(stub, ask(10, 40))
    with still_worker(daemon):
        call = stub.Generate(ask(10, 90), timeout=60)
        wait_for(daemon, 1, 0)
        refused(stub, ask(10, 200), "tokens_per_minute", "project:chat")
        bank, chat = daemon.status().quotas  # the shop has no limit
    list(call)
    assert (bank.tenant, bank.hard, chat.tenant, chat.hard) == ("bank", False, "chat", True)
    assert not bank.HasField("tokens_left") and not chat.HasField("month_tokens_left")
    assert (chat.requests_left, chat.tokens_left) == (1, 150)
    assert (chat.requests_held, chat.tokens_held, chat.queued_tokens) == (1, 100, 0)
    assert (bank.month_tokens_used, chat.refused_total, bank.refused_total) == (50, 1, 0)
    daemon.wait_idle()
    bank, chat = daemon.status().quotas
    assert (chat.tokens_left, chat.requests_held, chat.tokens_held) == (150, 0, 0)
    assert (bank.month_tokens_left, bank.month_tokens_used) == (850, 150)
    lines = galernectl(daemon, "status").stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "MONTH LEFT" in line)
    assert lines[at + 1].split()[:6] == ["bank", "soft", "any", "any", "850", "150"]
    assert lines[at + 2].split() == ["chat", "hard", "1", "150", "any", "150", "0", "0", "0", "1"]


def test_a_reload_changes_limits_all_or_nothing(fresh):
    daemon = fresh(tenants=tenant("requests_per_minute: 1"))
    stub = daemon.inference()
    generate(stub, ask(3, 2))
    refused(stub, ask(3, 2), "requests_per_minute")
    bad = [("tokens_burst: 5", "tokens_burst: needs tokens_per_minute"),
           ("tokens_per_minute: 100, tokens_burst: 1", "can never admit a request"),
           ("quota: hard", "hard needs tokens_per_minute or tokens_per_month"),
           ("requests_per_minute: -1", "expected a whole number from 0 to 1000000000000"),
           ("tokens_per_month: 1000000000001", "expected a whole number from 0 to"),
           ("quota: hard, tokens_per_month: 9, overdraft_tokens: 1", "a hard quota has none"),
           ("quota: firm", "quota: expected")]
    for i, (quota, text) in enumerate(bad):
        daemon.reload(tenant(quota))
        wait_until("it is refused", lambda: daemon.log_tail().count(
            "is not taken, what was in force goes on") == i + 1)
        lines = [line for line in daemon.log_tail().splitlines() if "is not taken" in line]
        assert text in lines[-1], lines[-1]
        assert str(daemon.config) in lines[-1]
        refused(stub, ask(3, 2), "requests_per_minute")
    daemon.reload(tenant("requests_per_minute: 1000"))
    wait_until("it is read", lambda: "1 tenants are in force" in daemon.log_tail())
    generate(stub, ask(3, 2))


def test_bad_limits_are_refused_at_start_with_their_line(tmp_path):
    daemon = Daemon(models={"tiny": TINY["tiny"]}, start=False, directory=tmp_path,
                    tenants="  - name: a\n  - {name: b, quota: hard, concurrent_max: 3}\n")
    done = subprocess.run([build_dir() / "daemon/galerned", "--check-config", "--config",
                           daemon.config], capture_output=True, text=True, timeout=20)
    line = len(daemon.config.read_text().splitlines())
    assert done.returncode != 0
    assert f"(b, line {line}): quota: hard needs tokens_per_minute" in done.stdout + done.stderr
