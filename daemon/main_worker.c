/*
 * main of galerne-worker: listens on its socket and serves one front after the other.
 *
 * Started by the front (which passes --linger-ms, so that a worker without a front goes away), or
 * by the service manager, which passes the listening socket and with --config and --model says
 * where to read what the model is. Exit codes: 0 asked to stop or no front for too long, 1 could
 * not start, 64 usage.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/worker.h"
#include "daemon/worker_boot.h"
#include "daemon/worker_protocol.h"

#define ACCEPT_LOOK_NS (200 * NS_PER_MS)
#define CONFIG_DEFAULT "/etc/galerne/galerne.yaml"

static atomic_bool stop;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&stop, true);
}

struct arguments {
    struct worker_options worker;
    const char *config;
    const char *model;  /* its name in the configuration; NULL: everything is on the command line */
    const char *socket; /* NULL: inherited, or where the front looks for it */
    uint64_t linger_ns; /* 0: wait for a front for ever */
};

static void usage(FILE *out)
{
    fprintf(out,
            "usage: galerne-worker --model NAME [--config FILE]\n"
            "       galerne-worker --path MODEL --socket PATH [options]\n"
            "Runs one model for galerned. galerned or the service manager starts it; there is no\n"
            "need to start it by hand. A socket that the service manager hands over is used.\n"
            "  --model NAME      the model of that name in the configuration\n"
            "  --config FILE     the configuration; default " CONFIG_DEFAULT "\n"
            "  --name NAME       name of the model, for the log\n"
            "  --path MODEL      directory with config.json and safetensors, or a .gguf file\n"
            "  --socket PATH     unix socket to listen on\n"
            "  --backend NAME    cpu (default), cuda, auto (a GPU if there is one) or ref\n"
            "  --tier NAME       CPU tier: scalar, avx2, avx2-vnni, avx512, avx512-vnni or\n"
            "                    avx512-bf16; default: the best of this CPU\n"
            "  --threads N       CPU threads; 0 (default): all that the process may use\n"
            "  --cache-dir DIR   where weights that it quantised are kept; default: nowhere\n"
            "  --linger-ms N     exit after so long without a front; 0 (default): never\n"
            "  --version, --help\n");
}

static int misuse(void)
{
    usage(stderr);
    return 64;
}

static bool number_parse(const char *text, uint64_t max, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || end == text || *end || n > max || text[0] == '-')
        return false;
    *ret_number = n;
    return true;
}

/* Returns the exit code, or -1 to go on. */
static int arguments_parse(int argc, char **argv, struct arguments *ret)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'f'},
                                            {"model", required_argument, NULL, 'm'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"path", required_argument, NULL, 'p'},
                                            {"socket", required_argument, NULL, 's'},
                                            {"backend", required_argument, NULL, 'b'},
                                            {"tier", required_argument, NULL, 't'},
                                            {"threads", required_argument, NULL, 'c'},
                                            {"cache-dir", required_argument, NULL, 'd'},
                                            {"linger-ms", required_argument, NULL, 'l'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    uint64_t number = 0;
    int option;
    *ret =
        (struct arguments){.worker = {.name = "model", .backend = "cpu"}, .config = CONFIG_DEFAULT};
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool good = true;
        switch (option) {
        case 'f':
            ret->config = optarg;
            break;
        case 'm':
            ret->model = optarg;
            break;
        case 'n':
            ret->worker.name = optarg;
            break;
        case 'p':
            ret->worker.path = optarg;
            break;
        case 's':
            ret->socket = optarg;
            break;
        case 'b':
            ret->worker.backend = optarg;
            break;
        case 't':
            ret->worker.tier = optarg;
            break;
        case 'c':
            good = number_parse(optarg, 256, &number);
            ret->worker.threads_count = (uint32_t)number;
            break;
        case 'd':
            ret->worker.cache_dir = optarg;
            break;
        case 'l':
            good = number_parse(optarg, 86400000, &number);
            ret->linger_ns = number * NS_PER_MS;
            break;
        case 'V':
            printf("galerne-worker %s\n", GALERNE_VERSION);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        default:
            return misuse();
        }
        if (!good) {
            fprintf(stderr, "galerne-worker: %s is not a number in range\n", optarg);
            return 64;
        }
    }
    return !ret->model == !ret->worker.path || optind != argc ? misuse() : -1;
}

/* ---- the socket ---- */

static int socket_listen(const char *path)
{
    struct sockaddr_un address;
    struct error error;
    if (worker_address(path, &address, &error) != STATUS_OK) {
        log_error("%s", error.text);
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    unlink(path); /* the front asked for this worker because nobody answered there */
    int rc = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(mask);
    if (rc < 0 || listen(fd, 4) < 0) {
        log_error("listening on %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static void fronts_serve(const struct arguments *arguments, int listener)
{
    struct worker worker;
    worker_init(&worker, &arguments->worker, &stop);
    uint64_t alone_since_ns = clock_now_ns();
    while (!atomic_load(&stop)) {
        struct pollfd fd = {.fd = listener, .events = POLLIN};
        poll(&fd, 1, (int)(ACCEPT_LOOK_NS / NS_PER_MS));
        int front = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (front >= 0) {
            struct error error;
            if (worker_session(&worker, front, &error) != STATUS_OK)
                log_error("%s: %s", arguments->worker.name, error.text);
            alone_since_ns = clock_now_ns();
        } else if (arguments->linger_ns && clock_now_ns() - alone_since_ns > arguments->linger_ns) {
            log_info("%s: no front for %llu ms, leaving", arguments->worker.name,
                     (unsigned long long)(arguments->linger_ns / NS_PER_MS));
            break;
        }
    }
    worker_close(&worker);
}

/* On a socket of our own, which goes with us. */
static int socket_serve(const struct arguments *arguments)
{
    int listener = socket_listen(arguments->socket);
    if (listener < 0)
        return 1;
    struct stat ours = {0}, there = {0};
    stat(arguments->socket, &ours);
    fronts_serve(arguments, listener);
    /* Another worker may have taken our place: its socket is not ours to remove. */
    if (stat(arguments->socket, &there) == 0 && there.st_ino == ours.st_ino)
        unlink(arguments->socket);
    close(listener);
    return 0;
}

int main(int argc, char **argv)
{
    struct arguments arguments;
    struct error error;
    int inherited = -1;
    int code = arguments_parse(argc, argv, &arguments);
    if (code >= 0)
        return code;
    log_open("galerne-worker", LOG_LEVEL_INFO);
    enum status status = worker_boot_inherit(&inherited, &error);
    if (status == STATUS_OK && arguments.model)
        status = worker_boot_configure(arguments.config, arguments.model, &arguments.worker,
                                       &arguments.socket, &error);
    if (status == STATUS_OK && inherited < 0 && !arguments.socket)
        status = error_set(&error, STATUS_INVALID,
                           "no socket: say where with --socket, or name a model with --model");
    if (status != STATUS_OK) {
        log_error("%s", error.text);
        return 1;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (inherited < 0)
        return socket_serve(&arguments);
    /* The service manager's socket stays where it is, and we stay too: it says when to stop. */
    arguments.linger_ns = 0;
    fronts_serve(&arguments, inherited);
    close(inherited);
    return 0;
}
