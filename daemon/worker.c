#include "daemon/worker.h"

#include <poll.h>
#include <stdarg.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/channel.h"
#include "daemon/worker_protocol.h"
#include "kernels/module.h"

/* How often an idle worker looks at its stop flag. */
#define WORKER_LOOK_NS (100 * NS_PER_MS)
/* A look at the device takes milliseconds, so it is rare, and taken when no step waits. */
#define FACTS_EVERY_NS (10 * NS_PER_S)
/* A front says hello at once; one that does not must not keep the next one waiting. */
#define HELLO_WAIT_MS 5000

void worker_init(struct worker *worker, const struct worker_options *options, atomic_bool *stop)
{
    *worker = (struct worker){.options = *options, .stop = stop};
    /* Epochs of different worker processes must differ; those of one process count up. */
    if (getrandom(&worker->epoch, sizeof worker->epoch, 0) != sizeof worker->epoch)
        worker->epoch = clock_now_ns();
    worker->epoch &= UINT64_MAX >> 8;
}

void worker_close(struct worker *worker)
{
    if (worker->model)
        model_close(worker->model);
    worker->model = NULL;
}

static bool worker_stopping(const struct worker *worker)
{
    return worker->stop && atomic_load(worker->stop);
}

/* ---- the hello ---- */

struct loading {
    const char *name; /* of the model */
    int socket;
};

static void progress_report(void *context, enum model_stage stage, uint32_t percent)
{
    const struct loading *loading = context;
    struct worker_message message = {.progress = {.stage = stage, .percent = percent}};
    worker_send(loading->socket, WORKER_PROGRESS, &message, NULL, NULL);
}

static void progress_note(void *context, bool is_warning, const char *text)
{
    const struct loading *loading = context;
    log_line(is_warning ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "model %s: %s", loading->name, text);
}

/* Said once, when the model is loaded: whoever runs it may not know what they miss. */
static void tier_say(const struct worker *worker)
{
    const char *asked = worker->options.tier, *named = getenv("GALERNE_CPU_TIER");
    const char *why = "this CPU has no AVX2 with FMA and F16C";
    if (strncmp(model_device_text(worker->model), "cpu scalar,", strlen("cpu scalar,")) != 0)
        return;
    if (asked && asked[0])
        why = "as its configuration says";
    else if (named && named[0])
        why = "as GALERNE_CPU_TIER says";
    log_warning("model %s runs in the tier scalar, without vector instructions, many times slower: "
                "%s",
                worker->options.name, why);
}

/* ---- what the device says of itself ---- */

static void text_append(char *text, size_t text_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void text_append(char *text, size_t text_bytes, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, text_bytes - used, format, arguments);
    va_end(arguments);
}

/* The opening line. */
static void facts_say(const struct worker *worker)
{
    const struct device_facts *f = &worker->facts;
    const double gib = 1 << 30;
    char text[256];
    snprintf(text, sizeof text, "%s%s%s", f->name[0] ? f->name : model_device_text(worker->model),
             f->driver[0] ? ", driver " : "", f->driver);
    if (f->known & DEVICE_MEMORY)
        text_append(text, sizeof text, ", %.1f of %.1f GiB free",
                    (double)f->memory_free_bytes / gib, (double)f->memory_bytes / gib);
    if (f->known & DEVICE_TEMPERATURE)
        text_append(text, sizeof text, ", %u C", f->temperature_celsius);
    if (f->known & DEVICE_POWER)
        text_append(text, sizeof text, ", %u W", f->power_milliwatts / 1000);
    if (f->known & DEVICE_ECC)
        text_append(text, sizeof text, ", memory errors: %llu corrected, %llu not",
                    (unsigned long long)f->ecc_corrected_total,
                    (unsigned long long)f->ecc_uncorrected_total);
    if (f->known || f->driver[0])
        log_info("model %s: device %s", worker->options.name, text);
    if (f->note[0])
        log_info("model %s: %s", worker->options.name, f->note);
}

/* What has become worse since the last look; `before` NULL: the first one. */
static void facts_warn(const struct worker *worker, const struct device_facts *before)
{
    const struct device_facts *f = &worker->facts;
    uint64_t errors = before ? before->ecc_uncorrected_total : 0;
    if (f->known & DEVICE_ECC && f->ecc_uncorrected_total > errors)
        log_warning("model %s: the device's memory had %llu errors that could not be corrected: "
                    "if more follow, have it looked at",
                    worker->options.name, (unsigned long long)f->ecc_uncorrected_total);
    uint32_t hot = DEVICE_THROTTLE_HEAT | DEVICE_THROTTLE_OTHER;
    if (f->known & DEVICE_THROTTLE && f->throttle & hot && !(before && before->throttle & hot))
        log_warning("model %s: the device runs slower than it could, %s: see to its cooling",
                    worker->options.name,
                    f->throttle & DEVICE_THROTTLE_HEAT ? "it is too hot" : "as it says itself");
}

static void facts_turn(struct worker *worker, int socket)
{
    uint64_t now_ns = clock_now_ns();
    struct device_facts before = worker->facts;
    bool first = worker->facts_ns == 0;
    if (!first && now_ns - worker->facts_ns < FACTS_EVERY_NS)
        return;
    worker->facts_ns = now_ns;
    if (!model_device_facts(worker->model, &worker->facts))
        return;
    if (first)
        facts_say(worker);
    facts_warn(worker, first ? NULL : &before);
    struct worker_message message = {.facts = worker->facts};
    if (worker->facts.known)
        worker_send(socket, WORKER_FACTS, &message, NULL, NULL); /* the next one may fit */
}

/* ---- the model ---- */

/* Opens the GPU, and the smallest KV cache on it, which tells whether it keeps K and V as asked. */
static enum status gpu_try(const struct ops *ops, const struct step_limits *limits,
                           struct error *why)
{
    const struct kv_shape shape = {.n_layers = 1,
                                   .n_kv_heads = 1,
                                   .head_dim = 64,
                                   .block_tokens = 16,
                                   .blocks_count = 1,
                                   .slots_count = 1,
                                   .slot_blocks_max = 1,
                                   .dtype = (enum dtype)limits->kv_dtype};
    struct device *device;
    struct kv *kv;
    enum status status = ops->device_open(&(struct device_options){0}, &device, why);
    if (status != STATUS_OK)
        return status;
    status = ops->kv_open(device, &shape, &kv, why);
    if (status == STATUS_OK)
        ops->kv_close(device, kv);
    ops->device_close(device);
    return status;
}

/* "auto": a GPU where one can be opened that keeps K and V as asked; else the CPU, and one line
 * says why. */
static enum status backend_choose(const struct worker *worker, const struct step_limits *limits,
                                  const struct ops **ret_ops, struct error *error)
{
    if (strcmp(worker->options.backend, "auto") != 0)
        return module_ops(worker->options.backend, ret_ops, error);
    struct error why = {0};
    const struct ops *ops;
    enum status status = module_ops("cuda", &ops, &why);
    if (status == STATUS_OK)
        status = gpu_try(ops, limits, &why);
    if (status != STATUS_OK)
        log_info("model %s: the CPU serves it: %s", worker->options.name, why.text);
    *ret_ops = status == STATUS_OK ? ops : &ops_cpu;
    return STATUS_OK;
}

static enum status model_prepare(struct worker *worker, int socket,
                                 const struct step_limits *limits, struct error *error)
{
    if (worker->model && memcmp(limits, &worker->limits, sizeof *limits) == 0) {
        model_reset(worker->model);
        return STATUS_OK;
    }
    worker_close(worker);
    const struct ops *ops;
    enum status status = backend_choose(worker, limits, &ops, error);
    if (status != STATUS_OK)
        return status;
    /* What "auto" found has no tier of the CPU. */
    const char *tier = ops_find(ops->name) || strcmp(worker->options.backend, "auto") != 0
                           ? worker->options.tier
                           : NULL;
    struct model_options options = {
        .ops = ops,
        .device = {.threads_count = worker->options.threads_count,
                   .tier = tier && tier[0] ? tier : NULL},
        .limits = *limits,
        .cache_dir = worker->options.cache_dir,
    };
    struct loading loading = {.name = worker->options.name, .socket = socket};
    struct model_progress progress = {
        .report = progress_report, .note = progress_note, .context = &loading};
    status = model_open(worker->options.path, &options, &progress, &worker->model, error);
    if (status == STATUS_OK) {
        worker->limits = *limits;
        tier_say(worker);
    }
    return status;
}

static enum status ready_send(struct worker *worker, int socket, struct error *error)
{
    const struct model_plan *plan = model_info(worker->model);
    struct worker_message message = {.ready = {.epoch = worker->epoch,
                                               .weights_bytes = plan->weights_bytes,
                                               .kv_block_bytes = plan->kv_block_bytes,
                                               .block_tokens = worker->limits.block_tokens,
                                               .blocks_count = worker->limits.blocks_count}};
    memcpy(message.ready.model_digest, plan->digest, sizeof plan->digest);
    snprintf(message.ready.device, sizeof message.ready.device, "%s",
             model_device_text(worker->model));
    return worker_send(socket, WORKER_READY, &message, NULL, error);
}

static enum status hello_take(struct worker *worker, int socket, struct channel *channel,
                              struct error *error)
{
    struct worker_message hello;
    int fds[WORKER_FDS];
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    if (poll(&wait, 1, HELLO_WAIT_MS) <= 0)
        return error_set(error, STATUS_UNAVAILABLE, "no hello within %d ms", HELLO_WAIT_MS);
    enum status status = worker_receive(socket, &hello, fds, error);
    if (status != STATUS_OK)
        return status;
    if (hello.kind != WORKER_HELLO)
        return error_set(error, STATUS_INVALID, "message kind %u came before the hello",
                         hello.kind);
    status = step_limits_check(&hello.hello.limits, error);
    if (status != STATUS_OK) {
        for (uint32_t i = 0; i < WORKER_FDS; i++)
            close(fds[i]);
        return status;
    }
    /* The front learns at once who serves it: the socket may be the service manager's. */
    progress_report(&(struct loading){.socket = socket}, MODEL_LOADING, 0);
    status = channel_attach(&hello.hello.limits, fds, channel, error);
    if (status == STATUS_OK)
        status = model_prepare(worker, socket, &hello.hello.limits, error);
    if (status == STATUS_OK &&
        memcmp(model_info(worker->model)->digest, hello.hello.model_digest, 32) != 0) {
        worker_close(worker); /* the next hello reads the files anew */
        status = error_set(error, STATUS_UNAVAILABLE,
                           "%s changed since the front read it: restart the daemon",
                           worker->options.path);
    }
    return status;
}

/* ---- steps ---- */

static void step_run(struct worker *worker, const struct channel *channel, const struct step *step)
{
    struct step_result *result = ring_reserve(channel->up);
    CHECK(
        result); /* as many result slots as step slots, and a step keeps its own until we answer */
    uint64_t started_ns = clock_now_ns();
    if (step->epoch != worker->epoch) {
        *result = (struct step_result){
            .version = STEP_VERSION, .status = STATUS_INVALID, .number = step->number};
        snprintf(result->error_text, sizeof result->error_text, "the step is of another epoch");
    } else {
        char note[256];
        model_step(worker->model, step, channel->down->stride_bytes, result);
        if (result->status == STATUS_INTERNAL)
            log_error("model %s: %s; this worker ends", worker->options.name, result->error_text);
        if (model_note_take(worker->model, note, sizeof note))
            log_warning("model %s: %s", worker->options.name, note);
    }
    result->epoch = worker->epoch;
    result->run_ns = clock_now_ns() - started_ns;
    ring_commit(channel->up);
    ring_release(channel->down);
    wake_signal(&channel->wake_up);
}

/* True while the front is there. */
static bool steps_wait(const struct channel *channel, int socket)
{
    struct pollfd fds[2] = {{.fd = channel->wake_down.fd, .events = POLLIN},
                            {.fd = socket, .events = POLLIN}};
    poll(fds, 2, (int)(WORKER_LOOK_NS / NS_PER_MS));
    /* The front says nothing more after its hello: anything on the socket is its end. */
    return fds[1].revents == 0;
}

enum status worker_session(struct worker *worker, int socket, struct error *error)
{
    struct channel channel = CHANNEL_CLOSED;
    struct error local;
    error = error ? error : &local;
    enum status status = hello_take(worker, socket, &channel, error);
    if (status == STATUS_OK) {
        worker->epoch++;
        worker->facts_ns = 0;
        status = ready_send(worker, socket, error);
    } else {
        struct worker_message message = {.failed = {.status = status}};
        snprintf(message.failed.text, sizeof message.failed.text, "%s", error->text);
        worker_send(socket, WORKER_FAILED, &message, NULL, NULL);
    }
    bool front_here = status == STATUS_OK;
    while (front_here && !worker_stopping(worker)) {
        wake_clear(&channel.wake_down);
        const struct step *step;
        while ((step = ring_peek(channel.down)))
            step_run(worker, &channel, step);
        facts_turn(worker, socket);
        front_here = steps_wait(&channel, socket);
    }
    channel_close(&channel);
    close(socket);
    return status;
}
