/*
 * main of galernectl: a table walk. Options of all commands may stand before or after the command's
 * name; each command is one file, cmd_NAME.c.
 */
#include <unistd.h>

#include "admin/arguments.h"
#include "admin/command.h"
#include "admin/output.h"

const struct command *const commands[] = {&command_status,  &command_models,    &command_generate,
                                          &command_chat,    &command_tokenize,  &command_trace,
                                          &command_metrics, &command_completion};
const size_t commands_count = array_count(commands);

static const struct option_choice formats[] = {
    {"table", OUTPUT_TABLE}, {"json", OUTPUT_JSON}, {NULL, 0}};

#define AT(member) OPTION_AT(struct common, member)

const struct option_row common_rows[] = {
    {"socket", OPTION_TEXT, AT(socket), .letter = 's', .value = "PATH",
     .fallback_text = "$GALERNE_SOCKET, else where daemons serve by default",
     .text = "The daemon's socket, or the directory of its sockets."},
    {"server", OPTION_TEXT, AT(server), .value = "HOST:PORT", .fallback_text = "a unix socket",
     .text = "A daemon on the network, with TLS."},
    {"tls-ca", OPTION_TEXT, AT(tls_ca), .value = "FILE",
     .text = "With --server: the authority of the daemon's certificate, PEM."},
    {"tls-cert", OPTION_TEXT, AT(tls_cert), .value = "FILE",
     .text = "With --server: your certificate, PEM."},
    {"tls-key", OPTION_TEXT, AT(tls_key), .value = "FILE",
     .text = "With --server: your certificate's key, PEM."},
    {"output", OPTION_CHOICE, AT(output), .letter = 'o', .value = "FORMAT", .choices = formats,
     .fallback = "table", .text = "For people or for programs."},
    {"json", OPTION_BOOL, AT(json), .text = "Short for --output json."},
    {"timeout", OPTION_SECONDS, AT(timeout_ns), .value = "SECONDS", .real_min = 0.001,
     .real_max = 86400, .fallback_text = "10; none for generate, chat",
     .text = "Give up after this time."},
    {"no-color", OPTION_BOOL, AT(no_color), .text = "No colour; so does NO_COLOR."},
    {"help", OPTION_BOOL, AT(help), .letter = 'h', .text = "This text."},
    {"version", OPTION_BOOL, AT(version), .letter = 'V', .text = "The version."},
};
const size_t common_rows_count = array_count(common_rows);

/* The call is cancelled and what came is printed; whoever asks a third time gets out at once (one
 * Ctrl-C can arrive twice, by way of sudo or timeout). */
static void interrupt(int number)
{
    command_interrupted = command_interrupted + 1;
    if (command_interrupted > 2)
        _exit(EXIT_CODE_INTERRUPTED);
}

static void usage_print(FILE *out)
{
    fputs("usage: galernectl COMMAND [OPTIONS] [ARGUMENTS]\n"
          "Talks to a running galerned over its unix sockets, or with TLS over TCP.\n\n",
          out);
    for (size_t i = 0; i < array_count(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n`galernectl COMMAND --help` tells more. Options of every command:\n\n", out);
    option_print_help(out, common_rows, array_count(common_rows));
    fputs("\nExit codes: 0 good, 1 failed, 2 degraded, 4 not allowed, 5 not found, 6 conflict,\n"
          "7 unreachable, 8 time is over, 64 wrong command line, 130 interrupted.\n",
          out);
}

static void command_usage_print(const struct command *command, FILE *out)
{
    fprintf(out, "usage: galernectl %s [OPTIONS] %s\n%s\n\n", command->name, command->arguments,
            command->text);
    option_print_help(out, command->rows, command->n_rows);
    fputs(command->n_rows ? "\n" : "", out);
    option_print_help(out, common_rows, array_count(common_rows));
}

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < array_count(commands); i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int fail_unknown_command(const char *name)
{
    const char *names[array_count(commands)];
    for (size_t i = 0; i < array_count(commands); i++)
        names[i] = commands[i]->name;
    const char *near = word_nearest(names, array_count(names), name);
    return command_fail(EXIT_CODE_USAGE, "galernectl --help",
                        near ? "there is no command %.60s: did you mean %s?"
                             : "there is no command %.60s%s",
                        name, near ? near : "");
}

/* The command's own options, and the common ones where they stand after its name. */
static int command_run(const struct command *command, int argc, char **argv, struct common *common)
{
    struct argument_set sets[2] = {
        {.rows = common_rows, .n_rows = array_count(common_rows), .target = common},
        {.rows = command->rows, .n_rows = command->n_rows, .target = command->target}};
    struct argument_line line = {.argc = argc, .argv = argv};
    struct error error;
    int first = 0;
    if (arguments_parse(&line, sets, 2, &first, &error) != STATUS_OK)
        return command_misuse(command, "%s", error.text);
    if (common->help) {
        command_usage_print(command, stdout);
        return EXIT_CODE_OK;
    }
    if (common->json)
        common->output = OUTPUT_JSON;
    output_open(common->no_color);
    struct words words = {.items = argv + first, .count = argc - first};
    return command->run(common, &words);
}

int main(int argc, char **argv)
{
    struct common common = {.socket = NULL};
    struct argument_set set = {
        .rows = common_rows, .n_rows = array_count(common_rows), .target = &common};
    struct argument_line line = {.argc = argc, .argv = argv, .stop_early = true};
    struct error error;
    struct sigaction action = {.sa_handler = interrupt}; /* no SA_RESTART: reads come back */
    int first = 0;
    output_open(true);
    sigaction(SIGINT, &action, NULL);
    option_defaults(common_rows, array_count(common_rows), &common);
    if (arguments_parse(&line, &set, 1, &first, &error) != STATUS_OK)
        return command_fail(EXIT_CODE_USAGE, "galernectl --help", "%s", error.text);
    if (common.version) {
        printf("galernectl %s\n", GALERNE_VERSION);
        return EXIT_CODE_OK;
    }
    if (first == argc) {
        usage_print(common.help ? stdout : stderr);
        return common.help ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    const struct command *command = command_find(argv[first]);
    if (!command)
        return fail_unknown_command(argv[first]);
    int code = command_run(command, argc - first, argv + first, &common);
    if (fflush(stdout) != 0 && code == EXIT_CODE_OK)
        code = command_fail(EXIT_CODE_FAILED, NULL, "standard output cannot be written");
    return code;
}
