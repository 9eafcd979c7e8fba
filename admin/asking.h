/*
 * asking: what `generate` and `chat` share: the options of a request, and an answer as it comes.
 *
 * There is one table of options with one static target, `asking`. The first ASKING_ROWS_SHARED rows
 * are for both commands, the rest for generate alone; a command takes as many as it wants and main
 * fills the target in. asking_check and asking_fill then put it into a request. The answer is
 * printed as its messages come: as text, as JSON or as lines of tokens; whoever wants the text as
 * well gives a stream to copy it to. Texts of several choices would run into each other, so each is
 * printed when it is whole, under a line that names it. One thread.
 */
#pragma once

#include "admin/command.h"
#include "proto/inference.pb-c.h"

struct asking {
    const char *model; /* NULL: the only one */
    const char *system;
    const char *token_ids;
    const char *logit_bias;
    const char *request_id;
    struct option_texts stops;
    double temperature, top_p, min_p; /* NAN: not given, as the next ones */
    double repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;                                    /* UINT64_MAX: not given */
    uint32_t top_k, max_tokens, min_tokens, logprobs; /* UINT32_MAX, 0, 0, UINT32_MAX: likewise */
    uint32_t choices;                                 /* 0: not given */
    bool chat, batch, ids, stats, ignore_eos;
};

extern struct asking asking;

enum { ASKING_ROWS_SHARED = 15, ASKING_ROWS_ALL = 23 };
extern const struct option_row asking_rows[]; /* [ASKING_ROWS_ALL] */

#define ASKING_CHOICES_MAX 16

/* One of several choices: its text is kept until it is whole, and those before it are. */
struct answer_choice {
    FILE *stream; /* a memory stream into text; NULL: nothing came yet */
    char *text;
    size_t text_bytes;
    Galerne__V1__FinishReason finish;
};

/* What has come of the answer. */
struct answer {
    bool as_json;
    bool is_trimmed; /* white space in front is left out: a chat's turn begins with a word */
    FILE *copy;      /* the text goes here too; NULL: nowhere */
    uint64_t asked_ns, first_ns, last_ns;
    uint32_t tokens;
    bool has_text;                    /* something was printed */
    bool ends_line;                   /* the text so far ends with a line feed, or there is none */
    Galerne__V1__FinishReason finish; /* of the first choice */
    uint32_t n_choices;               /* asked for; 0 reads as 1 */
    uint32_t n_shown;                 /* of several: that were printed */
    struct answer_choice choices[ASKING_CHOICES_MAX];
    Galerne__V1__Usage usage;
};

/* Prints a message of the stream; the `take` of a client_call with a struct answer. False when
 * standard output cannot be written. */
bool answer_take(void *context, const ProtobufCMessage *message);

/* No more messages come: what is kept of several choices is printed, and all memory given back. */
void answer_close(struct answer *answer);

/* One line on standard error: times, tokens/s, counts. */
void answer_stats(const struct answer *answer);

/* What the rows cannot check. Returns an exit code; a failure has been told. Before asking_fill. */
int asking_check(const struct command *command);

/* Sampling and limits as the options say; `sampling` becomes part of the request. */
void asking_fill(Galerne__V1__GenerateRequest *request, Galerne__V1__Sampling *sampling);
