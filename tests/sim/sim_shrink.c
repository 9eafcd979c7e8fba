#include "tests/sim/sim_shrink.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    struct shrink shrink;
    uint64_t seed, turn; /* where the day is */
    bool alone;          /* one day was asked for */
    bool on;
    bool left_out[SHRINK_TURNS_MAX]; /* [n_turns] */
} state;

static void aborted(int signal_number)
{
    char line[200], seed[24];
    int n = snprintf(line, sizeof line,
                     "%s: seed %llu failed at turn %llu; GALERNE_SIM_SEED=%llu plays it\n",
                     state.shrink.program, (unsigned long long)state.seed,
                     (unsigned long long)state.turn, (unsigned long long)state.seed);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
    if (state.alone)
        return;
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)state.seed);
    sigset_t aborts;
    sigemptyset(&aborts);
    sigaddset(&aborts, SIGABRT);
    sigprocmask(SIG_UNBLOCK, &aborts, NULL);
    execl("/proc/self/exe", state.shrink.program, "--shrink", seed, NULL);
}

static bool day_fails(uint64_t seed)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, STDOUT_FILENO);
        dup2(nowhere, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        alarm(60); /* a day that lost its turns may never end */
        state.shrink.play(seed);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM);
}

/* Leaves out `size` turns at a time where the day fails without them; true when it did. */
static bool turns_drop(uint64_t seed, uint32_t size)
{
    bool any = false;
    for (uint32_t from = 0; from < state.shrink.n_turns; from += size) {
        bool before[SHRINK_TURNS_MAX];
        memcpy(before, state.left_out, sizeof before);
        for (uint32_t i = from; i < from + size && i < state.shrink.n_turns; i++)
            state.left_out[i] = true;
        if (memcmp(before, state.left_out, sizeof before) == 0)
            continue;
        bool was_on = state.on;
        state.on = true;
        if (day_fails(seed)) {
            any = true;
        } else {
            memcpy(state.left_out, before, sizeof before);
            state.on = was_on;
        }
    }
    return any;
}

static int day_shrink(uint64_t seed)
{
    if (!day_fails(seed))
        return 2;
    for (uint32_t size = state.shrink.n_turns / 2; size > 1; size /= 2)
        turns_drop(seed, size);
    for (int i = 0; i < 10 && turns_drop(seed, 1); i++)
        continue;
    fprintf(stderr, "%s: these turns are enough: GALERNE_SIM_SEED=%llu GALERNE_SIM_TURNS=",
            state.shrink.program, (unsigned long long)seed);
    const char *comma = "";
    for (uint32_t i = 0; i < state.shrink.n_turns; i++)
        if (!state.left_out[i]) {
            fprintf(stderr, "%s%u", comma, i);
            comma = ",";
        }
    fprintf(stderr, "%s\n", *comma ? "" : "none");
    return 2;
}

/* "3,17,20": all others are left out. */
static void turns_from(const char *text)
{
    if (!text)
        return;
    state.on = true;
    memset(state.left_out, true, sizeof state.left_out);
    while (*text >= '0' && *text <= '9') {
        char *end;
        unsigned long at = strtoul(text, &end, 10);
        if (at < state.shrink.n_turns)
            state.left_out[at] = false;
        text = *end == ',' ? end + 1 : end;
    }
}

void shrink_begin(const struct shrink *shrink, int n_arguments, char **arguments)
{
    CHECK(shrink->n_turns <= SHRINK_TURNS_MAX);
    state.shrink = *shrink;
    if (n_arguments == 3 && strcmp(arguments[1], "--shrink") == 0)
        exit(day_shrink(strtoull(arguments[2], NULL, 10)));
    state.alone = getenv("GALERNE_SIM_SEED") != NULL;
    turns_from(getenv("GALERNE_SIM_TURNS"));
    signal(SIGABRT, aborted);
}

uint64_t shrink_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    if (!text)
        return otherwise;
    char *end;
    uint64_t number = strtoull(text, &end, 10);
    if (*text == '\0' || *end != '\0') {
        fprintf(stderr, "%s: %s is '%s'; a number was expected\n", state.shrink.program, name,
                text);
        exit(2);
    }
    return number;
}

bool shrink_turn(uint64_t seed, uint64_t turn)
{
    state.seed = seed;
    state.turn = turn;
    return turn < state.shrink.n_turns && state.left_out[turn];
}

bool shrink_is_on(void)
{
    return state.on;
}

uint64_t shrink_dice(uint64_t seed, uint64_t turn)
{
    return (seed * SHRINK_TURNS_MAX + turn) * 0x2545f4914f6cdd1dull;
}
