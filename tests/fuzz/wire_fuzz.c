/* Messages of clients: the first byte picks a method, the rest is its message. Checked and unpacked
 * under the memory cap; what passes goes all the way to the text pool, over a made-up front. */
#include "daemon/grpc_calls.h"
#include "daemon/wire_check.h"
#include "tests/unit/fake_front.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

/* Every string of the message, and of the messages in it, is text. */
static void strings_check(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const char *member = (const char *)message + field->offset;
        bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
        size_t n =
            repeated ? *(const size_t *)((const char *)message + field->quantifier_offset) : 1;
        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
            *(const uint32_t *)((const char *)message + field->quantifier_offset) != field->id)
            continue;
        if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        const void *const *values =
            repeated ? *(const void *const *const *)member : (const void *const *)member;
        for (size_t k = 0; k < n; k++) {
            if (!values[k])
                CHECK(field->type == PROTOBUF_C_TYPE_MESSAGE && !repeated);
            else if (field->type == PROTOBUF_C_TYPE_MESSAGE)
                strings_check(values[k]);
            else
                CHECK(utf8_invalid_offset(values[k], strlen(values[k])) == strlen(values[k]));
        }
    }
}

static void unpack(const struct service_method *method, struct span bytes)
{
    struct arena arena;
    struct error error = {.status = STATUS_OK};
    ProtobufCMessage *message = NULL;
    size_t max_bytes = wire_unpacked_max_bytes(bytes.size_bytes);
    arena_init(&arena, max_bytes);
    enum status status = wire_unpack(method->input, bytes, &arena, &message, &error);
    CHECK(arena.used_bytes <= max_bytes);
    if (status == STATUS_OK) {
        CHECK(protobuf_c_message_check(message));
        strings_check(message);
    } else {
        CHECK(status == STATUS_INVALID || status == STATUS_EXHAUSTED);
        CHECK(!message && error.status == status && error.text[0]);
        CHECK(utf8_invalid_offset(error.field, strlen(error.field)) == strlen(error.field));
    }
    arena_free(&arena);
}

/* The whole road of a call, up to where a text thread would take it. */
static void call(const struct service_method *method, struct span bytes)
{
    struct fake_rpc_call *rpc = fake_call(method->path);
    fake_receive_bytes(rpc, bytes);
    if (fake.n_submitted) {
        struct request *request = fake.submitted[0];
        const struct sample_params *s = &request->sampling;
        CHECK(request->model);
        CHECK(s->temperature >= 0 && s->temperature <= 100);
        CHECK(request->kind != REQUEST_GENERATE || (s->top_p > 0 && s->top_p <= 1));
        CHECK(s->n_logprobs <= TOP_LOGPROBS_MAX);
        CHECK(s->min_p >= 0 && s->min_p <= 1);
        CHECK(s->repetition_penalty >= 0 && s->repetition_penalty <= 10);
        CHECK(s->presence_penalty >= -2 && s->presence_penalty <= 2);
        CHECK(s->frequency_penalty >= -2 && s->frequency_penalty <= 2);
        CHECK(s->min_tokens <= request->model->context_tokens);
        CHECK(s->n_biases <= SAMPLE_BIASES_MAX);
        for (uint32_t i = 0; i < s->n_biases; i++) {
            const struct sample_entry *bias = &request->biases[i];
            CHECK(bias->id < request->model->plan.arch.vocab);
            CHECK(bias->value >= -100 && bias->value <= 100);
            CHECK(i == 0 || bias->id > bias[-1].id);
        }
        CHECK(request->n_stop_ids <= REQUEST_STOP_IDS_MAX);
        CHECK(request->output_tokens_max <= request->model->context_tokens);
        CHECK(request->n_choices >= 1 && request->n_choices <= fake.config.requests_max);
        CHECK(request_pool_used_count(fake.front.requests) == request->n_choices);
        for (struct request *next; request; request = next) {
            next = request->next_choice;
            fake_end(request, FINISH_ERROR, STATUS_UNAVAILABLE);
        }
        fake_flush();
        fake.n_submitted = 0;
    }
    fake_leave(rpc); /* streams; unary calls are over */
    fake_call_free(rpc);
    CHECK(request_pool_used_count(fake.front.requests) == 0);
    CHECK(atomic_load(&fake.listener.memory_bytes) == 0);
    CHECK(atomic_load(&fake.front.calls_open) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    if (!fake.front.config)
        fake_open();
    if (size_bytes < 1)
        return 0;
    const struct service_method *method = &service_methods[data[0] % service_methods_count];
    /* A copy of its own, so that a read past its end is seen. */
    struct span bytes = {.data = malloc(size_bytes), .size_bytes = size_bytes - 1};
    memcpy((char *)(uintptr_t)bytes.data, data + 1, size_bytes - 1);
    unpack(method, bytes);
    call(method, bytes);
    free((char *)(uintptr_t)bytes.data);
    return 0;
}
