/*
 * command: what a command of galernectl is, and what all of them share.
 *
 * A command is one file with one constant `struct command`: its name, its option rows and its
 * function. main.c reads the command line into the target of the rows and into `struct common`,
 * then calls the function, which returns the exit code. Commands talk to the daemon by
 * command_call, which finds the socket, makes the call and, when it fails, has already told the
 * user why, and says the exit code for it. One thread.
 */
#pragma once

#include <signal.h>

#include "admin/exit_code.h"
#include "admin/grpc_client.h"
#include "base/option.h"

enum output_format { OUTPUT_TABLE = 0, OUTPUT_JSON };

/* Options of every command. */
struct common {
    const char *socket;
    const char *server; /* HOST:PORT over TCP, with the next three; NULL: a unix socket */
    const char *tls_ca, *tls_cert, *tls_key;
    uint32_t output; /* enum output_format */
    bool json;       /* short for -o json; folded into `output` */
    bool no_color;
    uint64_t timeout_ns; /* 0: not given */
    bool help;
    bool version;
};

/* The words after the options. */
struct words {
    char **items; /* [count] */
    int count;
};

struct command {
    const char *name;
    const char *arguments; /* "[NAME]", for the usage line */
    const char *words;     /* "bash zsh": all that the argument may be; NULL: anything */
    const char *summary;   /* for the list of commands */
    const char *text;      /* for its own help */
    const struct option_row *rows;
    size_t n_rows;
    void *target; /* of the rows; static */
    int (*run)(const struct common *common, const struct words *words);
};

extern const struct command command_status, command_models, command_generate, command_chat,
    command_tokenize, command_trace, command_metrics, command_completion;

/* All of them, and the options that each has beside its own: main.c. */
extern const struct command *const commands[]; /* [commands_count] */
extern const size_t commands_count;
extern const struct option_row common_rows[]; /* [common_rows_count] */
extern const size_t common_rows_count;

extern volatile sig_atomic_t command_interrupted; /* set by SIGINT */

/* The two services. */
#define METHOD_ADMIN(name) "/galerne.admin.v1.Admin/" name
#define METHOD_INFERENCE(name) "/galerne.v1.Inference/" name

/* Finds the socket that serves call->method and makes the call; fills in what is common to calls.
 * Returns EXIT_CODE_OK, or the code of a failure that has been told on standard error. */
int command_call(const struct common *common, struct client_call *call);

/* The same in two halves, for who has something to do in between. False: with *ret_code set, no
 * daemon was found, which has been told; else *ret_failure is for command_tell, which returns the
 * exit code. An interruption can be seen by command_interrupted. */
bool command_try(const struct common *common, struct client_call *call,
                 struct client_failure *ret_failure, int *ret_code);
int command_tell(const struct common *common, const struct client_call *call,
                 const struct client_failure *failure);

/* One line "galernectl: ..." on standard error, then `next` (may be NULL) as what to do. Returns
 * `code`. */
int command_fail(int code, const char *next, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* command_fail for a wrong command line. */
int command_misuse(const struct command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* `wanted`, or, when that is empty, the only model that is served. The caller frees *ret_name. */
int command_model_name(const struct common *common, const char *wanted, char **ret_name);

/* The prompt that `words` hold: one word, or "-" for all of standard input (to 16 MiB). The caller
 * frees *ret_prompt. Returns an exit code; a failure has been told. */
int command_prompt(const struct command *command, const struct words *words, char **ret_prompt);
