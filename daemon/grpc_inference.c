/*
 * The unary methods of galerne.v1.Inference: text to ids and back, and the models that are served.
 */
#include <inttypes.h>

#include "daemon/grpc_calls.h"
#include "daemon/grpc_decode.h"

#define PAGE_DEFAULT_COUNT 100u
#define PAGE_MAX_COUNT 1000u
#define PAGE_TOKEN_PREFIX "models-from-"

/* ---- what needs a text thread ---- */

static void text_submit(struct call *call, enum status status, const struct error *error)
{
    if (status == STATUS_OK)
        call_submit(call);
    else
        call_fail(call, error);
}

/* True when the request has come back well; otherwise nothing is left to do. */
static bool text_is_done(struct call *call)
{
    if (!call->request_ended)
        return false;
    if (call->request->finish == FINISH_STOP)
        return true;
    call_fail(call, &call->request->error);
    return false;
}

static void tokenize_start(struct call *call)
{
    struct error error = {.status = STATUS_OK};
    if (call_request(call))
        text_submit(call,
                    decode_tokenize(call->front, (const void *)call->input, &call->arena,
                                    call->request, &error),
                    &error);
}

static void tokenize_ready(struct call *call)
{
    if (!text_is_done(call))
        return;
    const struct request *request = call->request;
    Galerne__V1__TokenizeResponse output = GALERNE__V1__TOKENIZE_RESPONSE__INIT;
    ProtobufCBinaryData *pieces = call_alloc(call, request->n_ids * sizeof *pieces);
    if (!pieces) {
        struct error error;
        error_set(&error, STATUS_EXHAUSTED, "no memory for %u pieces", request->n_ids);
        call_fail(call, &error);
        return;
    }
    for (uint32_t i = 0; i < request->n_ids; i++) {
        struct span bytes = tokenizer_token_bytes(request->model->tokenizer, request->ids[i], true);
        pieces[i].len = bytes.size_bytes;
        pieces[i].data = (uint8_t *)(uintptr_t)bytes.data;
    }
    output.ids = (uint32_t *)(uintptr_t)request->ids;
    output.n_ids = request->n_ids;
    output.pieces = pieces;
    output.n_pieces = request->n_ids;
    call_reply(call, &output.base);
}

static void count_tokens_start(struct call *call)
{
    struct error error = {.status = STATUS_OK};
    if (call_request(call))
        text_submit(call,
                    decode_count_tokens(call->front, (const void *)call->input, &call->arena,
                                        call->request, &error),
                    &error);
}

static void count_tokens_ready(struct call *call)
{
    if (!text_is_done(call))
        return;
    Galerne__V1__CountTokensResponse output = GALERNE__V1__COUNT_TOKENS_RESPONSE__INIT;
    output.tokens = call->request->n_ids;
    call_reply(call, &output.base);
}

static void detokenize_start(struct call *call)
{
    struct error error = {.status = STATUS_OK};
    if (call_request(call))
        text_submit(
            call, decode_detokenize(call->front, (const void *)call->input, call->request, &error),
            &error);
}

/* Valid UTF-8 of any bytes, as a C string: a NUL becomes U+FFFD too (see grpc_reply). */
static char *text_of(struct call *call, struct span bytes, bool strips_space)
{
    struct detokenizer detokenizer;
    char *out = call_alloc(call, detokenizer_out_max(bytes.size_bytes) + detokenizer_out_max(0));
    if (!out)
        return NULL;
    detokenizer_init(&detokenizer, NULL);
    if (strips_space)
        detokenizer_strip(&detokenizer);
    size_t n = detokenizer_push(&detokenizer, bytes, out);
    n += detokenizer_finish(&detokenizer, out + n);
    size_t nuls_count = 0;
    for (size_t i = 0; i < n; i++)
        nuls_count += out[i] == '\0';
    char *text = call_alloc(call, n + 2 * nuls_count + 1);
    if (!text)
        return NULL;
    char *to = text;
    for (size_t i = 0; i < n; i++) {
        if (out[i]) {
            *to++ = out[i];
        } else {
            memcpy(to, "\xef\xbf\xbd", 3);
            to += 3;
        }
    }
    *to = '\0';
    return text;
}

static void detokenize_ready(struct call *call)
{
    if (!text_is_done(call))
        return;
    Galerne__V1__DetokenizeResponse output = GALERNE__V1__DETOKENIZE_RESPONSE__INIT;
    struct span bytes = call->request->text;
    output.text =
        text_of(call, bytes, tokenizer_info(call->request->model->tokenizer)->strips_space);
    if (!output.text) {
        struct error error;
        error_set(&error, STATUS_EXHAUSTED, "no memory for a text of %zu bytes", bytes.size_bytes);
        call_fail(call, &error);
        return;
    }
    output.bytes =
        (ProtobufCBinaryData){.len = bytes.size_bytes, .data = (uint8_t *)(uintptr_t)bytes.data};
    call_reply(call, &output.base);
}

/* ---- models ---- */

/* One model as the contract shows it, and what it points to. */
struct model_view {
    Galerne__V1__Model model;
    char name[CONFIG_NAME_MAX_BYTES + 8];
    char revision[65];
    struct engine_status status;
    uint32_t end_ids[TOKENIZER_EOS_MAX];
};

static Galerne__V1__ModelState state_of(enum engine_state state)
{
    switch (state) {
    case ENGINE_STARTING:
    case ENGINE_LOADING:
        return GALERNE__V1__MODEL_STATE__MODEL_STATE_LOADING;
    case ENGINE_SERVING:
        return GALERNE__V1__MODEL_STATE__MODEL_STATE_SERVING;
    case ENGINE_LOST:
        return GALERNE__V1__MODEL_STATE__MODEL_STATE_RESTARTING;
    case ENGINE_FAILED:
        break;
    }
    return GALERNE__V1__MODEL_STATE__MODEL_STATE_FAILED;
}

static void model_show(const struct served_model *served, struct model_view *view)
{
    const struct tokenizer_info *info = tokenizer_info(served->tokenizer);
    Galerne__V1__Model *model = &view->model;
    galerne__v1__model__init(model);
    engine_status(served->engine, &view->status);
    snprintf(view->name, sizeof view->name, "models/%s", served->config->name);
    for (size_t i = 0; i < sizeof served->plan.digest; i++)
        snprintf(view->revision + 2 * i, 3, "%02x", served->plan.digest[i]);
    model->name = view->name;
    model->state = state_of(view->status.state);
    if (view->status.state != ENGINE_SERVING)
        model->state_text = view->status.text;
    model->architecture =
        (char *)(uintptr_t)(served->plan.arch.kind == MODEL_MIXTRAL ? "mixtral" : "llama");
    model->context_tokens = served->context_tokens;
    model->vocabulary_count = served->plan.arch.vocab;
    model->chat_template = (char *)(uintptr_t)chat_name(served->chat);
    model->revision = view->revision;
    memcpy(view->end_ids, info->eos_ids, sizeof view->end_ids);
    model->end_token_ids = view->end_ids;
    model->n_end_token_ids = u32_min(info->n_eos, TOKENIZER_EOS_MAX);
}

static enum status page_decode(const Galerne__V1__ListModelsRequest *input, uint32_t n_models,
                               uint32_t *ret_first, uint32_t *ret_count, struct error *error)
{
    uint32_t first = 0;
    if (input->page_size > PAGE_MAX_COUNT)
        return error_field(error, "page_size", "is %" PRIu32 ": expected 0 to %u", input->page_size,
                           PAGE_MAX_COUNT);
    if (input->page_token[0]) {
        char again[sizeof PAGE_TOKEN_PREFIX + 12] = "";
        if (sscanf(input->page_token, PAGE_TOKEN_PREFIX "%9" SCNu32, &first) == 1)
            snprintf(again, sizeof again, PAGE_TOKEN_PREFIX "%" PRIu32, first);
        if (strcmp(again, input->page_token) != 0 || first >= n_models)
            return error_field(error, "page_token",
                               "is not one that ListModels gave: leave it empty for the first "
                               "page");
    }
    *ret_first = first;
    *ret_count =
        u32_min(input->page_size ? input->page_size : PAGE_DEFAULT_COUNT, n_models - first);
    return STATUS_OK;
}

static void list_models_start(struct call *call)
{
    struct front *front = call->front;
    struct error error = {.status = STATUS_OK};
    uint32_t first = 0, count = 0;
    if (page_decode((const void *)call->input, front->n_models, &first, &count, &error) !=
        STATUS_OK) {
        call_fail(call, &error);
        return;
    }
    struct model_view *views = call_alloc(call, count * sizeof *views);
    Galerne__V1__Model **models = call_alloc(call, count * sizeof *models);
    if (!views || !models) {
        error_set(&error, STATUS_EXHAUSTED, "no memory for %u models", count);
        call_fail(call, &error);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        model_show(&front->models[first + i], &views[i]);
        models[i] = &views[i].model;
    }
    Galerne__V1__ListModelsResponse output = GALERNE__V1__LIST_MODELS_RESPONSE__INIT;
    char next[sizeof PAGE_TOKEN_PREFIX + 12];
    output.models = models;
    output.n_models = count;
    if (first + count < front->n_models) {
        snprintf(next, sizeof next, PAGE_TOKEN_PREFIX "%" PRIu32, first + count);
        output.next_page_token = next;
    }
    call_reply(call, &output.base);
}

static void get_model_start(struct call *call)
{
    const Galerne__V1__GetModelRequest *input = (const void *)call->input;
    struct served_model *served;
    struct error error = {.status = STATUS_OK};
    if (decode_model(call->front, "name", input->name, &served, &error) != STATUS_OK) {
        call_fail(call, &error);
        return;
    }
    struct model_view view;
    Galerne__V1__GetModelResponse output = GALERNE__V1__GET_MODEL_RESPONSE__INIT;
    model_show(served, &view);
    output.model = &view.model;
    call_reply(call, &output.base);
}

static void embed_start(struct call *call)
{
    struct error error;
    error_set(&error, STATUS_UNSUPPORTED, "Embed is not supported by this version");
    error.field[0] = '\0';
    call_fail(call, &error);
}

const struct call_handler call_tokenize = {
    .path = "/galerne.v1.Inference/Tokenize", .start = tokenize_start, .ready = tokenize_ready};
const struct call_handler call_count_tokens = {.path = "/galerne.v1.Inference/CountTokens",
                                               .start = count_tokens_start,
                                               .ready = count_tokens_ready};
const struct call_handler call_detokenize = {.path = "/galerne.v1.Inference/Detokenize",
                                             .start = detokenize_start,
                                             .ready = detokenize_ready};
const struct call_handler call_list_models = {
    .path = "/galerne.v1.Inference/ListModels", .always = true, .start = list_models_start};
const struct call_handler call_get_model = {
    .path = "/galerne.v1.Inference/GetModel", .always = true, .start = get_model_start};
const struct call_handler call_embed = {
    .path = "/galerne.v1.Inference/Embed", .always = true, .start = embed_start};
