#include "daemon/grpc_decode.h"

#include <inttypes.h>
#include <math.h>
#include <sys/random.h>

#define NAME_SHOWN_MAX_BYTES 64

enum status decode_model(struct front *front, const char *field, const char *name,
                         struct served_model **ret_model, struct error *error)
{
    struct span wanted = span_of(name);
    if (wanted.size_bytes == 0)
        return error_field(error, field, "is empty: name a served model, as ListModels gives it");
    struct served_model *model = front_model_find(front, wanted);
    if (!model)
        return error_set(error, STATUS_NOT_FOUND,
                         "no model \"%s\" is served here; ListModels gives those that are",
                         wanted.size_bytes <= NAME_SHOWN_MAX_BYTES ? name : "(a long name)");
    *ret_model = model;
    return STATUS_OK;
}

/* ---- prompts ---- */

static enum status role_decode(Galerne__V1__Role role, size_t index, enum chat_role *ret_role,
                               struct error *error)
{
    switch (role) {
    case GALERNE__V1__ROLE__ROLE_SYSTEM:
        *ret_role = CHAT_ROLE_SYSTEM;
        return STATUS_OK;
    case GALERNE__V1__ROLE__ROLE_USER:
        *ret_role = CHAT_ROLE_USER;
        return STATUS_OK;
    case GALERNE__V1__ROLE__ROLE_ASSISTANT:
        *ret_role = CHAT_ROLE_ASSISTANT;
        return STATUS_OK;
    default:
        break;
    }
    char field[sizeof error->field];
    snprintf(field, sizeof field, "chat.messages[%zu].role", index);
    return error_field(error, field,
                       "is %d: expected ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT (1 to 3)",
                       (int)role);
}

static enum status chat_decode(const Galerne__V1__ChatPrompt *input, struct arena *arena,
                               struct prompt *ret_prompt, struct error *error)
{
    if (input->n_messages == 0)
        return error_field(error, "chat.messages",
                           "is empty: a conversation has at least one message");
    if (input->n_messages > DECODE_CHAT_MESSAGES_MAX)
        return error_field(error, "chat.messages", "has %zu messages and may have %d",
                           input->n_messages, DECODE_CHAT_MESSAGES_MAX);
    struct chat_message *messages = arena_alloc(arena, input->n_messages * sizeof *messages);
    if (!messages)
        return error_set(error, STATUS_EXHAUSTED, "the prompt needs more memory than a call may");
    for (size_t i = 0; i < input->n_messages; i++) {
        enum status status = role_decode(input->messages[i]->role, i, &messages[i].role, error);
        if (status != STATUS_OK)
            return status;
        messages[i].content = span_of(input->messages[i]->content);
    }
    *ret_prompt = (struct prompt){
        .kind = PROMPT_CHAT, .messages = messages, .n_messages = (uint32_t)input->n_messages};
    return STATUS_OK;
}

static enum status text_decode(const char *text, bool add_special, struct prompt *ret_prompt,
                               struct error *error)
{
    if (text[0] == '\0')
        return error_field(error, "text", "the prompt is empty: give at least one character");
    *ret_prompt =
        (struct prompt){.kind = PROMPT_TEXT, .add_special = add_special, .text = span_of(text)};
    return STATUS_OK;
}

static enum status prompt_missing(const char *kinds, struct error *error)
{
    return error_field(error, "prompt", "there is no prompt: set one of %s", kinds);
}

/* ---- Generate ---- */

/* A number of Sampling: left as it is when the caller has not set it. */
struct real {
    const char *field, *expected;
    bool is_set;
    float value, min, max;
    bool above_min; /* the minimum itself is out */
    float *to;
};

static enum status real_decode(const struct real *real, struct error *error)
{
    float value = real->value;
    if (!real->is_set)
        return STATUS_OK;
    if (!isfinite(value) || value < real->min || value > real->max ||
        (real->above_min && value == real->min))
        return error_field(error, real->field, "is %g: expected %s", (double)value, real->expected);
    *real->to = value == 0 ? 0 : value; /* no negative zero further down */
    return STATUS_OK;
}

static enum status reals_decode(const Galerne__V1__Sampling *input, struct sample_params *params,
                                struct error *error)
{
    const struct real table[] = {
        {"sampling.temperature", "0 (greedy) to 100", input->_temperature_case != 0,
         input->temperature, 0, DECODE_TEMPERATURE_MAX, false, &params->temperature},
        {"sampling.top_p", "above 0, to 1 (all)", input->_top_p_case != 0, input->top_p, 0, 1, true,
         &params->top_p},
        {"sampling.min_p", "0 (all) to 1", input->_min_p_case != 0, input->min_p, 0, 1, false,
         &params->min_p},
        {"sampling.repetition_penalty", "above 0, to 10 (1 is off)",
         input->_repetition_penalty_case != 0, input->repetition_penalty, 0,
         DECODE_REPETITION_PENALTY_MAX, true, &params->repetition_penalty},
        {"sampling.presence_penalty", "-2 to 2 (0 is off)", input->_presence_penalty_case != 0,
         input->presence_penalty, -DECODE_PENALTY_MAX, DECODE_PENALTY_MAX, false,
         &params->presence_penalty},
        {"sampling.frequency_penalty", "-2 to 2 (0 is off)", input->_frequency_penalty_case != 0,
         input->frequency_penalty, -DECODE_PENALTY_MAX, DECODE_PENALTY_MAX, false,
         &params->frequency_penalty},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        enum status status = real_decode(&table[i], error);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static int entry_compare(const void *a, const void *b)
{
    uint32_t x = ((const struct sample_entry *)a)->id, y = ((const struct sample_entry *)b)->id;
    return (x > y) - (x < y);
}

static enum status bias_decode(const Galerne__V1__LogitBias *input, size_t index, uint32_t vocab,
                               struct sample_entry *ret_bias, struct error *error)
{
    char field[sizeof error->field];
    if (input->id >= vocab) {
        snprintf(field, sizeof field, "sampling.logit_bias[%zu].id", index);
        return error_field(error, field,
                           "token id %" PRIu32 " is out of range: the model has ids 0 to %" PRIu32,
                           input->id, vocab - 1);
    }
    if (!isfinite(input->value) || fabsf(input->value) > DECODE_LOGIT_BIAS_MAX) {
        snprintf(field, sizeof field, "sampling.logit_bias[%zu].value", index);
        return error_field(error, field, "is %g: expected -100 to 100", (double)input->value);
    }
    *ret_bias = (struct sample_entry){.id = input->id, .value = input->value};
    return STATUS_OK;
}

/* Sorted by id, which shows an id that is there twice. */
static enum status biases_decode(const Galerne__V1__Sampling *input, struct arena *arena,
                                 struct request *request, struct error *error)
{
    size_t n = input->n_logit_bias;
    if (n == 0)
        return STATUS_OK;
    if (n > SAMPLE_BIASES_MAX)
        return error_field(error, "sampling.logit_bias", "has %zu tokens and may have %d", n,
                           SAMPLE_BIASES_MAX);
    struct sample_entry *biases = arena_alloc(arena, n * sizeof *biases);
    if (!biases)
        return error_set(error, STATUS_EXHAUSTED, "the call needs more memory than it may");
    for (size_t i = 0; i < n; i++) {
        enum status status = bias_decode(input->logit_bias[i], i, request->model->plan.arch.vocab,
                                         &biases[i], error);
        if (status != STATUS_OK)
            return status;
    }
    qsort(biases, n, sizeof *biases, entry_compare);
    for (size_t i = 1; i < n; i++)
        if (biases[i].id == biases[i - 1].id)
            return error_field(error, "sampling.logit_bias",
                               "has token id %" PRIu32 " twice: give one value for each token",
                               biases[i].id);
    request->biases = biases;
    request->sampling.n_biases = (uint32_t)n;
    return STATUS_OK;
}

static enum status sampling_decode(const Galerne__V1__Sampling *input, struct arena *arena,
                                   struct request *request, struct error *error)
{
    struct sample_params *params = &request->sampling;
    params->top_p = 1;
    if (!input)
        return STATUS_OK;
    enum status status = reals_decode(input, params, error);
    if (status == STATUS_OK)
        status = biases_decode(input, arena, request, error);
    if (status != STATUS_OK)
        return status;
    if (input->_top_k_case == GALERNE__V1__SAMPLING___TOP_K_TOP_K)
        params->top_k = input->top_k;
    if (input->_seed_case == GALERNE__V1__SAMPLING___SEED_SEED)
        params->seed = input->seed;
    else if (params->temperature > 0 &&
             getrandom(&params->seed, sizeof params->seed, 0) != (ssize_t)sizeof params->seed)
        return error_set(error, STATUS_INTERNAL, "no seed could be drawn");
    return STATUS_OK;
}

static enum status limits_decode(const Galerne__V1__GenerateRequest *input, struct request *request,
                                 struct error *error)
{
    if (input->_max_tokens_case == GALERNE__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS) {
        uint32_t context = request->model->context_tokens;
        if (input->max_tokens == 0 || input->max_tokens > context)
            return error_field(error, "max_tokens",
                               "is %" PRIu32 ": expected 1 to what the prompt leaves of the "
                               "model's context of %" PRIu32 " tokens",
                               input->max_tokens, context);
        request->output_tokens_max = input->max_tokens;
    }
    if (input->_min_tokens_case == GALERNE__V1__GENERATE_REQUEST___MIN_TOKENS_MIN_TOKENS) {
        uint32_t most = request->output_tokens_max ? request->output_tokens_max
                                                   : request->model->context_tokens;
        if (input->min_tokens > most)
            return error_field(error, "min_tokens",
                               "is %" PRIu32 ": expected 0 to %" PRIu32 ", which is %s",
                               input->min_tokens, most,
                               request->output_tokens_max ? "max_tokens" : "the model's context");
        request->sampling.min_tokens = input->min_tokens;
    }
    request->ignore_eos = input->ignore_eos;
    request->sampling.logprob_off = 1;
    if (input->_logprobs_case == GALERNE__V1__GENERATE_REQUEST___LOGPROBS_LOGPROBS) {
        if (input->logprobs > TOP_LOGPROBS_MAX)
            return error_field(error, "logprobs", "is %" PRIu32 ": expected 0 to %d",
                               input->logprobs, TOP_LOGPROBS_MAX);
        request->wants_logprobs = true;
        request->sampling.logprob_off = 0;
        request->sampling.n_logprobs = input->logprobs;
    }
    return STATUS_OK;
}

/* Each choice takes a place among the requests, and one in the model's queue. */
static enum status choices_decode(const struct front *front,
                                  const Galerne__V1__GenerateRequest *input,
                                  struct request *request, struct error *error)
{
    uint32_t places = u32_min(front->config->requests_max, request->model->config->waiting_max);
    if (input->_n_case != GALERNE__V1__GENERATE_REQUEST___N_N)
        return STATUS_OK;
    if (input->n == 0 || input->n > REQUEST_CHOICES_MAX)
        return error_field(error, "n", "is %" PRIu32 ": expected 1 to %d", input->n,
                           REQUEST_CHOICES_MAX);
    if (input->n > places)
        return error_field(error, "n",
                           "is %" PRIu32 ": the daemon has places for %" PRIu32
                           " requests of this model, and each choice needs one: lower n",
                           input->n, places);
    request->n_choices = input->n;
    return STATUS_OK;
}

static enum status stops_decode(const Galerne__V1__GenerateRequest *input, struct arena *arena,
                                struct request *request, struct error *error)
{
    struct span stops[STOP_STRINGS_MAX];
    if (input->n_stop == 0)
        return STATUS_OK;
    if (input->n_stop > STOP_STRINGS_MAX)
        return error_field(error, "stop", "has %zu strings and may have %d", input->n_stop,
                           STOP_STRINGS_MAX);
    for (size_t i = 0; i < input->n_stop; i++) {
        stops[i] = span_of(input->stop[i]);
        if (stops[i].size_bytes == 0 || stops[i].size_bytes > STOP_STRING_MAX_BYTES) {
            char field[sizeof error->field];
            snprintf(field, sizeof field, "stop[%zu]", i);
            return error_field(error, field, "has %zu bytes: expected 1 to %d", stops[i].size_bytes,
                               STOP_STRING_MAX_BYTES);
        }
    }
    struct stop_set *set = arena_alloc(arena, sizeof *set);
    if (!set)
        return error_set(error, STATUS_EXHAUSTED, "the call needs more memory than it may");
    request->stops = set;
    return stop_set_compile(stops, input->n_stop, set, error);
}

static enum status stop_ids_decode(const Galerne__V1__GenerateRequest *input,
                                   struct request *request, struct error *error)
{
    uint32_t vocab = request->model->plan.arch.vocab;
    if (input->n_stop_token_ids > REQUEST_STOP_IDS_MAX)
        return error_field(error, "stop_token_ids", "has %zu ids and may have %d",
                           input->n_stop_token_ids, REQUEST_STOP_IDS_MAX);
    for (size_t i = 0; i < input->n_stop_token_ids; i++) {
        if (input->stop_token_ids[i] >= vocab)
            return error_field(error, "stop_token_ids",
                               "token id %" PRIu32 " at index %zu is out of range: the model has "
                               "ids 0 to %" PRIu32,
                               input->stop_token_ids[i], i, vocab - 1);
        request->stop_ids[i] = input->stop_token_ids[i];
    }
    request->n_stop_ids = (uint32_t)input->n_stop_token_ids;
    return STATUS_OK;
}

static enum status name_decode(const char *name, struct request *request, struct error *error)
{
    size_t size_bytes = strlen(name);
    if (size_bytes > REQUEST_NAME_MAX_BYTES)
        return error_field(error, "request_id", "has %zu bytes and may have %d", size_bytes,
                           REQUEST_NAME_MAX_BYTES);
    for (size_t i = 0; i < size_bytes; i++)
        if (name[i] < 0x20 || name[i] > 0x7e)
            return error_field(error, "request_id",
                               "byte %zu is not printable ASCII, which is all it may have", i);
    if (size_bytes) /* else the listener has made one */
        memcpy(request->name, name, size_bytes + 1);
    return STATUS_OK;
}

static enum status priority_decode(Galerne__V1__Priority priority, struct request *request,
                                   struct error *error)
{
    switch (priority) {
    case GALERNE__V1__PRIORITY__PRIORITY_UNSPECIFIED:
        request->class = CLASS_DEFAULT;
        return STATUS_OK;
    case GALERNE__V1__PRIORITY__PRIORITY_INTERACTIVE:
        request->class = CLASS_INTERACTIVE;
        return STATUS_OK;
    case GALERNE__V1__PRIORITY__PRIORITY_BATCH:
        request->class = CLASS_BATCH;
        return STATUS_OK;
    default:
        return error_field(error, "priority",
                           "is %d: expected PRIORITY_INTERACTIVE (1) or PRIORITY_BATCH (2)",
                           (int)priority);
    }
}

static enum status generate_prompt_decode(const Galerne__V1__GenerateRequest *input,
                                          struct arena *arena, struct prompt *ret_prompt,
                                          struct error *error)
{
    switch (input->prompt_case) {
    case GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT:
        return text_decode(input->text, true, ret_prompt, error);
    case GALERNE__V1__GENERATE_REQUEST__PROMPT_CHAT:
        return chat_decode(input->chat, arena, ret_prompt, error);
    case GALERNE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS:
        if (input->token_ids->n_ids == 0)
            return error_field(error, "token_ids.ids",
                               "the prompt is empty: give at least one token id");
        *ret_prompt = (struct prompt){.kind = PROMPT_TOKENS,
                                      .ids = input->token_ids->ids,
                                      .n_ids = (uint32_t)input->token_ids->n_ids};
        return STATUS_OK;
    default:
        return prompt_missing("text, chat, token_ids", error);
    }
}

enum status decode_generate(struct front *front, const Galerne__V1__GenerateRequest *input,
                            struct arena *arena, struct request *request, struct error *error)
{
    request->kind = REQUEST_GENERATE;
    enum status status = decode_model(front, "model", input->model, &request->model, error);
    if (status == STATUS_OK)
        status = name_decode(input->request_id, request, error);
    if (status == STATUS_OK)
        status = generate_prompt_decode(input, arena, &request->prompt, error);
    if (status == STATUS_OK)
        status = sampling_decode(input->sampling, arena, request, error);
    if (status == STATUS_OK)
        status = limits_decode(input, request, error);
    if (status == STATUS_OK)
        status = stops_decode(input, arena, request, error);
    if (status == STATUS_OK)
        status = stop_ids_decode(input, request, error);
    if (status == STATUS_OK)
        status = priority_decode(input->priority, request, error);
    if (status == STATUS_OK)
        status = choices_decode(front, input, request, error);
    return status;
}

/* ---- the text methods ---- */

enum status decode_tokenize(struct front *front, const Galerne__V1__TokenizeRequest *input,
                            struct arena *arena, struct request *request, struct error *error)
{
    bool add_special =
        input->_add_special_case != GALERNE__V1__TOKENIZE_REQUEST___ADD_SPECIAL_ADD_SPECIAL ||
        input->add_special;
    request->kind = REQUEST_TOKENIZE;
    enum status status = decode_model(front, "model", input->model, &request->model, error);
    if (status != STATUS_OK)
        return status;
    switch (input->prompt_case) {
    case GALERNE__V1__TOKENIZE_REQUEST__PROMPT_TEXT:
        return text_decode(input->text, add_special, &request->prompt, error);
    case GALERNE__V1__TOKENIZE_REQUEST__PROMPT_CHAT:
        return chat_decode(input->chat, arena, &request->prompt, error);
    default:
        return prompt_missing("text, chat", error);
    }
}

enum status decode_count_tokens(struct front *front, const Galerne__V1__CountTokensRequest *input,
                                struct arena *arena, struct request *request, struct error *error)
{
    request->kind = REQUEST_TOKENIZE;
    enum status status = decode_model(front, "model", input->model, &request->model, error);
    if (status != STATUS_OK)
        return status;
    switch (input->prompt_case) {
    case GALERNE__V1__COUNT_TOKENS_REQUEST__PROMPT_TEXT:
        return text_decode(input->text, true, &request->prompt, error);
    case GALERNE__V1__COUNT_TOKENS_REQUEST__PROMPT_CHAT:
        return chat_decode(input->chat, arena, &request->prompt, error);
    default:
        return prompt_missing("text, chat", error);
    }
}

enum status decode_detokenize(struct front *front, const Galerne__V1__DetokenizeRequest *input,
                              struct request *request, struct error *error)
{
    request->kind = REQUEST_DETOKENIZE;
    enum status status = decode_model(front, "model", input->model, &request->model, error);
    if (status != STATUS_OK)
        return status;
    request->prompt =
        (struct prompt){.kind = PROMPT_TOKENS, .ids = input->ids, .n_ids = (uint32_t)input->n_ids};
    request->with_special =
        input->_with_special_case == GALERNE__V1__DETOKENIZE_REQUEST___WITH_SPECIAL_WITH_SPECIAL &&
        input->with_special;
    return STATUS_OK;
}
