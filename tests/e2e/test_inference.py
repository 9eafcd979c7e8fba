"""Every method of galerne.v1.Inference, with good input."""
import concurrent.futures

import grpc
import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import ROOT, Daemon, details


def collect(stream):
    return list(stream)


def tokens_of(messages):
    return [token for message in messages for token in message.tokens]


def text_of(messages) -> str:
    return "".join(choice.text for message in messages for choice in message.choices)


def generate(stub, **fields):
    return collect(stub.Generate(pb.GenerateRequest(**fields), timeout=20))


def test_generate_streams_and_ends(daemon):
    messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=40)
    tokens = tokens_of(messages)
    assert len(tokens) == 40
    assert [m.HasField("usage") for m in messages] == [False] * (len(messages) - 1) + [True]
    last = messages[-1]
    assert last.choices[0].finish_reason == pb.FINISH_REASON_LENGTH
    assert (last.usage.prompt_tokens, last.usage.output_tokens) == (4, 40)
    assert messages[0].request_id and not any(m.request_id for m in messages[1:])
    assert all(c.finish_reason == 0 for m in messages[:-1] for c in m.choices)
    # text is what the bytes say, cut at no character
    assert text_of(messages) == b"".join(t.bytes for t in tokens).decode(errors="replace")
    assert not any(t.HasField("logprob") for t in tokens)


def test_generate_is_the_same_again_and_by_ids(daemon):
    stub = daemon.inference()
    first = generate(stub, model="tiny", text="hello", max_tokens=30)
    ids = stub.Tokenize(pb.TokenizeRequest(model="tiny", text="hello"), timeout=5).ids
    second = generate(stub, model="models/tiny", token_ids=pb.TokenIds(ids=ids), max_tokens=30)
    assert [t.id for t in tokens_of(first)] == [t.id for t in tokens_of(second)]


def test_request_id_is_returned(daemon):
    messages = generate(daemon.inference(), model="tiny", text="x", max_tokens=2,
                        request_id="my request/7")
    assert messages[0].request_id == "my request/7"
    daemon.log_has("request my request/7: model tiny")


@pytest.mark.parametrize("k", [0, 1, 20])
def test_logprobs(daemon, k):
    messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=12, logprobs=k)
    for token in tokens_of(messages):
        assert token.HasField("logprob") and token.logprob <= 0
        assert len(token.top_logprobs) == k
        best = [t.logprob for t in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        if k:  # greedy: the chosen one is the best
            assert token.top_logprobs[0].id == token.id
            assert token.top_logprobs[0].logprob == token.logprob
            assert token.top_logprobs[0].bytes == token.bytes


def test_sampling_seed(daemon):
    stub = daemon.inference()

    def ids(seed):
        sampling = pb.Sampling(temperature=1.5, top_k=50, top_p=0.95, seed=seed)
        return [t.id for t in tokens_of(generate(stub, model="tiny", text="hello", max_tokens=32,
                                                 sampling=sampling))]
    assert ids(7) == ids(7)
    assert ids(7) != ids(8)


def ids_of(daemon, n=32, text="hello", **fields):
    return [t.id for t in tokens_of(generate(daemon.inference(), model="tiny", text=text,
                                             max_tokens=n, **fields))]


def logits_of(daemon, ids):
    """The 20 best of the next token, as log-probabilities: what greedy sampling starts from."""
    messages = generate(daemon.inference(), model="tiny", token_ids=pb.TokenIds(ids=ids),
                        max_tokens=1, logprobs=20)
    return {t.id: t.logprob for t in tokens_of(messages)[0].top_logprobs}


def greedy_with(daemon, sampling, change, n=12):
    """Greedy, one token after the other, from log-probabilities that `change` adjusts: adding to
    all logits alike changes no choice, so this is right for what is added, not for what is
    multiplied."""
    prompt = list(daemon.inference().Tokenize(pb.TokenizeRequest(model="tiny", text="hello"),
                                              timeout=5).ids)
    out = []
    for _ in range(n):
        best = {id: change(id, value, out) for id, value in logits_of(daemon, prompt + out).items()}
        out.append(max(best, key=lambda id: (best[id], -id)))
    assert ids_of(daemon, n, sampling=sampling) == out
    return out


def test_presence_and_frequency_penalties(daemon):
    # A negative presence makes tokens come again, so that the frequency has something to count.
    runs = [greedy_with(daemon, pb.Sampling(presence_penalty=presence, frequency_penalty=frequency),
                        lambda id, value, out: value - presence * (id in out)
                        - frequency * out.count(id))
            for presence, frequency in ((1.75, 0), (0, 1.25), (-2, 0), (-2, 0.75), (-2, 1.5))]
    assert len({tuple(run) for run in runs}) >= 3


def test_repetition_penalty(daemon):
    free = ids_of(daemon, 40)
    rare = ids_of(daemon, 40, sampling=pb.Sampling(repetition_penalty=10))
    often = ids_of(daemon, 40, sampling=pb.Sampling(repetition_penalty=0.05))
    assert ids_of(daemon, 40, sampling=pb.Sampling(repetition_penalty=1)) == free
    assert len(set(rare)) > len(set(often))
    # The prompt counts as well: what it has is not said again, or is said at once.
    prompt = daemon.inference().Tokenize(pb.TokenizeRequest(model="tiny", text="hello"),
                                         timeout=5).ids
    assert rare[0] not in prompt
    assert often[0] in prompt


def test_logit_bias(daemon):
    free = ids_of(daemon)
    forced = (free[0] + 1) % 320
    bias = [pb.LogitBias(id=forced, value=100)]
    assert ids_of(daemon, sampling=pb.Sampling(logit_bias=bias)) == [forced] * 32
    # A forbidden token is replaced by the next best; what has no bias stays as it is.
    best = sorted(logits_of(daemon, daemon.inference().Tokenize(
        pb.TokenizeRequest(model="tiny", text="hello"), timeout=5).ids).items(),
        key=lambda item: -item[1])
    bias = [pb.LogitBias(id=best[0][0], value=-100), pb.LogitBias(id=best[1][0], value=0)]
    assert ids_of(daemon, 1, sampling=pb.Sampling(logit_bias=bias)) == [best[1][0]]
    all_300 = [pb.LogitBias(id=i, value=-100) for i in range(300)]
    assert min(ids_of(daemon, sampling=pb.Sampling(logit_bias=all_300, temperature=5))) >= 300


def test_min_p(daemon):
    only_best = pb.Sampling(temperature=5, min_p=1, seed=3)
    assert ids_of(daemon, sampling=only_best) == ids_of(daemon)
    assert ids_of(daemon, sampling=pb.Sampling(temperature=5, min_p=0, seed=3)) == ids_of(
        daemon, sampling=pb.Sampling(temperature=5, seed=3))
    # Of 60 draws at 0.5 none is less than half as probable as the best (at temperature 1).
    messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=60, logprobs=1,
                        sampling=pb.Sampling(temperature=1, min_p=0.5, seed=4))
    gaps = [t.top_logprobs[0].logprob - t.logprob for t in tokens_of(messages)]
    assert max(gaps) <= 0.6932 and max(gaps) > 0


def test_logprobs_are_the_models_own(daemon):
    sampling = pb.Sampling(temperature=0.7, min_p=0.2, repetition_penalty=1.5, presence_penalty=1,
                           logit_bias=[pb.LogitBias(id=7, value=3)], seed=5)
    messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=8, logprobs=20,
                        sampling=sampling)
    ids = list(daemon.inference().Tokenize(pb.TokenizeRequest(model="tiny", text="hello"),
                                           timeout=5).ids)
    for token in tokens_of(messages):
        assert {t.id: t.logprob for t in token.top_logprobs} == logits_of(daemon, ids)
        ids.append(token.id)


def test_min_tokens_holds_stop_ids_back(daemon):
    free = ids_of(daemon, 40)
    wanted = next(id for i, id in enumerate(free) if i > 3 and free.index(id) == i)
    first = free.index(wanted)
    for minimum in (0, first, first + 1, 30):
        messages = generate(daemon.inference(), model="tiny", text="hello", max_tokens=40,
                            stop_token_ids=[wanted], min_tokens=minimum)
        ids = [t.id for t in tokens_of(messages)]
        # `first` tokens come before it: a minimum of that many lets it through.
        assert (ids == free[:first + 1]) == (minimum <= first)
        assert wanted not in ids[:minimum]
        assert len(ids) > minimum or len(ids) == 40


def test_end_tokens_and_ignore_eos(daemon):
    end = daemon.inference().GetModel(pb.GetModelRequest(name="tiny"), timeout=5).model
    end = end.end_token_ids[0]
    force = pb.Sampling(logit_bias=[pb.LogitBias(id=end, value=100)])
    stopped = generate(daemon.inference(), model="tiny", text="hello", max_tokens=20,
                       sampling=force)
    assert [t.id for t in tokens_of(stopped)] == [end]
    assert stopped[-1].choices[0].finish_reason == pb.FINISH_REASON_STOP
    ignored = generate(daemon.inference(), model="tiny", text="hello", max_tokens=20,
                       sampling=force, ignore_eos=True)
    assert [t.id for t in tokens_of(ignored)] == [end] * 20
    assert ignored[-1].choices[0].finish_reason == pb.FINISH_REASON_LENGTH
    held = generate(daemon.inference(), model="tiny", text="hello", max_tokens=20,
                    sampling=force, min_tokens=5)
    ids = [t.id for t in tokens_of(held)]
    assert ids[5:] == [end] and end not in ids[:5]
    assert ids[:5] == ids_of(daemon, 5, sampling=pb.Sampling(
        logit_bias=[pb.LogitBias(id=end, value=-100)]))
    # A stop id of the caller's ends it all the same.
    both = generate(daemon.inference(), model="tiny", text="hello", max_tokens=20, sampling=force,
                    ignore_eos=True, stop_token_ids=[end])
    assert [t.id for t in tokens_of(both)] == [end]


def test_every_parameter_at_once_is_the_same_again(daemon):
    sampling = pb.Sampling(temperature=1.1, top_k=60, top_p=0.97, min_p=0.01, seed=11,
                           repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2,
                           logit_bias=[pb.LogitBias(id=i, value=i / 50 - 1) for i in range(99)])

    def one(_):
        return ids_of(daemon, 48, sampling=sampling, min_tokens=10, stop_token_ids=[3, 4])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(one, range(8)))
    assert all(run == runs[0] for run in runs)


def test_no_seed_is_a_drawn_seed(daemon):
    stub = daemon.inference()
    runs = {tuple(t.id for t in tokens_of(generate(stub, model="tiny", text="hello", max_tokens=32,
                                                   sampling=pb.Sampling(temperature=2))))
            for _ in range(4)}
    assert len(runs) > 1


def test_stop_string(daemon):
    stub = daemon.inference()
    free = generate(stub, model="tiny", text="hello", max_tokens=60)
    text = text_of(free)
    stop = next(text[i:i + 2] for i in range(6, len(text) - 1)
                if "\ufffd" not in text[i:i + 2] and text.index(text[i:i + 2]) == i)
    messages = generate(stub, model="tiny", text="hello", max_tokens=60, stop=["never this", stop])
    assert text_of(messages) == text[:text.index(stop)]
    last = messages[-1].choices[0]
    assert (last.finish_reason, last.stop) == (pb.FINISH_REASON_STOP, stop)
    ids = [t.id for t in tokens_of(messages)]
    assert ids == [t.id for t in tokens_of(free)][:len(ids)]
    assert len(ids) < 60
    assert messages[-1].usage.output_tokens == len(ids)
    daemon.wait_idle()


def test_stop_string_that_does_not_come_is_given_back(daemon):
    stub = daemon.inference()
    free = generate(stub, model="tiny", text="hello", max_tokens=20)
    held = text_of(free)[-3:]
    messages = generate(stub, model="tiny", text="hello", max_tokens=20, stop=[held + "and more"])
    assert text_of(messages) == text_of(free)
    assert messages[-1].choices[0].finish_reason == pb.FINISH_REASON_LENGTH


def test_stop_token_id(daemon):
    stub = daemon.inference()
    free = [t.id for t in tokens_of(generate(stub, model="tiny", text="hello", max_tokens=40))]
    wanted = next(id for i, id in enumerate(free) if i > 3 and free.index(id) == i)
    messages = generate(stub, model="tiny", text="hello", max_tokens=40, stop_token_ids=[wanted])
    assert [t.id for t in tokens_of(messages)] == free[:free.index(wanted) + 1]
    assert messages[-1].choices[0].finish_reason == pb.FINISH_REASON_STOP


def test_max_tokens_default_is_the_rest_of_the_context(daemon):
    messages = generate(daemon.inference(), model="tiny", text="hello")
    last = messages[-1]
    used = last.usage.prompt_tokens + last.usage.output_tokens
    if last.choices[0].finish_reason == pb.FINISH_REASON_LENGTH:
        assert used == 512
    else:
        assert used < 512


def test_many_streams_at_once_give_what_each_gives_alone(daemon):
    prompts = [f"prompt number {i}" for i in range(32)]
    stub = daemon.inference()

    def run(prompt):
        return [(t.id, t.logprob) for t in
                tokens_of(generate(stub, model="tiny", text=prompt, max_tokens=48, logprobs=0))]
    alone = [run(p) for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        together = list(pool.map(run, prompts))
    assert together == alone
    daemon.wait_idle()


def test_kv_space_exhausted_streams_all_end_well(fresh):
    daemon = fresh(models={"tiny": ROOT / "tests/golden/tiny-llama"},
                   model_settings={"kv_blocks_count": 32, "running_max": 8})
    stub = daemon.inference()

    def run(i):
        messages = generate(stub, model="tiny", text=f"prompt {i}", max_tokens=300)
        return messages[-1].usage.output_tokens, messages[-1].choices[0].finish_reason
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for count, reason in pool.map(run, range(8)):
            assert (count, reason) == (300, pb.FINISH_REASON_LENGTH) or reason == \
                pb.FINISH_REASON_STOP
    assert daemon.model_status().preempted_total > 0
    daemon.wait_idle()


def test_tokenize_detokenize_count(daemon):
    stub = daemon.inference()
    text = "hello wörld, 17 🙂 times\n"
    answer = stub.Tokenize(pb.TokenizeRequest(model="tiny", text=text), timeout=5)
    assert b"".join(answer.pieces) == text.encode()
    assert len(answer.ids) == len(answer.pieces) > 0
    back = stub.Detokenize(pb.DetokenizeRequest(model="tiny", ids=answer.ids), timeout=5)
    assert (back.text, back.bytes) == (text, text.encode())
    count = stub.CountTokens(pb.CountTokensRequest(model="tiny", text=text), timeout=5)
    assert count.tokens == len(answer.ids)


def test_detokenize_part_of_a_character(daemon):
    stub = daemon.inference()
    answer = stub.Tokenize(pb.TokenizeRequest(model="tiny", text="🙂"), timeout=5)
    assert len(answer.ids) > 1, "the tiny vocabulary has no smile"
    part = stub.Detokenize(pb.DetokenizeRequest(model="tiny", ids=answer.ids[:1]), timeout=5)
    assert part.bytes == answer.pieces[0]
    assert part.text == "\ufffd"
    assert stub.Detokenize(pb.DetokenizeRequest(model="tiny"), timeout=5).bytes == b""


def test_detokenize_special(daemon):
    stub = daemon.inference()
    end = stub.GetModel(pb.GetModelRequest(name="tiny"), timeout=5).model.end_token_ids[0]
    hidden = stub.Detokenize(pb.DetokenizeRequest(model="tiny", ids=[end]), timeout=5)
    shown = stub.Detokenize(pb.DetokenizeRequest(model="tiny", ids=[end], with_special=True),
                            timeout=5)
    assert (hidden.text, shown.text) == ("", "</s>")


def test_nul_is_shown_as_replacement(daemon):
    stub = daemon.inference()
    # the byte 0 is in every byte-level vocabulary
    ids = [i for i in range(320) if stub.Detokenize(
        pb.DetokenizeRequest(model="tiny", ids=[i]), timeout=5).bytes == b"\0"]
    assert len(ids) == 1
    answer = stub.Detokenize(pb.DetokenizeRequest(model="tiny", ids=ids * 2), timeout=5)
    assert (answer.text, answer.bytes) == ("\ufffd\ufffd", b"\0\0")


def test_models(daemon):
    stub = daemon.inference()
    models = stub.ListModels(pb.ListModelsRequest(), timeout=5).models
    assert [m.name for m in models] == ["models/tiny", "models/mix"]
    assert [m.architecture for m in models] == ["llama", "mixtral"]
    for m in models:
        assert m.state == pb.MODEL_STATE_SERVING
        assert m.context_tokens == 512 and m.vocabulary_count > 256 and len(m.revision) == 64
        for name in (m.name, m.name.removeprefix("models/")):
            assert stub.GetModel(pb.GetModelRequest(name=name), timeout=5).model == m


def test_models_pages(daemon):
    stub = daemon.inference()
    first = stub.ListModels(pb.ListModelsRequest(page_size=1), timeout=5)
    assert [m.name for m in first.models] == ["models/tiny"] and first.next_page_token
    second = stub.ListModels(pb.ListModelsRequest(page_size=1, page_token=first.next_page_token),
                             timeout=5)
    assert [m.name for m in second.models] == ["models/mix"] and not second.next_page_token


def test_embed_is_not_there_yet(daemon):
    with pytest.raises(grpc.RpcError) as caught:
        daemon.inference().Embed(pb.EmbedRequest(model="tiny", texts=["x"]), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "Embed" in caught.value.details()
    assert details(caught.value)["ErrorInfo"].reason == "UNSUPPORTED"
