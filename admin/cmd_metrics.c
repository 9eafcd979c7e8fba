#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/command.h"
#include "admin/message_json.h"
#include "admin/metrics_text.h"
#include "admin/output.h"
#include "proto/admin.pb-c.h"

static struct {
    const char *write;
} options;

static bool take(void *context, const ProtobufCMessage *message)
{
    *(json_t **)context = message_json(message);
    return true;
}

/* Beside the file, then in its place: who reads it sees the old one or the new one, whole. */
static int file_replace(const char *path, const char *text)
{
    char *beside = NULL;
    int code = EXIT_CODE_OK, fd = -1;
    if (asprintf(&beside, "%s.XXXXXX", path) < 0)
        return command_fail(EXIT_CODE_FAILED, NULL, "out of memory");
    fd = mkstemp(beside);
    if (fd < 0) {
        code =
            command_fail(EXIT_CODE_FAILED, "let --write name a file in a folder that you may write",
                         "cannot write beside %.200s: %s", path, strerror(errno));
        goto out;
    }
    size_t bytes = strlen(text);
    if (fchmod(fd, 0644) != 0 || write(fd, text, bytes) != (ssize_t)bytes ||
        rename(beside, path) != 0) {
        code =
            command_fail(EXIT_CODE_FAILED, NULL, "cannot write %.200s: %s", path, strerror(errno));
        unlink(beside);
    }
    close(fd);
out:
    free(beside);
    return code;
}

static int text_give(const char *text)
{
    if (options.write)
        return file_replace(options.write, text);
    if (fputs(text, stdout) == EOF)
        return EXIT_CODE_FAILED; /* main says so */
    return EXIT_CODE_OK;
}

static int run(const struct common *common, const struct words *words)
{
    json_t *status = NULL;
    char *text = NULL;
    Galerne__Admin__V1__StatusRequest request = GALERNE__ADMIN__V1__STATUS_REQUEST__INIT;
    struct client_call call = {
        .method = METHOD_ADMIN("Status"),
        .request = &request.base,
        .response = &galerne__admin__v1__status_response__descriptor,
        .take = take,
        .context = &status,
    };
    if (words->count)
        return command_misuse(&command_metrics, "expected no arguments, got \"%.60s\"",
                              words->items[0]);
    if (common->output == OUTPUT_JSON)
        return command_misuse(&command_metrics,
                              "metrics are text: galernectl status --json has the same as JSON");
    int code = command_call(common, &call);
    bool away = code == EXIT_CODE_UNREACHABLE || code == EXIT_CODE_TIMEOUT;
    if (code != EXIT_CODE_OK && !away)
        return code;
    if (!metrics_text(status, &text)) {
        json_decref(status);
        return command_fail(EXIT_CODE_FAILED, NULL, "out of memory");
    }
    int given = text_give(text);
    json_decref(status);
    free(text);
    return code != EXIT_CODE_OK ? code : given;
}

static const struct option_row rows[] = {
    {"write", OPTION_TEXT, .offset = offsetof(__typeof__(options), write),
     .size_bytes = sizeof options.write, .letter = 'w', .value = "FILE",
     .fallback_text = "standard output", .text = "Replace this file by them, in one go."},
};

const struct command command_metrics = {
    .name = "metrics",
    .arguments = "",
    .summary = "the numbers of status, for Prometheus",
    .text =
        "Asks the operator's socket (admin.sock) and prints what Prometheus' text format calls\n"
        "samples: for a textfile collector, by a timer. When no daemon answers the text is\n"
        "galerne_up 0, and the exit code that of other commands.",
    .rows = rows,
    .n_rows = array_count(rows),
    .target = &options,
    .run = run,
};
