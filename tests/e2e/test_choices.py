"""Several choices of one prompt in one call: what each one is, what they cost, how they end."""
import concurrent.futures
import json
import os
import signal
import time

import grpc
import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import NARROW, ROOT, bad_field, details, wait_until
from test_galernectl import good, run
from test_inference import generate, text_of, tokens_of

MASK = 2 ** 64 - 1
TEXT = "a prompt of some length, which fills more than one block of the cache of keys and values"


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def choice_seed(seed: int, choice: int) -> int:
    """As docs/api.md has it."""
    return seed if choice == 0 else mix(mix(seed + 0x9E3779B97F4A7C15 & MASK) + choice & MASK)


def by_choice(messages, n):
    return [[t for t in tokens_of(messages) if t.choice_index == i] for i in range(n)]


def ids_by_choice(messages, n):
    return [[t.id for t in tokens] for tokens in by_choice(messages, n)]


def parts_of(messages, choice):
    return [c for m in messages for c in m.choices if c.choice_index == choice]


def sampled(seed, temperature=1.5):
    return pb.Sampling(temperature=temperature, seed=seed)


def test_each_choice_is_what_it_is_alone(daemon):
    stub = daemon.inference()
    messages = generate(stub, model="tiny", text=TEXT, max_tokens=40, n=4, sampling=sampled(7),
                        logprobs=2)
    choices = by_choice(messages, 4)
    for i, tokens in enumerate(choices):
        alone = generate(stub, model="tiny", text=TEXT, max_tokens=40, logprobs=2,
                         sampling=sampled(choice_seed(7, i)))
        want = tokens_of(alone)
        assert [t.id for t in tokens] == [t.id for t in want]
        assert [t.logprob for t in tokens] == [t.logprob for t in want]
        assert [c.id for t in tokens for c in t.top_logprobs] == \
            [c.id for t in want for c in t.top_logprobs]
        text = "".join(c.text for c in parts_of(messages, i))
        assert text == text_of(alone)
    assert len({tuple(t.id for t in tokens) for tokens in choices}) == 4


def test_one_end_one_usage(daemon):
    messages = generate(daemon.inference(), model="tiny", text=TEXT, max_tokens=20, n=5,
                        sampling=sampled(3), request_id="five")
    assert [m.HasField("usage") for m in messages] == [False] * (len(messages) - 1) + [True]
    assert [bool(m.request_id) for m in messages] == [True] + [False] * (len(messages) - 1)
    for i in range(5):
        reasons = [c.finish_reason for c in parts_of(messages, i) if c.finish_reason]
        assert reasons == [pb.FINISH_REASON_LENGTH]
    usage = messages[-1].usage
    assert usage.output_tokens == 5 * 20 == len(tokens_of(messages))
    assert usage.prompt_tokens == daemon.inference().CountTokens(
        pb.CountTokensRequest(model="tiny", text=TEXT), timeout=5).tokens
    daemon.log_has("request five: model tiny, tenant local, uid")
    assert "choices 5, output 100, finish length" in daemon.log_tail()
    daemon.wait_idle()


def test_one_choice_is_as_ever(daemon):
    plain = generate(daemon.inference(), model="tiny", text="hello", max_tokens=9)
    one = generate(daemon.inference(), model="tiny", text="hello", max_tokens=9, n=1)
    assert [t.id for t in tokens_of(plain)] == [t.id for t in tokens_of(one)]
    assert all(t.choice_index == 0 for t in tokens_of(one))


def test_greedy_choices_are_equal(daemon):
    messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=30, n=16)
    choices = ids_by_choice(messages, 16)
    assert choices == [choices[0]] * 16
    assert choices[0] == [t.id for t in tokens_of(
        generate(daemon.inference(), model="tiny", text="hello", max_tokens=30))]
    assert messages[-1].usage.output_tokens == 16 * 30


def test_no_seed_is_a_drawn_seed_for_all(daemon):
    messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=24, n=6,
                        sampling=pb.Sampling(temperature=2))
    assert len({tuple(ids) for ids in ids_by_choice(messages, 6)}) > 1


@pytest.mark.parametrize("ids", [1, 5, 15, 16, 17, 40, 64, 90])
@pytest.mark.parametrize("n", [2, 9])
def test_the_prompt_is_computed_once(daemon, ids, n):
    prompt = [(7 * i + ids + n) % 300 + 5 for i in range(ids)]  # nobody asked for this before
    before = daemon.model_status()
    messages = generate(daemon.inference(), model="tiny", token_ids=pb.TokenIds(ids=prompt),
                        max_tokens=3, n=n, sampling=sampled(1), ignore_eos=True)
    wait_until("the engine has published it", lambda: daemon.model_status().requests_running == 0
               and daemon.model_status().output_tokens_total == before.output_tokens_total + 3 * n)
    after = daemon.model_status()
    assert after.prompt_tokens_total - before.prompt_tokens_total == ids
    cached = messages[-1].usage.cached_tokens
    assert after.prompt_tokens_computed_total - before.prompt_tokens_computed_total == \
        ids - cached + n - 1
    assert cached == 0


def test_stop_string_ends_its_choice_alone(daemon):
    stub = daemon.inference()
    free = generate(stub, model="tiny", text=TEXT, max_tokens=60, n=4, sampling=sampled(5))
    texts = ["".join(c.text for c in parts_of(free, i)) for i in range(4)]
    stop = next(texts[2][i:i + 3] for i in range(8, 40) if "\ufffd" not in texts[2][i:i + 3]
                and not any(texts[2][i:i + 3] in texts[k] for k in (0, 1, 3)))
    messages = generate(stub, model="tiny", text=TEXT, max_tokens=60, n=4, sampling=sampled(5),
                        stop=[stop])
    for i in range(4):
        last = parts_of(messages, i)[-1]
        text = "".join(c.text for c in parts_of(messages, i))
        if i == 2:
            assert (last.finish_reason, last.stop) == (pb.FINISH_REASON_STOP, stop)
            assert text == texts[2][:texts[2].index(stop)]
        else:
            assert (last.finish_reason, last.stop) == (pb.FINISH_REASON_LENGTH, "")
            assert text == texts[i]
    count = len(tokens_of(messages))
    assert 3 * 60 < count < 4 * 60
    assert messages[-1].usage.output_tokens == count
    daemon.wait_idle()


def test_stop_token_ends_its_choice_alone(daemon):
    stub = daemon.inference()
    free = ids_by_choice(generate(stub, model="tiny", text=TEXT, max_tokens=40, n=3,
                                  sampling=sampled(9)), 3)
    stop = next(id for id in free[1][5:] if id not in free[0] + free[2])
    messages = generate(stub, model="tiny", text=TEXT, max_tokens=40, n=3, sampling=sampled(9),
                        stop_token_ids=[stop])
    got = ids_by_choice(messages, 3)
    assert got == [free[0], free[1][:free[1].index(stop) + 1], free[2]]
    assert [parts_of(messages, i)[-1].finish_reason for i in range(3)] == \
        [pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH]


@pytest.mark.parametrize("n, words", [(0, "is 0: expected 1 to 16"), (17, "is 17: expected"),
                                      (2 ** 32 - 1, "expected 1 to 16")])
def test_wrong_n(daemon, n, words):
    with pytest.raises(grpc.RpcError) as caught:
        generate(daemon.inference(), model="tiny", text="x", n=n)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_field(caught.value) == "n" and words in caught.value.details()


def test_refused_by_the_text_room_gives_all_places_back(daemon):
    stub = daemon.inference()
    for _ in range(100):  # 1,600 places; there are 1,024
        with pytest.raises(grpc.RpcError) as caught:
            generate(stub, model="tiny", text="x" * 4000, n=16)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(caught.value) == "prompt"
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_places(fresh):
    """Each choice is a request to the daemon's limits."""
    small = fresh(models={"tiny": ROOT / "tests/golden/tiny-llama"},
                  model_settings={"running_max": 2, "waiting_max": 5}, requests_max=8)
    stub = small.inference()
    with pytest.raises(grpc.RpcError) as caught:
        generate(stub, model="tiny", text="x", n=6)
    assert bad_field(caught.value) == "n" and "places for 5" in caught.value.details()
    before = small.model_status().requests_refused_total
    # Five choices with two slots: they take turns.
    messages = generate(stub, model="tiny", text=TEXT, max_tokens=30, n=5, ignore_eos=True,
                        sampling=sampled(4))
    assert messages[-1].usage.output_tokens == 150
    # More than there is room for: some calls are refused as a whole, with a time to come back.
    def one(seed):
        try:
            return len(tokens_of(generate(stub, model="tiny", text=TEXT, max_tokens=200, n=4,
                                          ignore_eos=True, sampling=sampled(seed))))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details(error)["RetryInfo"].retry_delay.nanos + \
                details(error)["RetryInfo"].retry_delay.seconds > 0
            return 0
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(one, range(6)))
    assert set(counts) == {0, 800}
    small.wait_idle()
    assert small.model_status().requests_refused_total >= before
    assert generate(stub, model="tiny", text="x", max_tokens=2, n=5)[-1].usage.output_tokens == 10


def test_cancel_ends_all(daemon):
    stub = daemon.inference()
    before = daemon.model_status().requests_cancelled_total
    stream = stub.Generate(pb.GenerateRequest(model="tiny", text=TEXT, max_tokens=400, n=8,
                                              sampling=sampled(2)), timeout=30)
    next(stream)
    assert daemon.model_status().requests_running >= 1
    stream.cancel()
    daemon.wait_idle()
    assert daemon.model_status().requests_cancelled_total == before + 1
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def start_stalled(daemon, **how):
    """Five choices of which only the first message is read: every one of them waits."""
    stream = daemon.inference(options=NARROW).Generate(
        pb.GenerateRequest(model="tiny", text=TEXT, max_tokens=400, n=5, logprobs=20,
                           ignore_eos=True, sampling=sampled(2)), **how)
    first = next(stream)
    wait_until("all of them run", lambda: daemon.model_status().requests_running == 5)
    time.sleep(0.3)  # they have run into the window by now
    steps = daemon.model_status().steps_total
    time.sleep(0.2)
    assert daemon.model_status().steps_total == steps  # paused, not polled
    assert daemon.model_status().requests_running == 5
    return stream, first


def test_a_slow_reader_gets_all_in_the_end(daemon):
    stream, first = start_stalled(daemon, timeout=60)
    messages = [first, *stream]
    brisk = generate(daemon.inference(), model="tiny", text=TEXT, max_tokens=400, n=5, logprobs=20,
                     ignore_eos=True, sampling=sampled(2))
    assert ids_by_choice(messages, 5) == ids_by_choice(brisk, 5)
    assert messages[-1].usage.output_tokens == 2000
    daemon.wait_idle()


def test_the_deadline_ends_all(daemon):
    stream, _ = start_stalled(daemon, timeout=1.5)
    time.sleep(1.5)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    daemon.wait_idle()
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_cancel_at_any_time(daemon):
    for i in range(60):
        stream = daemon.inference().Generate(
            pb.GenerateRequest(model="tiny", text=TEXT, max_tokens=100, n=1 + i % 16,
                               sampling=sampled(i)), timeout=30)
        time.sleep(0.0003 * (i % 20))
        stream.cancel()
    daemon.wait_idle()
    wait_until("no call is open", lambda: daemon.status().calls_open == 1)


def test_a_lost_worker_changes_nothing(fresh):
    daemon = fresh()
    stub = daemon.inference()
    fields = dict(model="tiny", text=TEXT, max_tokens=300, n=6, ignore_eos=True)
    calm = ids_by_choice(generate(stub, sampling=sampled(8), **fields), 6)
    stream = stub.Generate(pb.GenerateRequest(sampling=sampled(8), **fields), timeout=60)
    messages = [next(stream)]
    os.kill(daemon.model_status().worker_pid, signal.SIGKILL)
    messages += list(stream)
    assert daemon.model_status().restarts_total == 1
    assert ids_by_choice(messages, 6) == calm
    assert messages[-1].usage.output_tokens == 1800
    daemon.wait_idle()


def test_many_calls_with_choices_at_once(daemon):
    def one(i):
        return ids_by_choice(generate(daemon.inference(), model="tiny", text=f"{TEXT} {i}", n=6,
                                      max_tokens=24, sampling=sampled(i)), 6)
    alone = [one(i) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == alone
    daemon.wait_idle()


# ---- galernectl ----

def test_galernectl_names_the_choices(daemon):
    words = ["generate", "-m", "tiny", "-n", "12", "-t", "1.5", "--seed", "7", "--choices", "3",
             TEXT]
    messages = generate(daemon.inference(), model="tiny", text=TEXT, max_tokens=12, n=3,
                        sampling=sampled(7))
    printed = good(run(daemon, *words))
    texts = ["".join(c.text for c in parts_of(messages, i)) for i in range(3)]
    heads = [printed.index(f"choice {i}, length:\n") for i in range(3)]
    assert heads == sorted(heads) and heads[0] == 0
    # What a terminal could take for a command is shown as a picture of it.
    for i, head in enumerate(heads):
        plain = "".join(c for c in texts[i] if c.isalnum())
        body = printed[head:].split(":\n", 1)[1].split("\nchoice ")[0]
        assert plain in "".join(c for c in body if c.isalnum())

    stream = [json.loads(line) for line in good(run(daemon, "--json", *words)).splitlines()]
    got = [[t["id"] for m in stream for t in m["tokens"] if t["choice_index"] == i]
           for i in range(3)]
    assert got == ids_by_choice(messages, 3)
    assert {c["choice_index"] for m in stream for c in m["choices"]} == {0, 1, 2}

    lines = good(run(daemon, *words, "--ids")).splitlines()
    assert len(lines) == 36
    assert sorted(int(line.split()[0]) for line in lines) == [0] * 12 + [1] * 12 + [2] * 12
    stats = run(daemon, *words, "--stats").stderr
    assert "output 36 tokens, finish length, length, length" in stats


def test_galernectl_refuses_wrong_choices(daemon):
    done = run(daemon, "generate", "--choices", "17", "x")
    assert done.returncode == 64
    assert "--choices: expected a whole number from 1 to 16" in done.stderr
