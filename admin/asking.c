#include "admin/asking.h"

#include <errno.h>
#include <math.h>

#include "admin/message_json.h"
#include "admin/output.h"
#include "base/clock.h"

#define LOGIT_BIASES_MAX 300

struct asking asking = {
    .temperature = NAN,
    .top_p = NAN,
    .min_p = NAN,
    .repetition_penalty = NAN,
    .presence_penalty = NAN,
    .frequency_penalty = NAN,
    .seed = UINT64_MAX,
    .top_k = UINT32_MAX,
    .logprobs = UINT32_MAX}; /* none of these is a value that a row accepts: not given */

#define AT(member) .offset = offsetof(struct asking, member), .size_bytes = sizeof asking.member

const struct option_row asking_rows[] = {
    {"model", OPTION_TEXT, AT(model), .letter = 'm', .value = "NAME",
     .fallback_text = "the only one", .text = "Which model."},
    {"system", OPTION_TEXT, AT(system), .value = "TEXT",
     .text = "A system turn before all others; generate: implies --chat."},
    {"max-tokens", OPTION_U32, AT(max_tokens), .letter = 'n', .value = "N", .min = 1,
     .max = 1u << 24, .fallback_text = "what the context leaves",
     .text = "Most tokens to generate."},
    {"min-tokens", OPTION_U32, AT(min_tokens), .value = "N", .min = 0, .max = 1u << 24,
     .fallback_text = "0", .text = "No end token before so many tokens."},
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
    {"stats", OPTION_BOOL, AT(stats),
     .text = "Time to first token, tokens/s and counts, on standard error at the end."},
    /* generate alone */
    {"chat", OPTION_BOOL, AT(chat), .letter = 'c',
     .text = "The prompt is a user's turn, in the model's template."},
    {"ignore-eos", OPTION_BOOL, AT(ignore_eos),
     .text = "The model's own end tokens do not end it."},
    {"logprobs", OPTION_U32, AT(logprobs), .value = "K", .min = 0, .max = 20,
     .text = "Print a line for each token: id, log-probability, text, and the K best."},
    {"ids", OPTION_BOOL, AT(ids), .text = "Print a line for each token: id and text."},
    {"token-ids", OPTION_TEXT, AT(token_ids), .value = "1,2,3",
     .text = "The prompt as token ids, instead of a text."},
    {"choices", OPTION_U32, AT(choices), .value = "N", .min = 1, .max = ASKING_CHOICES_MAX,
     .fallback_text = "1", .text = "So many answers to the same prompt."},
    {"batch", OPTION_BOOL, AT(batch), .text = "It is not urgent."},
    {"request-id", OPTION_TEXT, AT(request_id), .value = "NAME",
     .text = "What the daemon's log calls it."},
};
static_assert(array_count(asking_rows) == ASKING_ROWS_ALL, "the number in the header");

/* ---- the answer ---- */

static void token_print(const Galerne__V1__Token *token)
{
    char *text = output_escape((struct span){(const char *)token->bytes.data, token->bytes.len});
    if (asking.choices > 1)
        printf("%2u ", token->choice_index);
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

/* The text as it is shown and copied. */
static bool text_take(struct answer *answer, const char *text)
{
    if (answer->is_trimmed && !answer->has_text)
        text += strspn(text, " \t\r\n");
    if (!text[0])
        return true;
    answer->has_text = true;
    if (answer->copy)
        fputs(text, answer->copy);
    if (answer->as_json)
        return true;
    answer->ends_line = text[strlen(text) - 1] == '\n';
    return output_text(span_of(text));
}

/* ---- several choices ---- */

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
    case GALERNE__V1__FINISH_REASON__FINISH_REASON_QUOTA:
        return "quota";
    default:
        return "none";
    }
}

static bool choice_keep(struct answer_choice *choice, const char *text)
{
    if (!choice->stream)
        choice->stream = open_memstream(&choice->text, &choice->text_bytes);
    return choice->stream && fputs(text, choice->stream) >= 0;
}

static bool choice_show(const struct answer *answer, uint32_t index)
{
    const struct answer_choice *choice = &answer->choices[index];
    printf("%schoice %u, %s:\n", index ? "\n" : "", index, finish_text(choice->finish));
    if (!choice->stream || fflush(choice->stream) != 0 || choice->text_bytes == 0)
        return true;
    bool good = output_text((struct span){choice->text, choice->text_bytes});
    if (choice->text[choice->text_bytes - 1] != '\n')
        putchar('\n');
    return good;
}

/* In their order, as far as they have ended; `all`: whether they have or not. */
static bool choices_show(struct answer *answer, bool all)
{
    bool good = true;
    while (good && answer->n_shown < answer->n_choices &&
           (all || answer->choices[answer->n_shown].finish))
        good = choice_show(answer, answer->n_shown++);
    return good;
}

void answer_close(struct answer *answer)
{
    bool as_text = !answer->as_json && !asking.ids && asking.logprobs == UINT32_MAX;
    bool has_any = answer->first_ns != 0; /* an error at the start is all there is to say */
    if (answer->n_choices > 1 && as_text && has_any)
        choices_show(answer, true);
    for (uint32_t i = 0; i < ASKING_CHOICES_MAX; i++) {
        if (answer->choices[i].stream)
            fclose(answer->choices[i].stream);
        free(answer->choices[i].text);
        answer->choices[i].stream = NULL;
        answer->choices[i].text = NULL;
    }
}

/* ---- messages ---- */

static bool part_take(struct answer *answer, const Galerne__V1__Choice *part)
{
    if (answer->n_choices <= 1)
        return text_take(answer, part->text);
    if (part->choice_index >= answer->n_choices)
        return true; /* a daemon that counts otherwise */
    return answer->as_json || choice_keep(&answer->choices[part->choice_index], part->text);
}

static bool message_print(struct answer *answer, const Galerne__V1__GenerateResponse *message)
{
    bool as_lines = !answer->as_json && (asking.ids || asking.logprobs != UINT32_MAX);
    if (answer->as_json) {
        json_t *value = message_json(&message->base);
        bool good = output_json(value, false);
        json_decref(value);
        if (!good)
            return false;
    }
    for (size_t i = 0; as_lines && i < message->n_tokens; i++)
        token_print(message->tokens[i]);
    for (size_t i = 0; !as_lines && i < message->n_choices; i++)
        if (!part_take(answer, message->choices[i]))
            return false;
    if (answer->n_choices > 1 && !answer->as_json && !as_lines && !choices_show(answer, false))
        return false;
    return fflush(stdout) == 0;
}

bool answer_take(void *context, const ProtobufCMessage *untyped)
{
    struct answer *answer = context;
    const Galerne__V1__GenerateResponse *message = (const Galerne__V1__GenerateResponse *)untyped;
    if (message->n_tokens) {
        answer->last_ns = clock_now_ns();
        if (!answer->first_ns)
            answer->first_ns = answer->last_ns;
        answer->tokens += (uint32_t)message->n_tokens;
    }
    for (size_t i = 0; i < message->n_choices; i++) {
        const Galerne__V1__Choice *part = message->choices[i];
        if (part->finish_reason && part->choice_index < ASKING_CHOICES_MAX)
            answer->choices[part->choice_index].finish = part->finish_reason;
    }
    answer->finish = answer->choices[0].finish;
    if (message->usage)
        answer->usage = *message->usage;
    return message_print(answer, message);
}

/* Tokens/s is over the whole call, prompt included: a short answer may come in one message, and a
 * rate between messages would say nothing. */
void answer_stats(const struct answer *answer)
{
    if (!answer->first_ns) {
        fprintf(stderr, "no token\n");
        return;
    }
    double first_ms = (double)(answer->first_ns - answer->asked_ns) / 1e6;
    double whole_s = (double)(answer->last_ns - answer->asked_ns) / 1e9;
    fprintf(stderr, "time to first token %.1f ms, %.1f tokens/s", first_ms,
            answer->tokens / whole_s);
    fprintf(stderr, ", prompt %u tokens, output %u tokens, finish", answer->usage.prompt_tokens,
            answer->usage.output_tokens);
    for (uint32_t i = 0; i == 0 || i < answer->n_choices; i++)
        fprintf(stderr, "%s %s", i ? "," : "", finish_text(answer->choices[i].finish));
    fputc('\n', stderr);
}

/* ---- the request ---- */

/* What --logit-bias says. */
static struct {
    size_t n;
    Galerne__V1__LogitBias items[LOGIT_BIASES_MAX], *rows[LOGIT_BIASES_MAX]; /* [n] */
} biases;

static int biases_parse(const struct command *command, const char *text)
{
    for (;; text++) {
        char *end = NULL;
        errno = 0;
        unsigned long long id = strtoull(text, &end, 10);
        bool good = *text >= '0' && *text <= '9' && !errno && id <= UINT32_MAX && *end == '=';
        const char *value = good ? end + 1 : text;
        double bias = good ? strtod(value, &end) : 0;
        if (!good || end == value || !isfinite(bias) || (*end && *end != ','))
            return command_misuse(command,
                                  "--logit-bias: expected ID=VALUE with commas between, got "
                                  "\"%.40s\"",
                                  text);
        if (biases.n == LOGIT_BIASES_MAX)
            return command_misuse(command, "--logit-bias: expected at most %d", LOGIT_BIASES_MAX);
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

int asking_check(const struct command *command)
{
    return asking.logit_bias ? biases_parse(command, asking.logit_bias) : EXIT_CODE_OK;
}

static void penalties_fill(Galerne__V1__Sampling *sampling)
{
    if (!isnan(asking.min_p)) {
        sampling->_min_p_case = GALERNE__V1__SAMPLING___MIN_P_MIN_P;
        sampling->min_p = (float)asking.min_p;
    }
    if (!isnan(asking.repetition_penalty)) {
        sampling->_repetition_penalty_case =
            GALERNE__V1__SAMPLING___REPETITION_PENALTY_REPETITION_PENALTY;
        sampling->repetition_penalty = (float)asking.repetition_penalty;
    }
    if (!isnan(asking.presence_penalty)) {
        sampling->_presence_penalty_case =
            GALERNE__V1__SAMPLING___PRESENCE_PENALTY_PRESENCE_PENALTY;
        sampling->presence_penalty = (float)asking.presence_penalty;
    }
    if (!isnan(asking.frequency_penalty)) {
        sampling->_frequency_penalty_case =
            GALERNE__V1__SAMPLING___FREQUENCY_PENALTY_FREQUENCY_PENALTY;
        sampling->frequency_penalty = (float)asking.frequency_penalty;
    }
}

static void sampling_fill(Galerne__V1__GenerateRequest *request, Galerne__V1__Sampling *sampling)
{
    request->sampling = sampling;
    sampling->n_logit_bias = biases.n;
    sampling->logit_bias = biases.rows;
    penalties_fill(sampling);
    if (!isnan(asking.temperature)) {
        sampling->_temperature_case = GALERNE__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
        sampling->temperature = (float)asking.temperature;
    }
    if (!isnan(asking.top_p)) {
        sampling->_top_p_case = GALERNE__V1__SAMPLING___TOP_P_TOP_P;
        sampling->top_p = (float)asking.top_p;
    }
    if (asking.top_k != UINT32_MAX) {
        sampling->_top_k_case = GALERNE__V1__SAMPLING___TOP_K_TOP_K;
        sampling->top_k = asking.top_k;
    }
    if (asking.seed != UINT64_MAX) {
        sampling->_seed_case = GALERNE__V1__SAMPLING___SEED_SEED;
        sampling->seed = asking.seed;
    }
}

static void limits_fill(Galerne__V1__GenerateRequest *request)
{
    if (asking.max_tokens) {
        request->_max_tokens_case = GALERNE__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
        request->max_tokens = asking.max_tokens;
    }
    if (asking.min_tokens) {
        request->_min_tokens_case = GALERNE__V1__GENERATE_REQUEST___MIN_TOKENS_MIN_TOKENS;
        request->min_tokens = asking.min_tokens;
    }
    if (asking.choices) {
        request->_n_case = GALERNE__V1__GENERATE_REQUEST___N_N;
        request->n = asking.choices;
    }
    request->ignore_eos = asking.ignore_eos;
    if (asking.logprobs != UINT32_MAX) {
        request->_logprobs_case = GALERNE__V1__GENERATE_REQUEST___LOGPROBS_LOGPROBS;
        request->logprobs = asking.logprobs;
    }
    request->n_stop = asking.stops.count;
    request->stop = (char **)(uintptr_t)asking.stops.items;
    if (asking.batch)
        request->priority = GALERNE__V1__PRIORITY__PRIORITY_BATCH;
    if (asking.request_id)
        request->request_id = (char *)(uintptr_t)asking.request_id;
}

void asking_fill(Galerne__V1__GenerateRequest *request, Galerne__V1__Sampling *sampling)
{
    sampling_fill(request, sampling);
    limits_fill(request);
}
