/*
 * request: what every listener produces, whatever the wire.
 *
 * A listener decodes bytes into a request and hands it to the text pool; a text thread renders,
 * tokenises and hands it to the model's engine; the engine fills the token ring and ends it; the
 * listener turns tokens into its wire's bytes. There is no branch on the wire after the listener.
 *
 *     listener --text pool--> text thread --inlet--> engine
 *         ^------------------- outlet ------------------'        (request_end from text or engine)
 *
 * Ownership. Requests come from a pool made at boot. The listener takes one with request_new and
 * is the only one to give it back with request_free, after it has received the request's END
 * through its outlet; every request that was handed over gets exactly one END. Before that the
 * listener may set `cancelled` (request_cancel) at any time; it still waits for the END.
 *
 * Choices. A call for n choices is n requests, each with its own ring, sampling and end: the first
 * one, which the text room reads, and n - 1 others (request_choices_new) that follow it in a list.
 * They are handed over with it, and each gets an END of its own; then all are given back at once.
 * Choice i draws with request_choice_seed(seed, i): what it says is what a request for one choice
 * says with that seed.
 *
 * Fields are grouped by writer. A group is written by its owner before the hand-over (a ring's
 * release store) and read-only afterwards, save those marked atomic.
 */
#pragma once

#include <stdatomic.h>

#include "base/arena.h"
#include "base/ring.h"
#include "base/status.h"
#include "kernels/ops.h"
#include "sched/sched.h"
#include "text/chat.h"
#include "text/detokenizer.h"

#define REQUEST_NAME_MAX_BYTES 128
#define REQUEST_STOP_IDS_MAX 16
#define REQUEST_TOKENS_RING 64 /* tokens that may wait for a slow reader before it is paused */
#define REQUEST_CHOICES_MAX SCHED_CHOICES_MAX

struct outlet;
struct served_model;

enum request_kind {
    REQUEST_GENERATE = 0,
    REQUEST_TOKENIZE,   /* ends in the text room: result in ids, n_ids */
    REQUEST_DETOKENIZE, /* ends in the text room: result in text */
    REQUEST_EMBED,      /* not built yet: listeners answer UNSUPPORTED */
};

enum prompt_kind { PROMPT_NONE = 0, PROMPT_TEXT, PROMPT_CHAT, PROMPT_TOKENS };

struct prompt {
    enum prompt_kind kind;
    bool add_special;                    /* PROMPT_TEXT: put BOS first where the model wants one */
    struct span text;                    /* PROMPT_TEXT */
    const struct chat_message *messages; /* PROMPT_CHAT [n_messages] */
    uint32_t n_messages;
    const uint32_t *ids; /* PROMPT_TOKENS [n_ids] */
    uint32_t n_ids;
};

/* One token on its way up. */
struct request_token {
    uint32_t choice;
    uint32_t from_end_id; /* 1: this is an end or stop token: it carries no text */
    struct sample_result sample;
};

enum finish_reason {
    FINISH_NONE = 0,
    FINISH_STOP,
    FINISH_LENGTH,
    FINISH_CANCELLED,
    FINISH_ERROR,
    FINISH_QUOTA, /* as LENGTH, but its tenant's quota allowed no more than that */
};

struct request {
    /* --- the listener's, before hand-over --- */
    uint64_t id;                           /* unique in this process's life */
    char name[REQUEST_NAME_MAX_BYTES + 1]; /* the caller's request_id, or made from id */
    enum request_kind kind;
    uint32_t tenant;
    const char *tenant_name; /* stays valid */
    enum sched_class class;
    uint64_t cache_domain;
    bool cache_readonly; /* uses the domain's blocks, adds none */
    uint32_t peer_uid;   /* of the unix socket's other side; UINT32_MAX unknown */
    char peer[128];      /* TCP: the name in the client's certificate; "" on a unix socket */
    struct served_model *model;
    struct prompt prompt;
    bool with_special;                 /* DETOKENIZE: write special tokens out */
    struct sample_params sampling;     /* checked: finite, in range; n_holds is the engine's */
    const struct sample_entry *biases; /* [sampling.n_biases] in the arena */
    bool ignore_eos;                   /* the model's end tokens do not end it; stop_ids do */
    bool wants_logprobs;
    uint32_t output_tokens_max; /* 0: all that the context leaves; a quota may lower it */
    bool output_is_open;        /* the caller named no most output; set by the text room */
    uint32_t n_stop_ids;
    uint32_t stop_ids[REQUEST_STOP_IDS_MAX];
    const struct stop_set *stops; /* in the arena, or NULL */
    uint64_t deadline_ns;         /* clock_now_ns; UINT64_MAX none */
    struct arena arena;           /* the call's memory */
    struct outlet *outlet;        /* where tokens and the END go */
    void *call;                   /* the listener's own */
    uint64_t accepted_ns;
    uint32_t n_choices;          /* of the call; from 1 */
    uint32_t choice;             /* which of them this is */
    struct request *next_choice; /* NULL: the last */
    bool ended;                  /* its END was taken */

    /* --- the text room's --- */
    const uint32_t *ids; /* prompt [n_ids], in the arena or the prompt's own */
    uint32_t n_ids;
    const struct sched_digest *digests; /* [n_digests] of the full blocks of the prompt */
    uint32_t n_digests;
    struct span text; /* DETOKENIZE: exact bytes */
    uint64_t tokenized_ns;

    /* --- the engine's --- */
    uint32_t
        hold_ids[SAMPLE_HOLDS_MAX]; /* [sampling.n_holds] what may not come before min_tokens */
    bool is_cut; /* output_tokens_max is what a quota allows, not what was asked */

    /* --- engine to listener --- */
    struct ring *tokens;   /* of struct request_token, REQUEST_TOKENS_RING */
    atomic_bool ready;     /* an item of this request waits in the outlet */
    atomic_bool cancelled; /* set by the listener; the engine ends it with CANCELLED */
    atomic_bool
        cancel_stop; /* set before `cancelled` when a stop string was met: it ends with STOP */
    _Atomic uint32_t stop_tokens; /* with it: output tokens up to the stop string, which count */
    atomic_bool stalled; /* the token ring was full: the listener wakes the engine once drained */

    /* --- written by whoever ends it, before the END --- */
    enum finish_reason finish;
    struct error error; /* with FINISH_ERROR, FINISH_CANCELLED */
    uint32_t output_tokens, cached_tokens, preempted_count, recomputed_tokens;
    uint64_t first_token_ns, last_token_ns, ended_ns; /* 0: never */

    struct request *next_free; /* the pool's */
};

struct request_pool;

/* All memory now: `count` requests and their rings (touched only when used). */
enum status request_pool_open(uint32_t count, struct request_pool **ret_pool, struct error *error);
void request_pool_close(struct request_pool *pool);

/* A clean request with an empty arena capped at `arena_max_bytes`; NULL when all are in use. Any
 * thread. */
struct request *request_new(struct request_pool *pool, size_t arena_max_bytes);
void request_free(struct request_pool *pool, struct request *request);

/* The seed of choice i of a request: the seed itself for the first one. Pure. */
uint64_t request_choice_seed(uint64_t seed, uint32_t choice);

/* Takes n_choices - 1 more requests for `first`, whose listener's fields are complete: the same in
 * all but choice and seed. False: there are not as many, and none was taken. Any thread. */
bool request_choices_new(struct request_pool *pool, struct request *first);

/* After the text room's work on the first one: the others have the same prompt. */
void request_choices_share(struct request *first);

/* A request and all of its choices. */
void request_choices_free(struct request_pool *pool, struct request *first);
uint32_t request_pool_used_count(const struct request_pool *pool);
