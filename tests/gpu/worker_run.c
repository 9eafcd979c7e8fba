/*
 * worker_run: a worker of its own process gives the CPU's tokens.
 *
 * usage: worker_run WORKER BACKEND TIER MODEL ID,ID,...      (TIER "": the best)
 *
 * Starts galerne-worker with that backend as the front would, greets it, and hands it the steps of
 * a greedy answer to these ids through the shared memory, the first in two chunks. The same steps
 * run here on the CPU, with K and V in f32. Tokens must be equal, until the CPU's best two are
 * closer than rounding reaches; SURE_MIN at least must have been sure. Then the front goes and
 * another one comes, who finds the weights loaded and gets the same tokens; at last the worker is
 * asked to end, and does.
 *
 * Prints as tests of cmocka do; exit code 0 only when all of it passed.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/channel.h"
#include "daemon/worker_protocol.h"
#include "tests/golden/drive.h"

#define LOAD_LIMIT_NS (60 * NS_PER_S)
#define STEP_LIMIT_NS (60 * NS_PER_S)
#define END_LIMIT_NS (10 * NS_PER_S)
#define PROMPT_MAX 64
#define ANSWER_TOKENS 8
#define SURE_MIN 4
#define SURE_GAP 0.1f /* of logits: more than rounding to bf16 moves them */

extern char **environ;

static struct {
    const char *worker, *backend, *tier, *model;
    uint32_t prompt[PROMPT_MAX], n_prompt;
    char folder[64], socket_path[96];
    pid_t child;
} run;

static void stop(void)
{
    if (run.child > 0) {
        kill(run.child, SIGKILL);
        waitpid(run.child, NULL, 0);
    }
    unlink(run.socket_path);
    rmdir(run.folder);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "worker_run: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    stop();
    exit(1);
}

/* ---- the worker's process ---- */

static void worker_start(void)
{
    snprintf(run.folder, sizeof run.folder, "/tmp/worker-run-XXXXXX");
    if (!mkdtemp(run.folder))
        fail("no folder for a socket in /tmp: %s", strerror(errno));
    snprintf(run.socket_path, sizeof run.socket_path, "%s/socket", run.folder);
    const char *arguments[] = {run.worker,  "--path",    run.model,   "--socket", run.socket_path,
                               "--backend", run.backend, "--threads", "1",        NULL,
                               NULL,        NULL};
    if (run.tier[0]) {
        arguments[9] = "--tier";
        arguments[10] = run.tier;
    }
    int code =
        posix_spawn(&run.child, run.worker, NULL, NULL, (char **)(uintptr_t)arguments, environ);
    if (code)
        fail("%s: %s", run.worker, strerror(code));
}

static int worker_connect(void)
{
    struct sockaddr_un address;
    struct error error = {0};
    if (worker_address(run.socket_path, &address, &error) != STATUS_OK)
        fail("%s", error.text);
    uint64_t end_ns = clock_now_ns() + END_LIMIT_NS;
    while (clock_now_ns() < end_ns) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        if (fd >= 0)
            close(fd);
        if (waitpid(run.child, NULL, WNOHANG) == run.child) {
            run.child = 0;
            fail("the worker ended before it listened");
        }
        usleep(10000);
    }
    fail("the worker does not listen");
}

static void worker_end(void)
{
    kill(run.child, SIGTERM);
    int status = 0;
    uint64_t end_ns = clock_now_ns() + END_LIMIT_NS;
    while (waitpid(run.child, &status, WNOHANG) == 0) {
        if (clock_now_ns() > end_ns)
            fail("the worker does not end when it is asked to");
        usleep(10000);
    }
    run.child = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("the worker ended badly: status 0x%x", (unsigned)status);
}

/* ---- a front ---- */

struct front {
    int socket;
    struct channel channel;
    struct drive cpu;
    uint64_t epoch;
    uint32_t answer[ANSWER_TOKENS], sure; /* the worker's; how many were compared */
};

static void front_greet(struct front *f)
{
    struct error error = {0};
    if (channel_create(&f->cpu.limits, &f->channel, &error) != STATUS_OK)
        fail("%s", error.text);
    struct worker_message message = {.hello = {.limits = f->cpu.limits}};
    int fds[WORKER_FDS] = {f->channel.memory_fd, f->channel.wake_down.fd, f->channel.wake_up.fd};
    memcpy(message.hello.model_digest, model_info(f->cpu.model)->digest, 32);
    if (worker_send(f->socket, WORKER_HELLO, &message, fds, &error) != STATUS_OK)
        fail("hello: %s", error.text);
    uint64_t end_ns = clock_now_ns() + LOAD_LIMIT_NS;
    for (;;) {
        struct pollfd wait = {.fd = f->socket, .events = POLLIN};
        if (clock_now_ns() > end_ns || poll(&wait, 1, (int)(LOAD_LIMIT_NS / NS_PER_MS)) <= 0)
            fail("the model is not loaded after %u s", (unsigned)(LOAD_LIMIT_NS / NS_PER_S));
        enum status status = worker_receive(f->socket, &message, fds, &error);
        if (status == STATUS_EXHAUSTED)
            continue;
        if (status != STATUS_OK)
            fail("the worker left while it loaded: %s", error.text);
        if (message.kind == WORKER_FAILED)
            fail("%.*s", ERROR_TEXT_MAX_BYTES, message.failed.text);
        if (message.kind == WORKER_READY)
            break;
    }
    f->epoch = message.ready.epoch;
    if (memcmp(message.ready.model_digest, model_info(f->cpu.model)->digest, 32) != 0)
        fail("the worker has another model");
    printf("device: %.96s, epoch %llu\n", message.ready.device, (unsigned long long)f->epoch);
}

/* Of the step that `cpu` is about to run. */
static void step_hand_over(struct front *f)
{
    struct step *step = ring_reserve(f->channel.down);
    if (!step)
        fail("the ring of steps is full");
    memcpy(step, f->cpu.step, f->cpu.step_bytes);
    step->epoch = f->epoch;
    step->time_limit_ns = STEP_LIMIT_NS;
    ring_commit(f->channel.down);
    wake_signal(&f->channel.wake_down);
}

static const struct step_result *result_await(struct front *f)
{
    uint64_t end_ns = clock_now_ns() + STEP_LIMIT_NS;
    const struct step_result *result;
    while (!(result = ring_peek(f->channel.up))) {
        struct pollfd fds[2] = {{.fd = f->channel.wake_up.fd, .events = POLLIN},
                                {.fd = f->socket, .events = POLLIN}};
        struct worker_message message;
        int unused[WORKER_FDS];
        poll(fds, 2, 1000);
        wake_clear(&f->channel.wake_up);
        if (fds[1].revents &&
            worker_receive(f->socket, &message, unused, NULL) == STATUS_UNAVAILABLE &&
            !ring_peek(f->channel.up))
            fail("the worker was lost in a step");
        if (clock_now_ns() > end_ns)
            fail("a step took more than %u s", (unsigned)(STEP_LIMIT_NS / NS_PER_S));
    }
    if (result->status != STATUS_OK)
        fail("a step failed: %.256s", result->error_text);
    return result;
}

static float gap_of(struct front *f, uint32_t best)
{
    const float *logits = drive_logits(&f->cpu, 0);
    float next = -INFINITY;
    for (uint32_t i = 0; i < model_info(f->cpu.model)->arch.vocab; i++)
        next = i != best && logits[i] > next ? logits[i] : next;
    return logits[best] - next;
}

/* Both compute the step; the worker's token, when there is one, is compared while it is sure. */
static void step_both(struct front *f, uint32_t at, bool samples, bool *sure)
{
    step_hand_over(f);
    const struct step_result *ours = drive_run(&f->cpu), *theirs = result_await(f);
    if (theirs->n_rows != samples || ours->n_rows != samples)
        fail("a step gave %u rows", theirs->n_rows);
    if (samples) {
        f->answer[at] = theirs->rows[0].sample.id;
        uint32_t wanted = ours->rows[0].sample.id;
        *sure = *sure && gap_of(f, wanted) > SURE_GAP;
        if (*sure && f->answer[at] != wanted)
            fail("token %u is %u, the CPU's is %u", at, f->answer[at], wanted);
        *sure = *sure && f->answer[at] == wanted;
        f->sure += *sure;
    }
    ring_release(f->channel.up);
}

static void front_run(struct front *f, const struct step_limits *limits)
{
    struct drive_backend backend = {.ops = &ops_cpu, .threads_count = 1};
    struct error error = {0};
    *f = (struct front){.channel = CHANNEL_CLOSED, .socket = worker_connect()};
    if (drive_open(&f->cpu, run.model, &backend, limits, &error) != STATUS_OK)
        fail("on the CPU: %s", error.text);
    front_greet(f);
    bool sure = true;
    uint32_t half = run.n_prompt / 2;
    drive_slot_open(&f->cpu, 1, run.prompt, run.n_prompt, NULL);
    drive_row(&f->cpu, 1, half, STEP_HISTORY, false);
    step_both(f, 0, false, &sure);
    for (uint32_t i = 0; i < ANSWER_TOKENS; i++) {
        drive_row(&f->cpu, 1, i ? 1 : run.n_prompt - half, i ? STEP_LAST_SAMPLED : STEP_HISTORY,
                  true);
        step_both(f, i, true, &sure);
    }
    if (f->sure < SURE_MIN)
        fail("%u tokens were sure, %u are too few to compare", f->sure, f->sure);
    close(f->socket);
    channel_close(&f->channel);
    drive_close(&f->cpu);
}

static bool arguments_take(char **argv)
{
    run.worker = argv[1];
    run.backend = argv[2];
    run.tier = argv[3];
    run.model = argv[4];
    for (char *at = argv[5]; *at && run.n_prompt < PROMPT_MAX; at += *at == ',') {
        char *end;
        run.prompt[run.n_prompt++] = (uint32_t)strtoul(at, &end, 10);
        if (end == at || (*end && *end != ','))
            return false;
        at = end;
    }
    return run.n_prompt >= 2;
}

int main(int argc, char **argv)
{
    static const struct step_limits limits = {.slots_max = 4,
                                              .rows_max = 8,
                                              .tokens_max = 64,
                                              .open_tokens_max = 256,
                                              .context_tokens = 128,
                                              .block_tokens = 16,
                                              .blocks_count = 16,
                                              .kv_dtype = DTYPE_F32};
    if (argc != 6 || !arguments_take(argv)) {
        fprintf(stderr, "usage: worker_run WORKER BACKEND TIER MODEL ID,ID,...\n");
        return 64;
    }
    struct front first, second;
    worker_start();
    front_run(&first, &limits);
    printf("[       OK ] the worker's tokens are the CPU's: %u\n", first.sure);
    front_run(&second, &limits);
    if (second.epoch == first.epoch ||
        memcmp(first.answer, second.answer, sizeof first.answer) != 0)
        fail("the second front got other tokens, or the same epoch");
    printf("[       OK ] another front gets the same\n");
    worker_end();
    stop();
    printf("[       OK ] it ends when it is asked to\n");
    return 0;
}
