#include <errno.h>

#include "admin/asking.h"
#include "base/clock.h"

#define TOKEN_IDS_MAX 65536

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
                               .take = answer_take,
                               .context = answer};
    request.model = model;
    if (!prompt) {
        request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        request.token_ids = ids;
    } else if (asking.chat || asking.system) {
        system.role = GALERNE__V1__ROLE__ROLE_SYSTEM;
        system.content = (char *)(uintptr_t)asking.system;
        user.role = GALERNE__V1__ROLE__ROLE_USER;
        user.content = prompt;
        chat.n_messages = asking.system ? 2 : 1;
        chat.messages = turns + (asking.system ? 0 : 1);
        request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_CHAT;
        request.chat = &chat;
    } else {
        request.prompt_case = GALERNE__V1__GENERATE_REQUEST__PROMPT_TEXT;
        request.text = prompt;
    }
    asking_fill(&request, &sampling);
    answer->asked_ns = clock_now_ns();
    return command_call(common, &call);
}

static int run(const struct common *common, const struct words *words)
{
    struct answer answer = {.as_json = common->output == OUTPUT_JSON,
                            .n_choices = asking.choices,
                            .ends_line = true};
    Galerne__V1__TokenIds ids = GALERNE__V1__TOKEN_IDS__INIT;
    char *prompt = NULL, *model = NULL;
    int code;
    if (asking.token_ids && (words->count || asking.chat || asking.system))
        return command_misuse(
            &command_generate,
            "--token-ids is the whole prompt: no text, --chat or --system beside");
    code = asking.token_ids ? ids_parse(asking.token_ids, &ids)
                          : command_prompt(&command_generate, words, &prompt);
    if (code == EXIT_CODE_OK)
        code = asking_check(&command_generate);
    if (code == EXIT_CODE_OK)
        code = command_model_name(common, asking.model, &model);
    if (code == EXIT_CODE_OK) {
        code = ask(common, model, prompt, &ids, &answer);
        answer_close(&answer);
        if (!answer.ends_line)
            putchar('\n');
        fflush(stdout);
        if (answer.finish == GALERNE__V1__FINISH_REASON__FINISH_REASON_QUOTA)
            fputs("galernectl: the quota allows no more output: the answer is not whole\n", stderr);
        if (asking.stats)
            answer_stats(&answer);
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
    .rows = asking_rows,
    .n_rows = ASKING_ROWS_ALL,
    .target = &asking,
    .run = run,
};
