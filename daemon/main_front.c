/*
 * main of galerned: boot, wait, drain.
 *
 * Boot in order: configuration, models' files and memory, listeners' sockets (so that a second
 * daemon is refused before anything is loaded), engines and workers. The main thread then is the
 * control thread: signals, readiness and watchdog of the service manager. SIGTERM and SIGINT drain.
 * Under a service manager the sockets may be inherited (inherited.h).
 * Exit codes: 0 stopped as asked, 1 could not start or no model serves, 64 usage.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/front.h"
#include "daemon/inherited.h"
#include "daemon/listener.h"
#include "daemon/tenancy.h"

#define CONFIG_DEFAULT "/etc/galerne/galerne.yaml"
#define TICK_STARTING_NS (5 * NS_PER_MS)
#define TICK_SERVING_NS (250 * NS_PER_MS)
#define SAY_EVERY_NS NS_PER_S          /* how a start goes on */
#define START_EXTEND_US "30000000"     /* a start that still says so has as long again */
#define STOP_EXTEND_NS (20 * NS_PER_S) /* beside drain_timeout: cancelled calls, workers */

struct arguments {
    const char *config;
    bool check_config;
};

static void usage(FILE *out)
{
    fprintf(out, "usage: galerned [--config FILE] [--check-config] [--print-config]\n"
                 "Serves language models over gRPC on unix sockets and, with TLS, on TCP.\n"
                 "  --config FILE    configuration; default " CONFIG_DEFAULT "\n"
                 "  --check-config   read it, say what is wrong, exit 0 or 1\n"
                 "  --print-config   print a commented sample configuration\n"
                 "  --version, --help\n");
}

/* Returns the exit code, or -1 to go on. */
static int arguments_parse(int argc, char **argv, struct arguments *ret)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, 'k'},
        {"print-config", no_argument, NULL, 'p'}, {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int option;
    *ret = (struct arguments){.config = CONFIG_DEFAULT};
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            ret->config = optarg;
            break;
        case 'k':
            ret->check_config = true;
            break;
        case 'p':
            config_print_sample(stdout);
            return 0;
        case 'V':
            printf("galerned %s\n  %s\n", GALERNE_VERSION, ops_cpu.summary);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 64;
        }
    }
    if (optind != argc) {
        usage(stderr);
        return 64;
    }
    return -1;
}

/* ---- the service manager ---- */

struct control {
    struct front *front;
    struct listener *listener;
    enum front_state state;
    bool ready_said;
    uint64_t watchdog_ns; /* how often the manager wants a sign; 0 never */
    uint64_t fed_ns;
    uint64_t said_ns;
};

static void status_say(struct control *control, uint64_t now_ns)
{
    static const char *const texts[] = {"loading", "ready", "degraded", "failed", "draining"};
    char models[512] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < control->front->n_models; i++) {
        struct engine_status status;
        engine_status(control->front->models[i].engine, &status);
        if (status.state == ENGINE_LOADING && used < sizeof models - 80)
            used += (size_t)snprintf(models + used, sizeof models - used, ", %s%s %u %%",
                                     control->front->models[i].config->name,
                                     status.quantises ? " quantising" : "", status.load_percent);
    }
    bool starts = !control->ready_said && control->state != FRONT_FAILED;
    sd_notifyf(0, "STATUS=%s%s%s", texts[control->state], models,
               starts ? "\nEXTEND_TIMEOUT_USEC=" START_EXTEND_US : "");
    control->said_ns = now_ns;
}

static bool all_healthy(struct control *control, uint64_t now_ns)
{
    for (uint32_t i = 0; i < control->front->n_models; i++)
        if (!engine_is_healthy(control->front->models[i].engine, now_ns))
            return false;
    return listener_grpc.is_healthy(control->listener, now_ns, 10 * NS_PER_S);
}

static void watchdog_feed(struct control *control, uint64_t now_ns)
{
    if (control->watchdog_ns && now_ns - control->fed_ns >= control->watchdog_ns / 3 &&
        all_healthy(control, now_ns)) {
        sd_notify(0, "WATCHDOG=1");
        control->fed_ns = now_ns;
    }
}

/* Every model serves or has failed, and one serves. A worker that is lost in its first test leaves
 * the front degraded, with nothing to serve yet. */
static bool is_ready(struct control *control, enum front_state state)
{
    bool serves = false;
    for (uint32_t i = 0; i < control->front->n_models; i++) {
        struct engine_status status;
        engine_status(control->front->models[i].engine, &status);
        serves |= status.state == ENGINE_SERVING;
    }
    return serves && (state == FRONT_READY || state == FRONT_DEGRADED);
}

static void state_follow(struct control *control, uint64_t now_ns)
{
    enum front_state state = front_state(control->front);
    if (!control->ready_said && is_ready(control, state)) {
        control->ready_said = true;
        sd_notify(0, "READY=1");
        log_info("ready after %.0f ms",
                 (double)(now_ns - control->front->started_ns) / (double)NS_PER_MS);
    }
    if (state == control->state &&
        (control->ready_said || now_ns - control->said_ns < SAY_EVERY_NS))
        return;
    if (state == FRONT_DEGRADED && state != control->state)
        log_warning("degraded: some model does not serve");
    control->state = state;
    status_say(control, now_ns);
}

/* Returns the exit code: 0 when asked to stop, 1 when there is nothing to serve. */
static int control_run(struct control *control, const sigset_t *signals)
{
    for (;;) {
        uint64_t now_ns = clock_now_ns();
        state_follow(control, now_ns);
        watchdog_feed(control, now_ns);
        if (!control->ready_said && control->state == FRONT_FAILED) {
            log_error("no model serves");
            return 1;
        }
        struct timespec tick = {
            .tv_nsec = (long)(control->ready_said ? TICK_SERVING_NS : TICK_STARTING_NS)};
        int number = sigtimedwait(signals, NULL, &tick);
        listener_grpc.turn(control->listener, number == SIGHUP);
        struct error error;
        if (number == SIGHUP && front_reload(control->front, &error) != STATUS_OK)
            log_error("the configuration is not taken, what was in force goes on: %s", error.text);
        if (number == SIGTERM || number == SIGINT) {
            log_info("%s: draining", number == SIGTERM ? "SIGTERM" : "SIGINT");
            return 0;
        }
    }
}

static void stop_say(const struct config *config)
{
    sd_notifyf(0, "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%llu",
               (unsigned long long)((config->drain_timeout_ns + STOP_EXTEND_NS) / 1000));
}

/* ---- boot ---- */

/* The service manager's sockets are all served, or somebody would wait at one for ever. */
static enum status inherited_check(struct error *error)
{
    const char *left = inherited_left();
    if (!left)
        return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "the service manager hands over a socket \"%s\", expected galerne and admin, "
                     "each once: mend FileDescriptorName= of its unit",
                     left);
}

static int serve(const struct config *config, const sigset_t *signals)
{
    static struct front front;
    struct control control = {.front = &front};
    struct error error;
    int code = 1;
    uint64_t watchdog_us = 0;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0)
        control.watchdog_ns = watchdog_us * 1000;
    if (front_open(config, &front, &error) != STATUS_OK)
        goto failed;
    if (listener_grpc.open(&front, &control.listener, &error) != STATUS_OK)
        goto failed;
    if (inherited_check(&error) != STATUS_OK)
        goto failed;
    if (listener_grpc.start(control.listener, &error) != STATUS_OK)
        goto failed;
    for (uint32_t i = 0; i < front.n_models; i++)
        if (engine_start(front.models[i].engine, &error) != STATUS_OK)
            goto failed;

    code = control_run(&control, signals);
    stop_say(config);
    atomic_store(&front.draining, true);
    listener_grpc.drain(control.listener, clock_now_ns() + config->drain_timeout_ns);
    front_stop(&front);
    listener_grpc.close(control.listener);
    front_close(&front);
    log_info("stopped");
    return code;

failed:
    log_error("%s", error.text);
    if (control.listener) {
        front_stop(&front);
        listener_grpc.close(control.listener);
    }
    front_close(&front);
    return 1;
}

/* That the tenants' clients are who they are said to be shows only against this host's users. */
static bool clients_check(const struct config *config)
{
    struct tenancy *tenancy = NULL;
    struct error error;
    if (tenancy_open(config, &tenancy, &error) != STATUS_OK) {
        fprintf(stderr, "galerned: %s\n", error.text);
        return false;
    }
    tenancy_close(tenancy);
    return true;
}

int main(int argc, char **argv)
{
    static struct config config;
    struct arguments arguments;
    struct error error;
    int code = arguments_parse(argc, argv, &arguments);
    if (code >= 0)
        return code;
    log_open("galerned", LOG_LEVEL_INFO);
    if (inherited_read(&error) != STATUS_OK ||
        config_load(arguments.config, &config, &error) != STATUS_OK) {
        fprintf(stderr, "galerned: %s\n", error.text);
        return 1;
    }
    if (arguments.check_config) {
        if (!clients_check(&config))
            return 1;
        printf("%s: good, %u %s, %u %s\n", arguments.config, config.n_models,
               config.n_models == 1 ? "model" : "models", config.n_tenants,
               config.n_tenants == 1 ? "tenant" : "tenants");
        return 0;
    }
    log_open("galerned", (enum log_level)config.log_level);

    /* Every thread inherits the mask: only the control thread takes signals. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    return serve(&config, &signals);
}
