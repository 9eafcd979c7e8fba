"""Bad input on the wire: the code, the field, and that nothing is lost for others."""
import struct

import grpc
import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import bad_field, details

GENERATE = "/galerne.v1.Inference/Generate"


def error_of(stub, **fields) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(pb.GenerateRequest(**{"model": "tiny", "text": "hello", **fields}),
                           timeout=10))
    return caught.value


def raw_error(daemon, message: bytes, path: str = GENERATE, **options) -> grpc.RpcError:
    """What the daemon says to bytes that are not a message."""
    call = daemon.channel().unary_stream(path, request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(message, timeout=10, **options))
    return caught.value


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    length, out = len(data), b""
    while length > 127:
        out += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + out + bytes([length]) + data


NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize("fields, name", [
    ({"model": ""}, "model"),
    ({"text": ""}, "text"),
    ({"text": None}, "prompt"),
    ({"text": None, "token_ids": pb.TokenIds()}, "token_ids.ids"),
    ({"text": None, "token_ids": pb.TokenIds(ids=[1, 2, 320])}, "token_ids"),
    ({"text": None, "token_ids": pb.TokenIds(ids=[4294967295])}, "token_ids"),
    ({"text": None, "token_ids": pb.TokenIds(ids=[5] * 512)}, "prompt"),
    ({"text": "x" * 4000}, "prompt"),
    ({"text": None, "chat": pb.ChatPrompt()}, "chat.messages"),
    ({"text": None, "chat": pb.ChatPrompt(messages=[pb.ChatMessage(content="x")])},
     "chat.messages[0].role"),
    ({"text": None, "chat": pb.ChatPrompt(messages=[
        pb.ChatMessage(role=pb.ROLE_USER, content="x"), pb.ChatMessage(role=9, content="y")])},
     "chat.messages[1].role"),
    ({"text": None, "chat": pb.ChatPrompt(
        messages=[pb.ChatMessage(role=pb.ROLE_USER)] * 1025)}, "chat.messages"),
    ({"sampling": pb.Sampling(temperature=NAN)}, "sampling.temperature"),
    ({"sampling": pb.Sampling(temperature=INF)}, "sampling.temperature"),
    ({"sampling": pb.Sampling(temperature=-0.1)}, "sampling.temperature"),
    ({"sampling": pb.Sampling(temperature=100.5)}, "sampling.temperature"),
    ({"sampling": pb.Sampling(top_p=0)}, "sampling.top_p"),
    ({"sampling": pb.Sampling(top_p=1.01)}, "sampling.top_p"),
    ({"sampling": pb.Sampling(top_p=NAN)}, "sampling.top_p"),
    ({"sampling": pb.Sampling(top_p=-1)}, "sampling.top_p"),
    ({"sampling": pb.Sampling(min_p=-0.01)}, "sampling.min_p"),
    ({"sampling": pb.Sampling(min_p=1.01)}, "sampling.min_p"),
    ({"sampling": pb.Sampling(min_p=NAN)}, "sampling.min_p"),
    ({"sampling": pb.Sampling(repetition_penalty=0)}, "sampling.repetition_penalty"),
    ({"sampling": pb.Sampling(repetition_penalty=-1)}, "sampling.repetition_penalty"),
    ({"sampling": pb.Sampling(repetition_penalty=10.5)}, "sampling.repetition_penalty"),
    ({"sampling": pb.Sampling(repetition_penalty=NAN)}, "sampling.repetition_penalty"),
    ({"sampling": pb.Sampling(presence_penalty=2.1)}, "sampling.presence_penalty"),
    ({"sampling": pb.Sampling(presence_penalty=-INF)}, "sampling.presence_penalty"),
    ({"sampling": pb.Sampling(frequency_penalty=-2.1)}, "sampling.frequency_penalty"),
    ({"sampling": pb.Sampling(frequency_penalty=NAN)}, "sampling.frequency_penalty"),
    ({"sampling": pb.Sampling(logit_bias=[pb.LogitBias(id=1, value=1)] * 2)},
     "sampling.logit_bias"),
    ({"sampling": pb.Sampling(logit_bias=[pb.LogitBias(id=i) for i in range(301)])},
     "sampling.logit_bias"),
    ({"sampling": pb.Sampling(logit_bias=[pb.LogitBias(id=1), pb.LogitBias(id=320)])},
     "sampling.logit_bias[1].id"),
    ({"sampling": pb.Sampling(logit_bias=[pb.LogitBias(id=1, value=100.5)])},
     "sampling.logit_bias[0].value"),
    ({"sampling": pb.Sampling(logit_bias=[pb.LogitBias(id=1), pb.LogitBias(id=2, value=NAN)])},
     "sampling.logit_bias[1].value"),
    ({"min_tokens": 11, "max_tokens": 10}, "min_tokens"),
    ({"min_tokens": 513}, "min_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 513}, "max_tokens"),
    ({"max_tokens": 510}, "max_tokens"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ["x", ""]}, "stop[1]"),
    ({"stop": ["x" * 257]}, "stop[0]"),
    ({"stop_token_ids": [1] * 17}, "stop_token_ids"),
    ({"stop_token_ids": [320]}, "stop_token_ids"),
    ({"logprobs": 21}, "logprobs"),
    ({"priority": 7}, "priority"),
    ({"request_id": "x" * 129}, "request_id"),
    ({"request_id": "tab\there"}, "request_id"),
    ({"request_id": "é"}, "request_id"),
])
def test_invalid_field(daemon, fields, name):
    error = error_of(daemon.inference(), **fields)
    assert bad_field(error) == name
    assert "RetryInfo" not in details(error)
    daemon.wait_idle()


@pytest.mark.parametrize("name", ["nobody", "models/", "models/models/tiny", "TINY", "x" * 5000])
def test_unknown_model(daemon, name):
    error = error_of(daemon.inference(), model=name)
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "ListModels" in error.details()
    assert details(error)["ErrorInfo"].reason == "NOT_FOUND"


def test_chat_of_a_model_without_template(daemon):
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role=pb.ROLE_USER, content="hello")])
    error = error_of(daemon.inference(), text=None, chat=chat)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "template" in error.details()


@pytest.mark.parametrize("method, request_type, fields, name", [
    ("Tokenize", pb.TokenizeRequest, {"model": "tiny"}, "prompt"),
    ("Tokenize", pb.TokenizeRequest, {"model": "", "text": "x"}, "model"),
    ("CountTokens", pb.CountTokensRequest, {"model": "tiny"}, "prompt"),
    ("CountTokens", pb.CountTokensRequest, {"model": "tiny", "text": "x" * 4000}, "prompt"),
    ("Detokenize", pb.DetokenizeRequest, {"model": "tiny", "ids": [1, 320]}, "token_ids"),
    ("GetModel", pb.GetModelRequest, {}, "name"),
    ("ListModels", pb.ListModelsRequest, {"page_size": 1001}, "page_size"),
    ("ListModels", pb.ListModelsRequest, {"page_token": "x"}, "page_token"),
    ("ListModels", pb.ListModelsRequest, {"page_token": "models-from-2"}, "page_token"),
    ("ListModels", pb.ListModelsRequest, {"page_token": "models-from-01"}, "page_token"),
])
def test_invalid_field_of_unary(daemon, method, request_type, fields, name):
    with pytest.raises(grpc.RpcError) as caught:
        getattr(daemon.inference(), method)(request_type(**fields), timeout=5)
    assert bad_field(caught.value) == name


# ---- bytes that are not a message ----

TINY = field(1, b"tiny")


def chat(*contents: bytes) -> bytes:
    return field(3, b"".join(field(1, b"\x08\x02" + field(2, c)) for c in contents))


@pytest.mark.parametrize("message, name, words", [
    (TINY + field(2, b"ab\xff\xfe"), "text", "UTF-8 at byte 2 of 4"),
    (TINY + field(2, b"\xed\xa0\x80"), "text", "UTF-8 at byte 0"),  # a surrogate
    (TINY + field(2, b"\xc0\xaf"), "text", "UTF-8"),  # overlong
    (TINY + field(2, b"\xe2\x82"), "text", "UTF-8"),  # cut
    (TINY + field(2, b"a\0b"), "text", "NUL at byte 1"),
    (TINY + chat(b"fine", b"fine", b"\x80"), "chat.messages[2].content", "UTF-8"),
    (TINY + field(2, b"x") + field(7, b"a") + field(7, b"\xff"), "stop[1]", "UTF-8"),
    (TINY + field(4, b"\x0d\0\0\0\0"), "token_ids.ids[0]", "wire type"),
    (TINY + field(4, field(1, b"\xff\xff")), "token_ids.ids[0]", "ends inside"),
    (b"\x08\x01", "model", "wire type"),
])
def test_malformed_field(daemon, message, name, words):
    error = raw_error(daemon, message)
    assert bad_field(error) == name
    assert words in error.details()


@pytest.mark.parametrize("message", [
    b"\x0a",  # a tag without a value
    b"\x0a\x7fx",  # a length past the end
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # no tag
    b"\x00\x00",  # field number 0
    b"\x0b\x0c",  # a group
    b"\x0f\x00",  # wire type 7
    TINY + b"\x30" + b"\xff" * 11,  # a varint without an end
    TINY + b"\x0a" + b"\xff\xff\xff\xff\x7f" + b"x" * 10,  # a length of 2^35
])
def test_not_protobuf(daemon, message):
    error = raw_error(daemon, message)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "BadRequest" not in details(error) or details(error)["BadRequest"]


def test_unknown_fields_are_ignored(daemon):
    call = daemon.channel().unary_stream(GENERATE, request_serializer=None,
                                         response_deserializer=pb.GenerateResponse.FromString)
    message = TINY + field(2, b"hello") + b"\x30\x03" + b"\xf8\xff\x01\x05" + field(15, b"?" * 100)
    assert sum(len(m.tokens) for m in call(message, timeout=10)) == 3


def test_deep_nesting_costs_nothing(daemon):
    """A tower of messages in an unknown field, then in a known one."""
    tower = b""
    for _ in range(4000):
        tower = field(3, tower)
    error = raw_error(daemon, TINY + field(15, tower))
    assert bad_field(error) == "prompt"
    tower = b""
    for _ in range(4000):
        tower = field(1, tower)
    assert raw_error(daemon, TINY + field(3, tower)).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_amplifying_message_is_refused(daemon):
    """60 kB of two-byte messages would become megabytes; the front must not grow."""
    before = daemon.status().resident_bytes
    for message in (TINY + field(3, b"\x0a\x00" * 30000), TINY + field(4, b"\x08\x01" * 30000),
                    TINY + b"\x3a\x00" * 30000, TINY + b"\x78\x00" * 30000):
        for _ in range(20):
            error = raw_error(daemon, message)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "16384" in error.details()
    assert daemon.status().resident_bytes - before < 64 << 20  # the address sanitizer keeps some


def test_long_packed_list(daemon):
    """The largest honest list is judged by the context, not by the parser."""
    error = error_of(daemon.inference(), text=None, token_ids=pb.TokenIds(ids=[1] * 60000))
    assert bad_field(error) == "prompt"


def test_message_over_the_limit(daemon):
    error = error_of(daemon.inference(), text="x" * 70000)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "65536" in error.details()


def test_compressed_message(daemon):
    stub = daemon.inference()
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(pb.GenerateRequest(model="tiny", text="x" * 5000), timeout=10,
                           compression=grpc.Compression.Gzip))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "ompress" in caught.value.details()


def test_headers_over_the_limit(daemon):
    stub = daemon.inference()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListModels(pb.ListModelsRequest(), timeout=10,
                        metadata=[("x-long", "y" * 1000)] * 40)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", ["/galerne.v1.Inference/Nothing", "/no.such.Service/Method",
                                  "/", "/galerne.v1.Inference/", "/x/" + "y" * 500])
def test_unknown_method(daemon, path):
    error = raw_error(daemon, b"", path)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert details(error)["ErrorInfo"].reason == "UNSUPPORTED"


def test_no_message(daemon):
    """A client that closes its side without a request."""
    call = daemon.channel().stream_stream(GENERATE, request_serializer=None,
                                          response_deserializer=None)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter(()), timeout=10))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "without a request" in caught.value.details()


def test_never_a_message(daemon):
    """A client that opens a call and then says nothing is turned away after 10 s."""
    import threading
    quiet = threading.Event()

    def nothing():
        quiet.wait(20)
        yield from ()
    call = daemon.channel().stream_stream(GENERATE, request_serializer=None,
                                          response_deserializer=None)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(nothing(), timeout=18))
    quiet.set()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "request message" in caught.value.details()


def test_others_are_untouched(daemon):
    """After all of that, a good request is answered as before."""
    messages = list(daemon.inference().Generate(
        pb.GenerateRequest(model="tiny", text="hello", max_tokens=5), timeout=10))
    assert sum(len(m.tokens) for m in messages) == 5
    status = daemon.status()
    assert status.calls_open == 1  # this call of Status
