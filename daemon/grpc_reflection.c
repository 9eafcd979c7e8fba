/*
 * grpc.reflection.v1.ServerReflection: the contract, told by the daemon itself. v1alpha is the same
 * service under an older name, which many tools still ask first.
 *
 * Answers come from the tables that were made of the .proto files at build. Errors about one
 * question are answers too (ErrorResponse); the stream goes on.
 */
#include "daemon/grpc_calls.h"
#include "proto/reflection.pb-c.h"

#define FILES_MAX 64
#define SERVICES_MAX 64

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;
typedef Grpc__Reflection__V1__ErrorResponse reflection_error;

/* What an answer points to. */
struct answer {
    reflection_response response;
    reflection_error error;
    char error_text[ERROR_TEXT_MAX_BYTES];
    Grpc__Reflection__V1__FileDescriptorResponse files;
    ProtobufCBinaryData files_bytes[FILES_MAX];
    bool files_taken[FILES_MAX];
    Grpc__Reflection__V1__ListServiceResponse services;
    Grpc__Reflection__V1__ServiceResponse service[SERVICES_MAX];
    Grpc__Reflection__V1__ServiceResponse *service_rows[SERVICES_MAX];
    Grpc__Reflection__V1__ExtensionNumberResponse extensions;
};

static void answer_error(struct answer *answer, enum rpc_code code, const char *what,
                         const char *name)
{
    struct error error; /* its text is cut and cleaned */
    error_set(&error, STATUS_NOT_FOUND, "%s%s", what, name);
    memcpy(answer->error_text, error.text, sizeof answer->error_text);
    grpc__reflection__v1__error_response__init(&answer->error);
    answer->error.error_code = (int32_t)code;
    answer->error.error_message = answer->error_text;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    answer->response.error_response = &answer->error;
}

static const struct proto_symbol *symbol_find(const char *name)
{
    uint32_t low = 0, high = proto_symbols_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(name, proto_symbols[middle].name);
        if (order == 0)
            return &proto_symbols[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* The file, then everything that it imports, each once. Imports have no cycles; their depth is
 * that of our own .proto files. */
static void file_add(struct answer *answer, uint32_t index)
{
    if (answer->files_taken[index])
        return;
    answer->files_taken[index] = true;
    const struct proto_file *file = &proto_files[index];
    answer->files_bytes[answer->files.n_file_descriptor_proto++] =
        (ProtobufCBinaryData){.len = file->size_bytes, .data = (uint8_t *)(uintptr_t)file->bytes};
    for (uint32_t i = 0; i < file->n_imports; i++)
        file_add(answer, file->imports[i]);
}

static void answer_file(struct answer *answer, uint32_t index)
{
    CHECK(proto_files_count <= FILES_MAX);
    grpc__reflection__v1__file_descriptor_response__init(&answer->files);
    answer->files.file_descriptor_proto = answer->files_bytes;
    file_add(answer, index);
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    answer->response.file_descriptor_response = &answer->files;
}

static void answer_file_named(struct answer *answer, const char *name)
{
    for (uint32_t i = 0; i < proto_files_count; i++) {
        if (strcmp(proto_files[i].name, name) == 0) {
            answer_file(answer, i);
            return;
        }
    }
    answer_error(answer, RPC_NOT_FOUND, "no such file: ", name);
}

static void answer_symbol(struct answer *answer, const char *name)
{
    const struct proto_symbol *symbol = symbol_find(name);
    if (symbol)
        answer_file(answer, symbol->file);
    else
        answer_error(answer, RPC_NOT_FOUND, "no such symbol: ", name);
}

static void answer_services(struct call *call, struct answer *answer)
{
    bool operator_socket = call->rpc->server == call->listener->servers[GRPC_OPERATOR];
    grpc__reflection__v1__list_service_response__init(&answer->services);
    answer->services.service = answer->service_rows;
    const char *last = "";
    for (uint32_t i = 0; i < service_methods_count; i++) {
        const struct service_method *method = &service_methods[i];
        bool offered = operator_socket ? grpc_calls_operator(method) : grpc_calls_public(method);
        if (!offered || strcmp(method->service, last) == 0) /* a service's methods are together */
            continue;
        last = method->service;
        size_t n = answer->services.n_service;
        CHECK(n < SERVICES_MAX);
        grpc__reflection__v1__service_response__init(&answer->service[n]);
        answer->service[n].name = (char *)(uintptr_t)last;
        answer->service_rows[n] = &answer->service[n];
        answer->services.n_service++;
    }
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    answer->response.list_services_response = &answer->services;
}

/* proto3 has no extensions: a type that exists has none. */
static void answer_extensions(struct answer *answer, const char *type)
{
    if (!symbol_find(type)) {
        answer_error(answer, RPC_NOT_FOUND, "no such type: ", type);
        return;
    }
    grpc__reflection__v1__extension_number_response__init(&answer->extensions);
    answer->extensions.base_type_name = (char *)(uintptr_t)type;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    answer->response.all_extension_numbers_response = &answer->extensions;
}

static void answer_make(struct call *call, reflection_request *input, struct answer *answer)
{
    grpc__reflection__v1__server_reflection_response__init(&answer->response);
    answer->response.valid_host = input->host;
    answer->response.original_request = input;
    switch (input->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        answer_file_named(answer, input->file_by_filename);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_symbol(answer, input->file_containing_symbol);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        answer_error(answer, RPC_NOT_FOUND, "no extensions of ",
                     input->file_containing_extension->containing_type);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_extensions(answer, input->all_extension_numbers_of_type);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(call, answer);
        break;
    default:
        answer_error(answer, RPC_INVALID_ARGUMENT, "the request asks nothing", "");
    }
}

static void reflection_start(struct call *call)
{
    struct answer *answer = call_alloc(call, sizeof *answer);
    if (answer) {
        answer_make(call, (reflection_request *)call->input, answer);
        rpc_call_send(call->rpc, &answer->response.base);
        return;
    }
    struct error error = {.status = STATUS_OK};
    error_set(&error, STATUS_EXHAUSTED, "no memory for the answer");
    call_fail(call, &error);
}

/* The answer is on its way: the next question. */
static void reflection_ready(struct call *call)
{
    rpc_call_read(call->rpc);
}

static void reflection_half_closed(struct call *call)
{
    call_reply(call, NULL);
}

static void reflection_ticked(struct call *call, uint64_t now_ns)
{
    struct error error = {.status = STATUS_OK};
    if (!atomic_load(&call->front->draining))
        return;
    error_set(&error, STATUS_UNAVAILABLE, "the daemon is stopping");
    call_fail(call, &error);
}

const struct call_handler call_reflection_alpha = {
    .path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    .always = true,
    .start = reflection_start,
    .ready = reflection_ready,
    .ticked = reflection_ticked,
    .half_closed = reflection_half_closed,
};

const struct call_handler call_reflection = {
    .path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    .always = true,
    .start = reflection_start,
    .ready = reflection_ready,
    .ticked = reflection_ticked,
    .half_closed = reflection_half_closed,
};
