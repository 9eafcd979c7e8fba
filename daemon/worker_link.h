/*
 * worker_link: the engine's hold on its worker: starts it, greets it, watches it, ends it.
 *
 * A state machine without threads of its own. The engine calls link_turn in each of its turns and
 * waits on link_poll_fds; nothing here blocks (save link_stop). States:
 *
 *   ABSENT --retry time--> CONNECTING --connected, hello sent--> LOADING --READY--> UP
 *      ^                       |  nobody answers: spawn, once        |               |
 *      '---------- lost: died, hung, refused, start limit -----------'---------------'
 *
 * CONNECTING first tries the socket as it is: a worker that outlived an earlier front is adopted
 * with its weights, and where a service manager listens there, the connection makes it start the
 * worker. Only when nobody answers is a process spawned (inline: a thread). A hung worker (see
 * link_hung) is killed by the pid that the kernel gives with its messages; it must be of our own
 * user. The pid that the socket tells may be the manager's own and is trusted less. After a loss
 * the next attempt follows at once, then after 1 s, 2 s, ... 30 s while losses repeat. (The one at
 * once may meet the socket of the one that is still dying; that counts as a loss like any other.)
 *
 * A refusal by the worker (FAILED, or a model digest that is not ours) leads to FAILED, which is
 * tried again every 30 s: an operator may have mended the files' permissions, the GPU, the memory.
 */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "daemon/channel.h"
#include "daemon/config.h"
#include "daemon/worker.h"

enum link_state { LINK_ABSENT = 0, LINK_CONNECTING, LINK_LOADING, LINK_UP };

enum link_event {
    LINK_NOTHING = 0,
    LINK_READY, /* a new epoch: the channel is empty, no sequence is open */
    LINK_LOST,  /* it was UP and is gone; `text` says why */
};

/* Why a worker was lost, or did not come up. */
enum link_end {
    LINK_END_DIED = 0, /* its process ended while it served: killed, crashed, out of memory */
    LINK_END_HUNG,     /* a step took longer than its limit */
    LINK_END_DEVICE,   /* its device failed: the text has the device's words */
    LINK_END_NONSENSE, /* it answered what nobody asked */
    LINK_END_START,    /* it refused, left or hung while it started */
    LINK_ENDS,
};

struct link_options {
    const struct config *config;
    const struct config_model *model;
    struct step_limits limits;
    const uint8_t *model_digest; /* [32] */
};

struct worker_link {
    struct link_options options;
    char socket_path[CONFIG_PATH_MAX_BYTES + 128];
    enum link_state state;
    bool failed; /* ABSENT because the worker refused, or it has not come up within its limit */
    int socket;
    struct channel channel; /* open in LOADING and UP */
    pid_t child;            /* spawned by us, not reaped yet; 0 none */
    pid_t peer;             /* the connected worker */
    int peer_pidfd;
    uint64_t hung_ns; /* when it was killed, while its end has not shown; 0 none */
    bool spawned;     /* in this attempt */
    pthread_t thread; /* inline */
    int inline_socket;
    bool thread_runs;
    atomic_bool thread_stop;
    struct worker worker; /* inline */
    uint64_t attempt_ns;  /* when this attempt began */
    uint64_t retry_ns;    /* when the next begins */
    uint32_t losses;      /* in a row, without a minute of service between */
    uint64_t up_ns;
    uint32_t starts_total;
    enum link_end cause; /* as link_hung says */
    uint64_t ends_total[LINK_ENDS];
    char end_text[256]; /* why the last one that served ended; else why the first did not start */
    /* told by the worker */
    bool quantises; /* what it does while it loads */
    uint32_t load_percent;
    uint64_t epoch;
    uint64_t weights_bytes;
    char device[96];
    struct device_facts facts; /* `known` is 0 where the device says nothing */
    char text[256];            /* why it is not UP, or why it was lost */
};

void link_init(struct worker_link *link, const struct link_options *options);

/* Moves on; returns at most one event a call. */
enum link_event link_turn(struct worker_link *link, uint64_t now_ns);

/* What to poll for; fills up to 2, returns how many. */
struct pollfd;
uint32_t link_poll_fds(const struct worker_link *link, struct pollfd *ret_fds);

/* When link_turn has something to do even without a descriptor's event. */
uint64_t link_next_ns(const struct worker_link *link, uint64_t now_ns);

/* The engine found it hung, or with a device that failed, or talking nonsense: it is killed, and
 * its end gives LINK_LOST. Until then hung_ns says since when: a process that does not even die
 * holds up its engine. */
void link_hung(struct worker_link *link, enum link_end cause, const char *why);

/* Lets the worker go. One that we spawned is asked to end, waited for up to 3 s, then killed; one
 * that was adopted stays for the next front. */
void link_stop(struct worker_link *link);
