/*
 * A session: a line is a question, the answer comes as it is made, and both are sent along with the
 * next question. A line that begins with "/" is for the session itself. Whatever goes wrong with a
 * question is told and the session goes on; the question is then no part of the conversation.
 */
#include "admin/asking.h"
#include "admin/conversation.h"
#include "admin/line_editor.h"
#include "admin/output.h"
#include "base/clock.h"

struct session {
    const struct common *common;
    struct line_editor *lines;
    struct conversation *turns;
    char *model;
    uint32_t context_tokens;
    int code; /* of the latest that went wrong */
    bool is_interactive, is_over;
};

/* What is neither an answer nor an error. */
static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* ---- a question ---- */

static void end_note(const struct session *session, const struct answer *answer)
{
    uint32_t used = answer->usage.prompt_tokens + answer->usage.output_tokens;
    if (answer->finish == GALERNE__V1__FINISH_REASON__FINISH_REASON_CANCELLED)
        note("(the daemon is stopping: the answer is not whole)");
    if (answer->finish == GALERNE__V1__FINISH_REASON__FINISH_REASON_QUOTA)
        note("(your quota allows no more than these %u tokens: the answer is not whole)",
             answer->usage.output_tokens);
    if (answer->finish != GALERNE__V1__FINISH_REASON__FINISH_REASON_LENGTH)
        return;
    if (used >= session->context_tokens)
        note("(the context of %u tokens is full: the answer is not whole, /reset begins a new"
             " conversation)",
             session->context_tokens);
    else
        note("(the answer has %u tokens, as --max-tokens says: it may not be whole)",
             answer->usage.output_tokens);
}

/* Tells why there is no answer; the question is out of the conversation again. */
static int fail_question(struct session *session, const struct client_call *call,
                         const struct client_failure *failure)
{
    bool may_be_long =
        failure->code == CLIENT_INVALID_ARGUMENT && conversation_count(session->turns) > 1 &&
        (strcmp(failure->field, "prompt") == 0 || strcmp(failure->field, "max_tokens") == 0);
    int code = command_tell(session->common, call, failure);
    if (may_be_long)
        note("  the whole conversation goes with each question: /reset begins a new one");
    conversation_drop_last(session->turns);
    if (session->is_interactive && !ferror(stdout))
        note("  the question is not kept: ask again, or go on");
    return code;
}

/* Ctrl-C: what has come stays, as it is on the screen. */
static int answer_cut(struct session *session, const char *text)
{
    command_interrupted = 0;
    if (text[0])
        conversation_add(session->turns, GALERNE__V1__ROLE__ROLE_ASSISTANT, text);
    else
        conversation_drop_last(session->turns);
    note("(interrupted: %s)", text[0] ? "what has come is kept" : "the question is not kept");
    return EXIT_CODE_INTERRUPTED;
}

/* Fills the request in and waits for the end of the answer, which is in answer->copy too. */
static bool question_send(struct session *session, struct answer *answer, struct client_call *call,
                          struct client_failure *ret_failure, int *ret_code)
{
    Galerne__V1__GenerateRequest request = GALERNE__V1__GENERATE_REQUEST__INIT;
    Galerne__V1__Sampling sampling = GALERNE__V1__SAMPLING__INIT;
    Galerne__V1__ChatPrompt prompt;
    conversation_prompt(session->turns, &prompt);
    request.model = session->model;
    request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_CHAT;
    request.chat = &prompt;
    asking_fill(&request, &sampling);
    call->request = &request.base;
    answer->asked_ns = clock_now_ns();
    bool good = command_try(session->common, call, ret_failure, ret_code);
    call->request = NULL;
    CHECK(fflush(answer->copy) == 0);
    if (!answer->ends_line)
        putchar('\n');
    if (fflush(stdout) != 0)
        session->is_over = true;
    return good;
}

static int question_ask(struct session *session, const char *question)
{
    char *text = NULL;
    size_t size_bytes;
    int code = EXIT_CODE_OK;
    struct client_failure failure;
    struct answer answer = {.as_json = session->common->output == OUTPUT_JSON,
                            .is_trimmed = true,
                            .ends_line = true,
                            .copy = open_memstream(&text, &size_bytes)};
    struct client_call call = {.method = METHOD_INFERENCE("Generate"),
                               .response = &galerne__v1__generate_response__descriptor,
                               .take = answer_take,
                               .context = &answer};
    CHECK(answer.copy != NULL);
    conversation_add(session->turns, GALERNE__V1__ROLE__ROLE_USER, question);
    if (question_send(session, &answer, &call, &failure, &code)) {
        conversation_add(session->turns, GALERNE__V1__ROLE__ROLE_ASSISTANT, text);
        end_note(session, &answer);
        if (asking.stats)
            answer_stats(&answer);
    } else if (code != EXIT_CODE_OK) { /* no daemon, and told */
        conversation_drop_last(session->turns);
    } else if (command_interrupted) {
        code = answer_cut(session, text);
    } else {
        code = fail_question(session, &call, &failure);
    }
    fclose(answer.copy);
    free(text);
    return code;
}

/* ---- lines that begin with "/" ---- */

struct word {
    const char *name;
    const char *argument;
    const char *text;
    int (*run)(struct session *session, const char *argument); /* an exit code */
};

static const struct word words_known[];
static const size_t words_known_count;

static int fail_argument(const char *name, const char *expected)
{
    return command_fail(EXIT_CODE_USAGE, NULL, "/%s: expected %s", name, expected);
}

static int word_exit(struct session *session, const char *argument)
{
    (void)argument;
    session->is_over = true;
    return EXIT_CODE_OK;
}

static int word_reset(struct session *session, const char *argument)
{
    if (argument[0])
        return fail_argument("reset", "nothing behind it");
    conversation_clear(session->turns);
    if (session->is_interactive)
        note("(a new conversation)");
    return EXIT_CODE_OK;
}

static int word_system(struct session *session, const char *argument)
{
    conversation_set_system(session->turns, argument);
    if (session->is_interactive)
        note(argument[0] ? "(the system turn holds from the next question on)"
                         : "(no system turn any more)");
    return EXIT_CODE_OK;
}

static int word_save(struct session *session, const char *argument)
{
    struct error error;
    if (!argument[0])
        return fail_argument("save", "the name of a new file");
    if (conversation_save(session->turns, argument, &error) != STATUS_OK)
        return command_fail(EXIT_CODE_FAILED, NULL, "/save: %s", error.text);
    if (session->is_interactive)
        note("(%zu turns saved)", conversation_count(session->turns));
    return EXIT_CODE_OK;
}

static int word_help(struct session *session, const char *argument);

static const struct word words_known[] = {
    {"help", "", "this text", word_help},
    {"reset", "", "begin a new conversation; a system turn stays", word_reset},
    {"system", "TEXT", "what the model is told before all else; no TEXT takes it away",
     word_system},
    {"save", "FILE", "write the conversation to a new file, as JSON", word_save},
    {"exit", "", "end the session, as Ctrl-D does", word_exit},
};
static const size_t words_known_count = array_count(words_known);

static int word_help(struct session *session, const char *argument)
{
    (void)session;
    (void)argument;
    for (size_t i = 0; i < words_known_count; i++)
        note("/%-7s%-5s %s", words_known[i].name, words_known[i].argument, words_known[i].text);
    note("A line that ends in \\ goes on in the next one; // at the beginning stands for one /.\n"
         "Ctrl-C cancels an answer, or gives a line up. Arrows and Ctrl-R find earlier lines.");
    return EXIT_CODE_OK;
}

static int word_run(struct session *session, const char *line)
{
    const char *names[array_count(words_known)];
    char name[32];
    size_t size_bytes = strcspn(line + 1, " \t");
    const char *argument = line + 1 + size_bytes;
    argument += strspn(argument, " \t");
    snprintf(name, sizeof name, "%.*s", (int)size_min(size_bytes, sizeof name), line + 1);
    for (size_t i = 0; i < words_known_count; i++) {
        names[i] = words_known[i].name;
        if (strcmp(name, names[i]) == 0)
            return words_known[i].run(session, argument);
    }
    const char *near = word_nearest(names, words_known_count, name);
    return command_fail(EXIT_CODE_USAGE, NULL,
                        near ? "there is no /%s: did you mean /%s? (// begins a line with a /)"
                             : "there is no /%s: /help lists what there is%s"
                               " (// begins a line with a /)",
                        name, near ? near : "");
}

/* ---- lines ---- */

/* One or, with \ at their ends, several lines. */
static enum line_outcome message_read(struct session *session, char **ret_message)
{
    char *whole = NULL;
    for (;;) {
        char *line = NULL, *joined = NULL;
        enum line_outcome outcome = line_editor_read(session->lines, whole ? ". " : "> ", &line);
        if (outcome == LINE_END && whole) {
            *ret_message = whole; /* the last line of a file */
            return LINE_READ;
        }
        if (outcome != LINE_READ) {
            free(whole);
            return outcome;
        }
        CHECK(asprintf(&joined, "%s%s%s", whole ? whole : "", whole ? "\n" : "", line) >= 0);
        free(whole);
        free(line);
        whole = joined;
        size_t size_bytes = strlen(whole);
        if (size_bytes > LINE_MAX_BYTES) {
            free(whole);
            return LINE_UNUSABLE;
        }
        if (size_bytes == 0 || whole[size_bytes - 1] != '\\') {
            *ret_message = whole;
            return LINE_READ;
        }
        whole[size_bytes - 1] = '\0';
    }
}

static int message_take(struct session *session, const char *message)
{
    if (message[strspn(message, " \t\n")] == '\0')
        return EXIT_CODE_OK;
    if (message[0] == '/' && message[1] != '/')
        return word_run(session, message);
    return question_ask(session, message + (message[0] == '/'));
}

static void session_turn(struct session *session)
{
    char *message = NULL;
    int code = EXIT_CODE_OK;
    switch (message_read(session, &message)) {
    case LINE_READ:
        code = message_take(session, message);
        free(message);
        break;
    case LINE_END:
        session->is_over = true;
        break;
    case LINE_INTERRUPTED:
        code = EXIT_CODE_INTERRUPTED;
        break;
    case LINE_UNUSABLE:
        code = command_fail(EXIT_CODE_FAILED, NULL,
                            "the line is not sent: expected at most 16 MiB without a zero byte");
        break;
    }
    if (code != EXIT_CODE_OK)
        session->code = code;
    if (code == EXIT_CODE_INTERRUPTED && !session->is_interactive)
        session->is_over = true;
}

/* ---- the session ---- */

struct found {
    uint32_t context_tokens;
    bool has_template;
    char template[32];
};

static bool take_model(void *context, const ProtobufCMessage *message)
{
    struct found *found = context;
    const Galerne__V1__Model *model = ((const Galerne__V1__GetModelResponse *)message)->model;
    if (!model)
        return true;
    found->context_tokens = model->context_tokens;
    snprintf(found->template, sizeof found->template, "%s", model->chat_template);
    found->has_template =
        strcmp(found->template, "none") != 0 && strcmp(found->template, "unknown") != 0;
    return true;
}

/* Is the model there, and can it chat? */
static int model_find(struct session *session, const char *wanted)
{
    struct found found = {.context_tokens = 0};
    Galerne__V1__GetModelRequest request = GALERNE__V1__GET_MODEL_REQUEST__INIT;
    struct client_call call = {.method = METHOD_INFERENCE("GetModel"),
                               .request = &request.base,
                               .response = &galerne__v1__get_model_response__descriptor,
                               .take = take_model,
                               .context = &found};
    int code = command_model_name(session->common, wanted, &session->model);
    if (code != EXIT_CODE_OK)
        return code;
    request.name = session->model;
    code = command_call(session->common, &call);
    if (code != EXIT_CODE_OK)
        return code;
    if (!found.has_template)
        return command_fail(EXIT_CODE_CONFLICT, "galernectl generate",
                            "model %s cannot chat, its chat template is %s: expected one that "
                            "docs/models.md names",
                            session->model, found.template);
    session->context_tokens = found.context_tokens;
    return EXIT_CODE_OK;
}

static int session_run(struct session *session)
{
    if (session->is_interactive)
        note("%s, a context of %u tokens. /help tells more, Ctrl-D ends.", session->model,
             session->context_tokens);
    while (!session->is_over)
        session_turn(session);
    if (ferror(stdout))
        return EXIT_CODE_FAILED;
    return session->is_interactive ? EXIT_CODE_OK : session->code;
}

static int run(const struct common *common, const struct words *words)
{
    struct session session = {.common = common};
    const char *wanted = words->count ? words->items[0] : asking.model;
    if (words->count > 1)
        return command_misuse(&command_chat, "expected one model, got %d words", words->count);
    if (words->count && asking.model)
        return command_misuse(&command_chat, "expected one model, got %.60s and --model %.60s",
                              words->items[0], asking.model);
    int code = asking_check(&command_chat);
    if (code == EXIT_CODE_OK)
        code = model_find(&session, wanted);
    if (code == EXIT_CODE_OK) {
        session.lines = line_editor_open();
        session.turns = conversation_new();
        session.is_interactive = line_editor_is_interactive(session.lines);
        conversation_set_system(session.turns, asking.system);
        code = session_run(&session);
    }
    conversation_free(session.turns);
    line_editor_close(session.lines);
    free(session.model);
    return code;
}

const struct command command_chat = {
    .name = "chat",
    .arguments = "[MODEL]",
    .summary = "talk with a model: questions and answers that build on each other",
    .text =
        "Each line is a question; /help in the session tells the rest. Without a terminal, lines\n"
        "are read from standard input, and the exit code is that of the latest failure.",
    .rows = asking_rows,
    .n_rows = ASKING_ROWS_SHARED,
    .target = &asking,
    .run = run,
};
