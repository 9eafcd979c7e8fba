"""grpc.reflection, v1 and v1alpha: a client that knows nothing learns all of it."""
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from reflection.v1 import reflection_pb2
from reflection.v1alpha import reflection_pb2 as alpha_pb2
from reflection.v1alpha import reflection_pb2_grpc as alpha_grpc

Request = reflection_pb2.ServerReflectionRequest


def ask(daemon, *requests, socket="galerne.sock"):
    return list(daemon.reflection(socket=socket).ServerReflectionInfo(iter(requests), timeout=5))


def services(daemon, socket):
    (answer,) = ask(daemon, Request(list_services="*"), socket=socket)
    return [s.name for s in answer.list_services_response.service]


def test_services_by_socket(daemon):
    public = ["galerne.v1.Inference", "grpc.health.v1.Health",
              "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
    assert services(daemon, "galerne.sock") == public
    assert sorted(services(daemon, "admin.sock")) == sorted([*public, "galerne.admin.v1.Admin"])


def files_of(answer):
    return [descriptor_pb2.FileDescriptorProto.FromString(f)
            for f in answer.file_descriptor_response.file_descriptor_proto]


def test_contract_from_a_symbol(daemon):
    (answer,) = ask(daemon, Request(file_containing_symbol="galerne.v1.Inference.Generate",
                                    host="here"))
    assert answer.valid_host == "here"
    assert answer.original_request.file_containing_symbol == "galerne.v1.Inference.Generate"
    pool = descriptor_pool.DescriptorPool()
    for file in files_of(answer):
        pool.Add(file)
    method = pool.FindServiceByName("galerne.v1.Inference").methods_by_name["Generate"]
    assert method.server_streaming and not method.client_streaming
    field = method.input_type.fields_by_name["max_tokens"]
    assert field.has_presence  # proto3 optional has survived the C generator


@pytest.mark.parametrize("symbol, file", [
    ("galerne.v1.GenerateRequest", "galerne/v1/inference.proto"),
    ("galerne.v1.GenerateRequest.model", "galerne/v1/inference.proto"),
    ("galerne.v1.ROLE_USER", "galerne/v1/inference.proto"),
    ("grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"),
    ("google.rpc.BadRequest.FieldViolation", "google/rpc/error_details.proto"),
])
def test_symbols(daemon, symbol, file):
    (answer,) = ask(daemon, Request(file_containing_symbol=symbol))
    assert files_of(answer)[0].name == file


def test_imports_come_along(daemon):
    (answer,) = ask(daemon, Request(file_by_filename="google/rpc/status.proto"))
    assert [f.name for f in files_of(answer)] == ["google/rpc/status.proto",
                                                  "google/protobuf/any.proto"]


def test_errors_are_answers(daemon):
    answers = ask(daemon, Request(file_containing_symbol="no.such.Symbol"),
                  Request(file_by_filename="no/such.proto"),
                  Request(file_containing_extension=reflection_pb2.ExtensionRequest(
                      containing_type="galerne.v1.Token", extension_number=1)),
                  Request(all_extension_numbers_of_type="no.such.Type"),
                  Request(),
                  Request(all_extension_numbers_of_type="galerne.v1.Token"),
                  Request(list_services=""))
    assert [a.error_response.error_code for a in answers[:5]] == [5, 5, 5, 5, 3]
    assert "no.such.Symbol" in answers[0].error_response.error_message
    assert answers[5].all_extension_numbers_response.base_type_name == "galerne.v1.Token"
    assert len(answers[6].list_services_response.service) == 4


def test_v1alpha_says_the_same(daemon):
    stub = alpha_grpc.ServerReflectionStub(daemon.channel())
    questions = [{"list_services": "*"}, {"file_containing_symbol": "galerne.v1.Inference"},
                 {"file_by_filename": "grpc/reflection/v1alpha/reflection.proto"},
                 {"file_containing_symbol": "no.such.Symbol"}, {}]
    asked = iter([alpha_pb2.ServerReflectionRequest(host="h", **q) for q in questions])
    answers = list(stub.ServerReflectionInfo(asked, timeout=5))
    plain = ask(daemon, *[Request(host="h", **q) for q in questions])
    assert len(answers) == len(questions)
    assert [a.SerializeToString() for a in answers] == [a.SerializeToString() for a in plain]
    assert files_of(answers[2])[0].package == "grpc.reflection.v1alpha"


def test_stream_without_a_question(daemon):
    assert ask(daemon) == []
