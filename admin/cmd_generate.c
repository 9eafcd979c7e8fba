#include <errno.h>
#include <math.h>

#include "admin/command.h"
#include "admin/message_json.h"
#include "admin/output.h"
#include "base/clock.h"
#include "proto/inference.pb-c.h"

#define TOKEN_IDS_MAX 65536
#define LOGIT_BIASES_MAX 300

static struct {
    const char *model;
    const char *system;
    const char *token_ids;
    const char *logit_bias;
    const char *request_id;
    struct option_texts stops;
    double temperature, top_p, min_p;
    double repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    uint32_t top_k, max_tokens, min_tokens, logprobs;
    bool chat, batch, ids, stats, ignore_eos;
} wish = {.temperature = NAN,
          .top_p = NAN,
          .min_p = NAN,
          .repetition_penalty = NAN,
          .presence_penalty = NAN,
          .frequency_penalty = NAN,
          .seed = UINT64_MAX,
          .top_k = UINT32_MAX,
          .logprobs = UINT32_MAX}; /* none of these is a value that a row accepts: not given */

#define AT(member) .offset = offsetof(typeof(wish), member), .size_bytes = sizeof wish.member

static const struct option_row rows[] = {
    {"model", OPTION_TEXT, AT(model), .letter = 'm', .value = "NAME",
     .fallback_text = "the only one", .text = "Which model."},
    {"chat", OPTION_BOOL, AT(chat), .letter = 'c',
     .text = "The prompt is a user's turn, in the model's template."},
    {"system", OPTION_TEXT, AT(system), .value = "TEXT",
     .text = "A system turn before it; implies --chat."},
    {"max-tokens", OPTION_U32, AT(max_tokens), .letter = 'n', .value = "N", .min = 1,
     .max = 1u << 24, .fallback_text = "what the context leaves",
     .text = "Most tokens to generate."},
    {"min-tokens", OPTION_U32, AT(min_tokens), .value = "N", .min = 0, .max = 1u << 24,
     .fallback_text = "0", .text = "No end token before so many tokens."},
    {"ignore-eos", OPTION_BOOL, AT(ignore_eos),
     .text = "The model's own end tokens do not end it."},
    {"temperature", OPTION_REAL, AT(temperature), .letter = 't', .value = "X", .real_min = 0,
     .real_max = 100, .fallback_text = "0, the most probable token", .text = "How much chance."},
    {"top-k", OPTION_U32, AT(top_k), .value = "K", .min = 0, .max = 1u << 24,
     .fallback_text = "0, all", .text = "Draw from the K most probable tokens."},
    {"top-p", OPTION_REAL, AT(top_p), .value = "P", .real_min = 1e-6, .real_max = 1,
     .fallback_text = "1", .text = "Draw from the most probable tokens that together reach P."},
    {"min-p", OPTION_REAL, AT(min_p), .value = "P", .real_min = 0, .real_max = 1,
     .fallback_text = "0, all",
     .text = "Draw from tokens at least P times as probable as the most probable one."},
    {"repetition-penalty", OPTION_REAL, AT(repetition_penalty), .value = "X", .real_min = 1e-6,
     .real_max = 10, .fallback_text = "1, off",
     .text = "Make tokens of the prompt and the output less likely (above 1) or more (below)."},
    {"presence-penalty", OPTION_REAL, AT(presence_penalty), .value = "X", .real_min = -2,
     .real_max = 2, .fallback_text = "0", .text = "Off the logit of tokens that the output has."},
    {"frequency-penalty", OPTION_REAL, AT(frequency_penalty), .value = "X", .real_min = -2,
     .real_max = 2, .fallback_text = "0",
     .text = "Off the logit of tokens for each time that the output has them."},
    {"logit-bias", OPTION_TEXT, AT(logit_bias), .value = "ID=X,ID=X",
     .text = "Add X (-100 to 100) to the logits of these tokens; up to 300."},
    {"seed", OPTION_U64, AT(seed), .value = "N", .min = 0, .max = UINT64_MAX - 1,
     .fallback_text = "drawn by the daemon", .text = "The same seed gives the same tokens."},
    {"stop", OPTION_TEXTS, AT(stops), .value = "TEXT",
     .text = "End before this text; up to 16 times."},
    {"logprobs", OPTION_U32, AT(logprobs), .value = "K", .min = 0, .max = 20,
     .text = "Print a line for each token: id, log-probability, text, and the K best."},
    {"ids", OPTION_BOOL, AT(ids), .text = "Print a line for each token: id and text."},
    {"token-ids", OPTION_TEXT, AT(token_ids), .value = "1,2,3",
     .text = "The prompt as token ids, instead of a text."},
    {"batch", OPTION_BOOL, AT(batch), .text = "It is not urgent."},
    {"request-id", OPTION_TEXT, AT(request_id), .value = "NAME",
     .text = "What the daemon's log calls it."},
    {"stats", OPTION_BOOL, AT(stats),
     .text = "Time to first token, tokens/s and counts, on standard error at the end."},
};

/* What has come of the answer. */
struct answer {
    bool as_json;
    uint64_t asked_ns, first_ns, last_ns;
    uint32_t tokens;
    bool ends_line; /* the text so far ends with a line feed, or there is none */
    Galerne__V1__FinishReason finish;
    Galerne__V1__Usage usage;
};

/* ---- printing ---- */

static void token_print(const Galerne__V1__Token *token)
{
    char *text = output_escape((struct span){(const char *)token->bytes.data, token->bytes.len});
    printf("%6u", token->id);
    if (token->_logprob_case)
        printf("  %9.4f", (double)token->logprob);
    printf("  \"%s\"", text);
    free(text);
    for (size_t i = 0; i < token->n_top_logprobs; i++) {
        const Galerne__V1__TokenLogprob *top = token->top_logprobs[i];
        text = output_escape((struct span){(const char *)top->bytes.data, top->bytes.len});
        printf("%s %u \"%s\" %.4f", i ? "," : "  |", top->id, text, (double)top->logprob);
        free(text);
    }
    putchar('\n');
}

static bool message_print(struct answer *answer, const Galerne__V1__GenerateResponse *message)
{
    if (answer->as_json) {
        json_t *value = message_json(&message->base);
        bool good = output_json(value, false);
        json_decref(value);
        return good;
    }
    if (wish.ids || wish.logprobs != UINT32_MAX) {
        for (size_t i = 0; i < message->n_tokens; i++)
            token_print(message->tokens[i]);
        return fflush(stdout) == 0;
    }
    for (size_t i = 0; i < message->n_choices; i++) {
        const char *text = message->choices[i]->text;
        if (!text[0])
            continue;
        answer->ends_line = text[strlen(text) - 1] == '\n';
        if (!output_text(span_of(text)))
            return false;
    }
    return true;
}

static bool take(void *context, const ProtobufCMessage *untyped)
{
    struct answer *answer = context;
    const Galerne__V1__GenerateResponse *message = (const Galerne__V1__GenerateResponse *)untyped;
    if (message->n_tokens) {
        answer->last_ns = clock_now_ns();
        if (!answer->first_ns)
            answer->first_ns = answer->last_ns;
        answer->tokens += (uint32_t)message->n_tokens;
    }
    for (size_t i = 0; i < message->n_choices; i++)
        if (message->choices[i]->finish_reason)
            answer->finish = message->choices[i]->finish_reason;
    if (message->usage)
        answer->usage = *message->usage;
    return message_print(answer, message);
}

static const char *finish_text(Galerne__V1__FinishReason finish)
{
    switch ((int)finish) {
    case GALERNE__V1__FINISH_REASON__FINISH_REASON_STOP:
        return "stop";
    case GALERNE__V1__FINISH_REASON__FINISH_REASON_LENGTH:
        return "length";
    case GALERNE__V1__FINISH_REASON__FINISH_REASON_CANCELLED:
        return "cancelled";
    case GALERNE__V1__FINISH_REASON__FINISH_REASON_ERROR:
        return "error";
    default:
        return "none";
    }
}

/* Tokens/s is over the whole call, prompt included: a short answer may come in one message, and a
 * rate between messages would say nothing. */
static void stats_print(const struct answer *answer)
{
    if (!answer->first_ns) {
        fprintf(stderr, "no token\n");
        return;
    }
    double first_ms = (double)(answer->first_ns - answer->asked_ns) / 1e6;
    double whole_s = (double)(answer->last_ns - answer->asked_ns) / 1e9;
    fprintf(stderr, "time to first token %.1f ms, %.1f tokens/s", first_ms,
            answer->tokens / whole_s);
    fprintf(stderr, ", prompt %u tokens, output %u tokens, finish %s\n",
            answer->usage.prompt_tokens, answer->usage.output_tokens, finish_text(answer->finish));
}

/* ---- asking ---- */

static int ids_parse(const char *text, Galerne__V1__TokenIds *ids)
{
    ids->ids = calloc(TOKEN_IDS_MAX, sizeof *ids->ids);
    CHECK(ids->ids != NULL);
    for (;;) {
        char *end;
        errno = 0;
        unsigned long long id = strtoull(text, &end, 10);
        if (*text < '0' || *text > '9' || errno || id > UINT32_MAX || (*end && *end != ','))
            return command_misuse(
                &command_generate,
                "--token-ids: expected numbers with commas between, got \"%.40s\"", text);
        if (ids->n_ids == TOKEN_IDS_MAX)
            return command_misuse(&command_generate, "--token-ids: expected at most %d",
                                  TOKEN_IDS_MAX);
        ids->ids[ids->n_ids++] = (uint32_t)id;
        if (!*end)
            return EXIT_CODE_OK;
        text = end + 1;
    }
}

/* What --logit-bias says. */
static struct {
    size_t n;
    Galerne__V1__LogitBias items[LOGIT_BIASES_MAX], *rows[LOGIT_BIASES_MAX]; /* [n] */
} biases;

static int biases_parse(const char *text)
{
    for (;; text++) {
        char *end = NULL;
        errno = 0;
        unsigned long long id = strtoull(text, &end, 10);
        bool good = *text >= '0' && *text <= '9' && !errno && id <= UINT32_MAX && *end == '=';
        const char *value = good ? end + 1 : text;
        double bias = good ? strtod(value, &end) : 0;
        if (!good || end == value || !isfinite(bias) || (*end && *end != ','))
            return command_misuse(&command_generate,
                                  "--logit-bias: expected ID=VALUE with commas between, got "
                                  "\"%.40s\"",
                                  text);
        if (biases.n == LOGIT_BIASES_MAX)
            return command_misuse(&command_generate, "--logit-bias: expected at most %d",
                                  LOGIT_BIASES_MAX);
        Galerne__V1__LogitBias *row = &biases.items[biases.n];
        galerne__v1__logit_bias__init(row);
        row->id = (uint32_t)id;
        row->value = (float)bias;
        biases.rows[biases.n++] = row;
        text = end;
        if (!*text)
            return EXIT_CODE_OK;
    }
}

static void penalties_fill(Galerne__V1__Sampling *sampling)
{
    if (!isnan(wish.min_p)) {
        sampling->_min_p_case = GALERNE__V1__SAMPLING___MIN_P_MIN_P;
        sampling->min_p = (float)wish.min_p;
    }
    if (!isnan(wish.repetition_penalty)) {
        sampling->_repetition_penalty_case =
            GALERNE__V1__SAMPLING___REPETITION_PENALTY_REPETITION_PENALTY;
        sampling->repetition_penalty = (float)wish.repetition_penalty;
    }
    if (!isnan(wish.presence_penalty)) {
        sampling->_presence_penalty_case =
            GALERNE__V1__SAMPLING___PRESENCE_PENALTY_PRESENCE_PENALTY;
        sampling->presence_penalty = (float)wish.presence_penalty;
    }
    if (!isnan(wish.frequency_penalty)) {
        sampling->_frequency_penalty_case =
            GALERNE__V1__SAMPLING___FREQUENCY_PENALTY_FREQUENCY_PENALTY;
        sampling->frequency_penalty = (float)wish.frequency_penalty;
    }
}

static void sampling_fill(Galerne__V1__Sampling *sampling, Galerne__V1__GenerateRequest *request)
{
    request->sampling = sampling;
    sampling->n_logit_bias = biases.n;
    sampling->logit_bias = biases.rows;
    penalties_fill(sampling);
    if (!isnan(wish.temperature)) {
        sampling->_temperature_case = GALERNE__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
        sampling->temperature = (float)wish.temperature;
    }
    if (!isnan(wish.top_p)) {
        sampling->_top_p_case = GALERNE__V1__SAMPLING___TOP_P_TOP_P;
        sampling->top_p = (float)wish.top_p;
    }
    if (wish.top_k != UINT32_MAX) {
        sampling->_top_k_case = GALERNE__V1__SAMPLING___TOP_K_TOP_K;
        sampling->top_k = wish.top_k;
    }
    if (wish.seed != UINT64_MAX) {
        sampling->_seed_case = GALERNE__V1__SAMPLING___SEED_SEED;
        sampling->seed = wish.seed;
    }
}

static void limits_fill(Galerne__V1__GenerateRequest *request)
{
    if (wish.max_tokens) {
        request->_max_tokens_case = GALERNE__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
        request->max_tokens = wish.max_tokens;
    }
    if (wish.min_tokens) {
        request->_min_tokens_case = GALERNE__V1__GENERATE_REQUEST___MIN_TOKENS_MIN_TOKENS;
        request->min_tokens = wish.min_tokens;
    }
    request->ignore_eos = wish.ignore_eos;
    if (wish.logprobs != UINT32_MAX) {
        request->_logprobs_case = GALERNE__V1__GENERATE_REQUEST___LOGPROBS_LOGPROBS;
        request->logprobs = wish.logprobs;
    }
    request->n_stop = wish.stops.count;
    request->stop = (char **)(uintptr_t)wish.stops.items;
    if (wish.batch)
        request->priority = GALERNE__V1__PRIORITY__PRIORITY_BATCH;
    if (wish.request_id)
        request->request_id = (char *)(uintptr_t)wish.request_id;
}

/* The prompt is a text or, when that is NULL, ids. */
static int ask(const struct common *common, char *model, char *prompt, Galerne__V1__TokenIds *ids,
               struct answer *answer)
{
    Galerne__V1__GenerateRequest request = GALERNE__V1__GENERATE_REQUEST__INIT;
    Galerne__V1__Sampling sampling = GALERNE__V1__SAMPLING__INIT;
    Galerne__V1__ChatPrompt chat = GALERNE__V1__CHAT_PROMPT__INIT;
    Galerne__V1__ChatMessage system = GALERNE__V1__CHAT_MESSAGE__INIT;
    Galerne__V1__ChatMessage user = GALERNE__V1__CHAT_MESSAGE__INIT;
    Galerne__V1__ChatMessage *turns[] = {&system, &user};
    struct client_call call = {.method = METHOD_INFERENCE("Generate"),
                               .request = &request.base,
                               .response = &galerne__v1__generate_response__descriptor,
                               .take = take,
                               .context = answer};
    request.model = model;
    if (!prompt) {
        request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        request.token_ids = ids;
    } else if (wish.chat || wish.system) {
        system.role = GALERNE__V1__ROLE__ROLE_SYSTEM;
        system.content = (char *)(uintptr_t)wish.system;
        user.role = GALERNE__V1__ROLE__ROLE_USER;
        user.content = prompt;
        chat.n_messages = wish.system ? 2 : 1;
        chat.messages = turns + (wish.system ? 0 : 1);
        request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_CHAT;
        request.chat = &chat;
    } else {
        request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT;
        request.text = prompt;
    }
    sampling_fill(&sampling, &request);
    limits_fill(&request);
    answer->asked_ns = clock_now_ns();
    return command_call(common, &call);
}

static int run(const struct common *common, const struct words *words)
{
    struct answer answer = {.as_json = common->output == OUTPUT_JSON, .ends_line = true};
    Galerne__V1__TokenIds ids = GALERNE__V1__TOKEN_IDS__INIT;
    char *prompt = NULL, *model = NULL;
    int code;
    if (wish.token_ids && (words->count || wish.chat || wish.system))
        return command_misuse(
            &command_generate,
            "--token-ids is the whole prompt: no text, --chat or --system beside");
    code = wish.token_ids ? ids_parse(wish.token_ids, &ids)
                          : command_prompt(&command_generate, words, &prompt);
    if (code == EXIT_CODE_OK && wish.logit_bias)
        code = biases_parse(wish.logit_bias);
    if (code == EXIT_CODE_OK)
        code = command_model_name(common, wish.model, &model);
    if (code == EXIT_CODE_OK) {
        code = ask(common, model, prompt, &ids, &answer);
        if (!answer.ends_line)
            putchar('\n');
        fflush(stdout);
        if (wish.stats)
            stats_print(&answer);
    }
    free(ids.ids);
    free(prompt);
    free(model);
    return code;
}

const struct command command_generate = {
    .name = "generate",
    .arguments = "PROMPT | -",
    .summary = "let a model go on from a prompt, and print what comes as it comes",
    .text =
        "- reads the prompt from standard input. With --json each message of the stream is one\n"
        "JSON object on a line. Ctrl-C cancels the call (exit code 130).",
    .rows = rows,
    .n_rows = array_count(rows),
    .target = &wish,
    .run = run,
};
