#include "admin/command.h"

#include <errno.h>
#include <stdarg.h>

#include "admin/output.h"
#include "admin/server_open.h"
#include "base/clock.h"
#include "proto/inference.pb-c.h"

#define PROMPT_MAX_BYTES (16u * 1024 * 1024)
#define TIMEOUT_DEFAULT_NS (10 * NS_PER_S)

volatile sig_atomic_t command_interrupted;

/* ---- telling ---- */

static void tell(const char *text)
{
    char *safe = output_escape(span_of(text));
    fprintf(stderr, "galernectl: %s\n", safe);
    free(safe);
}

int command_fail(int code, const char *next, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tell(text);
    if (next)
        fprintf(stderr, "  next: %s\n", next);
    return code;
}

int command_misuse(const struct command *command, const char *format, ...)
{
    char text[1024], next[80];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(next, sizeof next, "galernectl %s --help", command->name);
    return command_fail(EXIT_CODE_USAGE, next, "%s: %s", command->name, text);
}

/* Exit code of a failed call, and the command that helps. */
static int failure_code(enum client_code code, const char **ret_next)
{
    *ret_next = NULL;
    switch (code) {
    case CLIENT_NOT_FOUND:
        *ret_next = "galernectl models";
        return EXIT_CODE_NOT_FOUND;
    case CLIENT_PERMISSION_DENIED:
    case CLIENT_UNAUTHENTICATED:
        return EXIT_CODE_DENIED;
    case CLIENT_ALREADY_EXISTS:
    case CLIENT_FAILED_PRECONDITION:
    case CLIENT_ABORTED:
        return EXIT_CODE_CONFLICT;
    case CLIENT_UNAVAILABLE:
        *ret_next = "galernectl status";
        return EXIT_CODE_UNREACHABLE;
    case CLIENT_DEADLINE_EXCEEDED:
        *ret_next = "try again with a longer --timeout, or look at galernectl status";
        return EXIT_CODE_TIMEOUT;
    default:
        return EXIT_CODE_FAILED;
    }
}

static int failure_tell(const struct common *common, const struct client_failure *failure,
                        bool is_admin)
{
    const char *next;
    int code = failure_code(failure->code, &next);
    if (code == EXIT_CODE_NOT_FOUND && is_admin)
        next = "galernectl trace"; /* a request, not a model */
    if (code == EXIT_CODE_UNREACHABLE && common->server)
        next = "see that the daemon is there and takes your certificate, and you its";
    char text[1024], *field;
    snprintf(text, sizeof text, "%s (%s)", failure->text[0] ? failure->text : "the call failed",
             client_code_name(failure->code));
    tell(text);
    field = output_escape(span_of(failure->field));
    if (field[0] && strncmp(failure->text, failure->field, strlen(failure->field)) != 0)
        fprintf(stderr, "  field: %s\n", field);
    free(field);
    field = output_escape(span_of(failure->request_id));
    if (field[0])
        fprintf(stderr, "  request: %s\n", field);
    free(field);
    if (failure->retry_ns >= 60 * NS_PER_S) {
        char wait[32];
        duration_text(failure->retry_ns / NS_PER_MS, wait, sizeof wait);
        fprintf(stderr, "  try again in %s\n", wait);
    } else if (failure->retry_ns) {
        fprintf(stderr, "  try again in %.1f s\n", (double)failure->retry_ns / 1e9);
    }
    if (next)
        fprintf(stderr, "  next: %s\n", next);
    return code;
}

/* ---- calling ---- */

static bool call_is_admin(const struct client_call *call)
{
    return strncmp(call->method, METHOD_ADMIN(""), strlen(METHOD_ADMIN(""))) == 0;
}

bool command_try(const struct common *common, struct client_call *call,
                 struct client_failure *ret_failure, int *ret_code)
{
    bool may_be_long = strcmp(call->method, METHOD_INFERENCE("Generate")) == 0;
    struct client *client = server_open(common, call_is_admin(call), ret_code);
    if (!client)
        return false;
    call->timeout_ns = common->timeout_ns;
    if (!call->timeout_ns && !may_be_long)
        call->timeout_ns = TIMEOUT_DEFAULT_NS;
    call->interrupted = &command_interrupted;
    bool good = client_run(client, call, ret_failure);
    client_close(client);
    return good;
}

int command_tell(const struct common *common, const struct client_call *call,
                 const struct client_failure *failure)
{
    if (command_interrupted)
        return command_fail(EXIT_CODE_INTERRUPTED, NULL, "interrupted: the call was cancelled");
    if (ferror(stdout))
        return command_fail(EXIT_CODE_FAILED, NULL, "standard output cannot be written");
    return failure_tell(common, failure, call_is_admin(call));
}

int command_call(const struct common *common, struct client_call *call)
{
    struct client_failure failure;
    int code = EXIT_CODE_OK;
    if (command_try(common, call, &failure, &code))
        return EXIT_CODE_OK;
    return code == EXIT_CODE_OK ? command_tell(common, call, &failure) : code;
}

/* ---- what several commands need ---- */

/* The names of all models, and the one if there is one. */
struct names {
    char list[512];
    char *only;
    size_t count;
};

static bool take_names(void *context, const ProtobufCMessage *message)
{
    struct names *names = context;
    const Galerne__V1__ListModelsResponse *models =
        (const Galerne__V1__ListModelsResponse *)message;
    for (size_t i = 0; i < models->n_models; i++) {
        const char *name = models->models[i]->name;
        const char *slash = strchr(name, '/');
        name = slash ? slash + 1 : name;
        size_t used = strlen(names->list);
        snprintf(names->list + used, sizeof names->list - used, "%s%s", used ? ", " : "", name);
        free(names->only);
        names->only = strdup(name);
        names->count++;
    }
    return true;
}

int command_model_name(const struct common *common, const char *wanted, char **ret_name)
{
    struct names names = {.count = 0};
    Galerne__V1__ListModelsRequest request = GALERNE__V1__LIST_MODELS_REQUEST__INIT;
    struct client_call call = {
        .method = METHOD_INFERENCE("ListModels"),
        .request = &request.base,
        .response = &galerne__v1__list_models_response__descriptor,
        .take = take_names,
        .context = &names,
    };
    if (wanted && wanted[0]) {
        *ret_name = strdup(wanted);
        return EXIT_CODE_OK;
    }
    int code = command_call(common, &call);
    if (code == EXIT_CODE_OK && names.count == 1) {
        *ret_name = names.only;
        return EXIT_CODE_OK;
    }
    free(names.only);
    if (code != EXIT_CODE_OK)
        return code;
    if (names.count == 0)
        return command_fail(EXIT_CODE_NOT_FOUND, NULL, "the daemon serves no model");
    return command_fail(EXIT_CODE_USAGE, NULL,
                        "name a model with --model, there is more than one: %s", names.list);
}

static int stdin_read(char **ret_text)
{
    char *text = malloc(PROMPT_MAX_BYTES + 2);
    CHECK(text != NULL);
    size_t size_bytes = fread(text, 1, PROMPT_MAX_BYTES + 1, stdin);
    const char *problem = ferror(stdin)                   ? strerror(errno)
                          : size_bytes > PROMPT_MAX_BYTES ? "it has more than 16 MiB"
                          : memchr(text, 0, size_bytes)   ? "it holds a zero byte"
                                                          : NULL;
    if (problem) {
        free(text);
        return command_fail(command_interrupted ? EXIT_CODE_INTERRUPTED : EXIT_CODE_FAILED, NULL,
                            "the prompt cannot be read from standard input: %s", problem);
    }
    text[size_bytes] = '\0';
    *ret_text = text;
    return EXIT_CODE_OK;
}

int command_prompt(const struct command *command, const struct words *words, char **ret_prompt)
{
    if (words->count == 0)
        return command_misuse(command, "expected a prompt, or - to read it from standard input");
    if (words->count > 1)
        return command_misuse(command, "expected one prompt, got %d words: put it in quotes",
                              words->count);
    if (strcmp(words->items[0], "-") == 0)
        return stdin_read(ret_prompt);
    *ret_prompt = strdup(words->items[0]);
    return EXIT_CODE_OK;
}
