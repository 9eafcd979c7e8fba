/*
 * worker_protocol: what front and worker say on their socket, beside the channel.
 *
 * A seqpacket unix socket, `worker-MODEL.sock` in the runtime directory; the worker listens, the
 * front connects. One message is one packet: a head and a body of fixed size.
 *
 *     front  -> worker  HELLO     limits, the model's digest; with it 3 descriptors: memfd,
 *                                 eventfd down, eventfd up
 *     worker -> front   PROGRESS  percent of weights loaded (0..100), and whether they are being
 *                                 quantised; any number of times
 *     worker -> front   READY     epoch, digest, KV geometry, device
 *     worker -> front   FACTS     what its device says of itself: after READY, now and again;
 *                                 not every device says something
 *     worker -> front   FAILED    why not (a status and a text); the worker waits for another hello
 *
 * After READY steps and results go through the channel; the socket stays open, and its end is the
 * sign that the other side is gone. A worker serves one front at a time; when it has gone, the next
 * one finds the weights loaded: all sequences are dropped and READY carries a new epoch.
 *
 * Versions must be equal: both sides come from one package.
 */
#pragma once

#include <sys/types.h>

#include "base/status.h"
#include "model/model.h"

#define WORKER_MAGIC 0x4e4c4157u
#define WORKER_PROTOCOL_VERSION 4u
#define WORKER_FDS 3

enum worker_kind {
    WORKER_HELLO = 1,
    WORKER_PROGRESS,
    WORKER_READY,
    WORKER_FAILED,
    WORKER_FACTS,
};

struct worker_message {
    uint32_t magic, version, kind, size_bytes;
    union {
        struct {
            struct step_limits limits;
            uint8_t model_digest[32];
        } hello;
        struct {
            uint32_t stage; /* enum model_stage */
            uint32_t percent;
        } progress;
        struct {
            uint64_t epoch;
            uint8_t model_digest[32];
            uint64_t weights_bytes, kv_block_bytes;
            uint32_t block_tokens, blocks_count;
            char device[96]; /* NUL-terminated */
        } ready;
        struct {
            uint32_t status; /* enum status */
            char text[ERROR_TEXT_MAX_BYTES];
        } failed;
        struct device_facts facts; /* texts NUL-terminated */
    };
};

/* Sends one message (head filled here), with `fds` [WORKER_FDS] or NULL. Never blocks for long:
 * a full socket is an error. */
enum status worker_send(int socket, enum worker_kind kind, struct worker_message *message,
                        const int *fds, struct error *error);

/*
 * Takes one message. OK; UNAVAILABLE: the other side is gone; EXHAUSTED: none waits (non-blocking
 * socket); INVALID: not our protocol or version, or a wrong number of descriptors. Descriptors are
 * handed over only with a HELLO that is OK, and closed in every other case.
 */
enum status worker_receive(int socket, struct worker_message *ret_message, int ret_fds[WORKER_FDS],
                           struct error *error);

/* Who sent a message, by the kernel's word; pid 0 where the socket has no SO_PASSCRED. */
struct worker_sender {
    pid_t pid;
    uid_t uid;
};

/* worker_receive, and from whom. */
enum status worker_receive_from(int socket, struct worker_message *ret_message,
                                int ret_fds[WORKER_FDS], struct worker_sender *ret_sender,
                                struct error *error);

/* Fills a sockaddr_un; INVALID when the path is too long. */
struct sockaddr_un;
enum status worker_address(const char *path, struct sockaddr_un *ret_address, struct error *error);
