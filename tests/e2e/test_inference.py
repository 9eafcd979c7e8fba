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
    assert "request my request/7: model tiny" in daemon.log_tail()


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
