#include <inttypes.h>
#include <time.h>

#include "admin/command.h"
#include "admin/message_json.h"
#include "admin/output.h"
#include "base/clock.h"
#include "proto/admin.pb-c.h"

#define SCREEN_CLEAR "\033[H\033[2J"

static struct {
    bool follow;
    uint64_t interval_ns;
} options = {.interval_ns = NS_PER_S};

struct answer {
    bool as_json;
    Galerne__Admin__V1__DaemonState state;
};

/* "DAEMON_STATE_READY" -> "ready". */
static void state_text(const ProtobufCEnumDescriptor *type, int number, const char *prefix,
                       char *ret_text, size_t capacity)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(type, number);
    snprintf(ret_text, capacity, "%s", value ? value->name + strlen(prefix) : "unknown");
    for (char *c = ret_text; *c; c++)
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
}

static void daemon_print(const Galerne__Admin__V1__StatusResponse *status)
{
    char state[32], up[32], memory[32];
    state_text(&galerne__admin__v1__daemon_state__descriptor, (int)status->state, "DAEMON_STATE_",
               state, sizeof state);
    duration_text(status->uptime_ms, up, sizeof up);
    bytes_text(status->resident_bytes, memory, sizeof memory);
    char *version = output_escape(span_of(status->version));
    printf("galerned %s  %s  up %s  pid %u  memory %s  calls %u open, %" PRIu64 " in all\n\n",
           version, state, up, status->pid, memory, status->calls_open, status->calls_total);
    free(version);
}

static void model_print(struct table *table, const Galerne__Admin__V1__ModelStatus *m)
{
    char state[32], memory[32];
    const char *slash = strchr(m->name, '/');
    bool serves = m->worker_state == GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_SERVING;
    bool failed = m->worker_state == GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_FAILED;
    state_text(&galerne__admin__v1__worker_state__descriptor, (int)m->worker_state, "WORKER_STATE_",
               state, sizeof state);
    bytes_text(m->worker_resident_bytes, memory, sizeof memory);
    table_line(table);
    table_cell(table, TONE_PLAIN, "%s", slash ? slash + 1 : m->name);
    if (m->worker_state == GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_LOADING)
        table_cell(table, TONE_CARE, "%s %u %%", m->quantising ? "quantising" : state,
                   m->load_percent);
    else
        table_cell(table, serves ? TONE_GOOD : failed ? TONE_BAD : TONE_CARE, "%s", state);
    table_cell(table, TONE_PLAIN, "%s", m->device);
    table_cell(table, TONE_PLAIN, "%u", m->requests_running);
    table_cell(table, TONE_PLAIN, "%u", m->requests_waiting);
    table_cell(table, TONE_PLAIN, "%u/%u", m->kv_blocks_used, m->kv_blocks_count);
    table_cell(table, TONE_PLAIN, "%s", memory);
    table_cell(table, TONE_PLAIN, "%" PRIu64, m->requests_total);
    table_cell(table, TONE_PLAIN, "%" PRIu64, m->output_tokens_total);
    table_cell(table, m->restarts_total ? TONE_CARE : TONE_PLAIN, "%u", m->restarts_total);
}

static void tenant_print(struct table *table, const Galerne__Admin__V1__ModelStatus *m,
                         const Galerne__Admin__V1__TenantStatus *t)
{
    const char *slash = strchr(m->name, '/');
    char limit[16] = "none";
    if (t->kv_blocks_limit)
        snprintf(limit, sizeof limit, "%u", t->kv_blocks_limit);
    table_line(table);
    table_cell(table, TONE_PLAIN, "%s", slash ? slash + 1 : m->name);
    table_cell(table, t->closed ? TONE_CARE : TONE_PLAIN, "%s%s", t->name,
               t->closed ? " (closed)" : "");
    table_cell(table, TONE_PLAIN, "%s", t->parent[0] ? t->parent : "-");
    table_cell(table, TONE_PLAIN, "%.1f %%", (double)t->share_permille / 10);
    table_cell(table, TONE_PLAIN, "%u", t->requests_running);
    table_cell(table, TONE_PLAIN, "%u", t->requests_waiting);
    table_cell(table, TONE_PLAIN, "%u", t->kv_blocks_used);
    table_cell(table, TONE_PLAIN, "%u", t->kv_blocks_reserved);
    table_cell(table, TONE_PLAIN, "%s", limit);
    table_cell(table, TONE_PLAIN, "%" PRIu64, t->prompt_tokens_total);
    table_cell(table, TONE_PLAIN, "%" PRIu64, t->cached_tokens_total);
    table_cell(table, TONE_PLAIN, "%" PRIu64, t->output_tokens_total);
}

static void tenants_print(const Galerne__Admin__V1__StatusResponse *status)
{
    static const struct table_column columns[] = {
        {"MODEL", false},   {"TENANT", false},   {"PART OF", false}, {"SHARE", true},
        {"RUNNING", true},  {"WAITING", true},   {"KV USED", true},  {"KV RESERVED", true},
        {"KV LIMIT", true}, {"TOKENS IN", true}, {"CACHED", true},   {"TOKENS OUT", true}};
    size_t n = 0;
    for (size_t i = 0; i < status->n_models; i++)
        n += status->models[i]->n_tenants;
    if (!n)
        return;
    putchar('\n');
    struct table *table = table_new(columns, array_count(columns));
    for (size_t i = 0; i < status->n_models; i++)
        for (size_t j = 0; j < status->models[i]->n_tenants; j++)
            tenant_print(table, status->models[i], status->models[i]->tenants[j]);
    table_print(table);
    table_free(table);
}

/* Rare, and worth a line of its own when it happened. */
static void not_finite_print(const Galerne__Admin__V1__StatusResponse *status)
{
    for (size_t i = 0; i < status->n_models; i++) {
        const Galerne__Admin__V1__ModelStatus *m = status->models[i];
        const char *slash = strchr(m->name, '/');
        if (m->requests_not_finite_total)
            printf(
                "\n%s: requests ended by a number that is not finite (NaN or too large): %" PRIu64
                "\n",
                slash ? slash + 1 : m->name, m->requests_not_finite_total);
    }
}

/* The same: each worker that was lost, by cause. */
static void ends_print(const char *name, const Galerne__Admin__V1__ModelStatus *m)
{
    const Galerne__Admin__V1__WorkerEnds *e = m->worker_ends;
    if (!e)
        return;
    const struct {
        uint64_t count;
        const char *cause;
    } rows[] = {{e->died, "died"},
                {e->hung, "hung"},
                {e->device, "had a device that failed"},
                {e->nonsense, "answered what nobody had asked"},
                {e->start, "did not come up"}};
    char text[256] = "";
    for (size_t i = 0, used = 0; i < array_count(rows) && used < sizeof text; i++)
        if (rows[i].count)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRIu64 " %s",
                                     used ? ", " : "", rows[i].count, rows[i].cause);
    if (!text[0])
        return;
    char *why = output_escape(span_of(m->worker_end_text));
    printf("\n%s: workers lost: %s; the last: %s\n", name, text, why);
    free(why);
}

static void facts_print(const char *name, const Galerne__Admin__V1__ModelStatus *m)
{
    const Galerne__Admin__V1__DeviceFacts *f = m->device_facts;
    const double gib = 1 << 30;
    if (!f)
        return;
    char *device = output_escape(span_of(f->name[0] ? f->name : m->device));
    char *driver = output_escape(span_of(f->driver));
    printf("\n%s: %s%s%s", name, device, driver[0] ? ", driver " : "", driver);
    if (f->_memory_bytes_case && f->_memory_free_bytes_case)
        printf(", %.1f of %.1f GiB free", (double)f->memory_free_bytes / gib,
               (double)f->memory_bytes / gib);
    if (f->_temperature_celsius_case)
        printf(", %u C", f->temperature_celsius);
    if (f->_power_watts_case)
        printf(", %u W", (unsigned)f->power_watts);
    if (f->_ecc_corrected_total_case && f->_ecc_uncorrected_total_case)
        printf(", memory errors: %" PRIu64 " corrected, %" PRIu64 " not", f->ecc_corrected_total,
               f->ecc_uncorrected_total);
    for (size_t i = 0; i < f->n_throttled_by; i++) {
        char *reason = output_escape(span_of(f->throttled_by[i]));
        printf("%s%s", i ? ", " : ", slowed down by: ", reason);
        free(reason);
    }
    putchar('\n');
    free(device);
    free(driver);
}

static void models_more_print(const Galerne__Admin__V1__StatusResponse *status)
{
    for (size_t i = 0; i < status->n_models; i++) {
        const char *slash = strchr(status->models[i]->name, '/');
        const char *name = slash ? slash + 1 : status->models[i]->name;
        facts_print(name, status->models[i]);
        ends_print(name, status->models[i]);
    }
}

static void left_cell(struct table *table, bool is_limited, uint64_t left)
{
    if (is_limited)
        table_cell(table, left ? TONE_PLAIN : TONE_CARE, "%" PRIu64, left);
    else
        table_cell(table, TONE_PLAIN, "any");
}

static void quotas_print(const Galerne__Admin__V1__StatusResponse *status)
{
    static const struct table_column columns[] = {
        {"TENANT", false},    {"QUOTA", false},     {"REQUESTS LEFT", true}, {"TOKENS LEFT", true},
        {"MONTH LEFT", true}, {"MONTH USED", true}, {"REQUESTS HELD", true}, {"TOKENS HELD", true},
        {"QUEUED", true},     {"REFUSED", true}};
    if (!status->n_quotas)
        return;
    putchar('\n');
    struct table *table = table_new(columns, array_count(columns));
    for (size_t i = 0; i < status->n_quotas; i++) {
        const Galerne__Admin__V1__QuotaStatus *q = status->quotas[i];
        table_line(table);
        table_cell(table, TONE_PLAIN, "%s", q->tenant);
        table_cell(table, TONE_PLAIN, "%s", q->hard ? "hard" : "soft");
        left_cell(table, q->_requests_left_case, q->requests_left);
        left_cell(table, q->_tokens_left_case, q->tokens_left);
        left_cell(table, q->_month_tokens_left_case, q->month_tokens_left);
        table_cell(table, TONE_PLAIN, "%" PRIu64, q->month_tokens_used);
        table_cell(table, TONE_PLAIN, "%" PRIu64, q->requests_held);
        table_cell(table, TONE_PLAIN, "%" PRIu64, q->tokens_held);
        table_cell(table, TONE_PLAIN, "%" PRIu64, q->queued_tokens);
        table_cell(table, q->refused_total ? TONE_CARE : TONE_PLAIN, "%" PRIu64, q->refused_total);
    }
    table_print(table);
    table_free(table);
}

static bool take(void *context, const ProtobufCMessage *message)
{
    static const struct table_column columns[] = {
        {"MODEL", false},     {"STATE", false},  {"DEVICE", false}, {"RUNNING", true},
        {"WAITING", true},    {"KV USED", true}, {"MEMORY", true},  {"REQUESTS", true},
        {"TOKENS OUT", true}, {"RESTARTS", true}};
    struct answer *answer = context;
    const Galerne__Admin__V1__StatusResponse *status =
        (const Galerne__Admin__V1__StatusResponse *)message;
    answer->state = status->state;
    if (answer->as_json) {
        json_t *value = message_json(message);
        bool good = output_json(value, !options.follow);
        json_decref(value);
        return good;
    }
    if (options.follow && output_is_terminal())
        fputs(SCREEN_CLEAR, stdout);
    daemon_print(status);
    struct table *table = table_new(columns, array_count(columns));
    for (size_t i = 0; i < status->n_models; i++)
        model_print(table, status->models[i]);
    table_print(table);
    table_free(table);
    models_more_print(status);
    not_finite_print(status);
    tenants_print(status);
    quotas_print(status);
    for (size_t i = 0; i < status->n_models; i++) {
        char *why = output_escape(span_of(status->models[i]->state_text));
        if (why[0])
            printf("%s: %s\n", status->models[i]->name, why);
        free(why);
    }
    return true;
}

static int status_once(const struct common *common)
{
    struct answer answer = {.as_json = common->output == OUTPUT_JSON};
    Galerne__Admin__V1__StatusRequest request = GALERNE__ADMIN__V1__STATUS_REQUEST__INIT;
    struct client_call call = {
        .method = METHOD_ADMIN("Status"),
        .request = &request.base,
        .response = &galerne__admin__v1__status_response__descriptor,
        .take = take,
        .context = &answer,
    };
    int code = command_call(common, &call);
    if (code != EXIT_CODE_OK)
        return code;
    return answer.state == GALERNE__ADMIN__V1__DAEMON_STATE__DAEMON_STATE_READY
               ? EXIT_CODE_OK
               : EXIT_CODE_DEGRADED;
}

/* Until Ctrl-C. A daemon that is away for a while (a restart) is told and waited for; one that was
 * never there is an error. */
static int status_follow(const struct common *common)
{
    const struct timespec pause = {.tv_sec = (time_t)(options.interval_ns / NS_PER_S),
                                   .tv_nsec = (long)(options.interval_ns % NS_PER_S)};
    bool answered = false;
    while (!command_interrupted) {
        int code = status_once(common);
        answered |= code == EXIT_CODE_OK || code == EXIT_CODE_DEGRADED;
        if (!answered)
            return code;
        bool tables = common->output == OUTPUT_TABLE && !output_is_terminal();
        if ((tables && puts("") == EOF) || fflush(stdout) != 0)
            return EXIT_CODE_FAILED; /* nobody reads any more; main says so */
        if (!command_interrupted)
            nanosleep(&pause, NULL); /* a signal ends it */
    }
    return EXIT_CODE_INTERRUPTED;
}

static int run(const struct common *common, const struct words *words)
{
    if (words->count)
        return command_misuse(&command_status, "expected no arguments, got \"%.60s\"",
                              words->items[0]);
    return options.follow ? status_follow(common) : status_once(common);
}

static const struct option_row rows[] = {
    {"follow", OPTION_BOOL, .offset = 0, .size_bytes = sizeof options.follow, .letter = 'f',
     .text = "Ask again and again, until Ctrl-C. With JSON, one line each time."},
    {"interval", OPTION_SECONDS, .offset = offsetof(__typeof__(options), interval_ns),
     .size_bytes = sizeof options.interval_ns, .value = "SECONDS", .fallback = "1", .real_min = 0.1,
     .real_max = 3600, .text = "How long --follow waits in between."},
};

const struct command command_status = {
    .name = "status",
    .arguments = "",
    .summary = "what the daemon, its models and queues are doing",
    .text =
        "Asks the operator's socket (admin.sock). Exit code 0: every model serves; 2: the daemon\n"
        "is starting, degraded or draining.",
    .rows = rows,
    .n_rows = array_count(rows),
    .target = &options,
    .run = run,
};
