#include "admin/metrics_text.h"

#include <stdio.h>
#include <string.h>

#include "base/types.h"

/* ---- the table ---- */

/* Where a number stands in the status, and which labels its lines have. */
enum place {
    PLACE_DAEMON,
    PLACE_MODEL,  /* model */
    PLACE_ENDS,   /* model, cause: the field's name */
    PLACE_DEVICE, /* model */
    PLACE_TENANT, /* model, tenant */
    PLACE_QUOTA,  /* tenant */
};
static const char *const paths[] = {
    "", "models", "models.worker_ends", "models.device_facts", "models.tenants", "quotas"};

enum kind { GAUGE, COUNTER };

struct row {
    const char *name; /* after galerne_; rows of one name stand together */
    enum kind kind;
    enum place place;
    const char *field;
    const char *is; /* 1 where the field is this word, else 0 */
    double scale;   /* 0: 1 */
    const char *help;
};

#define ONE_OF(word) .is = word

static const struct row rows[] = {
    {"ready", GAUGE, PLACE_DAEMON, "state", ONE_OF("DAEMON_STATE_READY"), 0, "Every model serves."},
    {"uptime_seconds", GAUGE, PLACE_DAEMON, "uptime_ms", NULL, 1e-3, "Since the daemon started."},
    {"resident_bytes", GAUGE, PLACE_DAEMON, "resident_bytes", NULL, 0,
     "Memory of the front process."},
    {"calls_open", GAUGE, PLACE_DAEMON, "calls_open", NULL, 0, "Calls of every method, now."},
    {"calls_total", COUNTER, PLACE_DAEMON, "calls_total", NULL, 0, "Calls of every method."},
    {"requests_max", GAUGE, PLACE_DAEMON, "requests_max", NULL, 0,
     "Generate requests that there is room for at once."},

    {"model_serving", GAUGE, PLACE_MODEL, "worker_state", ONE_OF("WORKER_STATE_SERVING"), 0,
     "Its worker serves."},
    {"model_load_percent", GAUGE, PLACE_MODEL, "load_percent", NULL, 0, "Of its weights."},
    {"model_quantising", GAUGE, PLACE_MODEL, "quantising", NULL, 0,
     "It loads, and its weights are being quantised."},
    {"model_weights_bytes", GAUGE, PLACE_MODEL, "weights_bytes", NULL, 0, "Of its weights."},
    {"worker_resident_bytes", GAUGE, PLACE_MODEL, "worker_resident_bytes", NULL, 0,
     "Memory of its worker process."},
    {"worker_restarts_total", COUNTER, PLACE_MODEL, "restarts_total", NULL, 0,
     "Workers that were started again."},
    {"worker_ends_total", COUNTER, PLACE_ENDS, "died", NULL, 0,
     "Workers that were lost, or did not come up, by cause."},
    {"worker_ends_total", COUNTER, PLACE_ENDS, "hung", NULL, 0, NULL},
    {"worker_ends_total", COUNTER, PLACE_ENDS, "device", NULL, 0, NULL},
    {"worker_ends_total", COUNTER, PLACE_ENDS, "nonsense", NULL, 0, NULL},
    {"worker_ends_total", COUNTER, PLACE_ENDS, "start", NULL, 0, NULL},
    {"requests_waiting", GAUGE, PLACE_MODEL, "requests_waiting", NULL, 0, "For their turn."},
    {"requests_running", GAUGE, PLACE_MODEL, "requests_running", NULL, 0, "In the steps."},
    {"requests_total", COUNTER, PLACE_MODEL, "requests_total", NULL, 0, "Generate requests."},
    {"requests_cancelled_total", COUNTER, PLACE_MODEL, "requests_cancelled_total", NULL, 0,
     "Of them, cancelled."},
    {"requests_refused_total", COUNTER, PLACE_MODEL, "requests_refused_total", NULL, 0,
     "Of them, refused."},
    {"requests_preempted_total", COUNTER, PLACE_MODEL, "preempted_total", NULL, 0,
     "Times that a request lost its blocks to others, for a while."},
    {"choices_not_finite_total", COUNTER, PLACE_MODEL, "requests_not_finite_total", NULL, 0,
     "Choices that a number which is not finite ended."},
    {"prompt_tokens_total", COUNTER, PLACE_MODEL, "prompt_tokens_total", NULL, 0,
     "Tokens of prompts."},
    {"prompt_tokens_computed_total", COUNTER, PLACE_MODEL, "prompt_tokens_computed_total", NULL, 0,
     "Of them, computed: the others came from the prefix cache."},
    {"output_tokens_total", COUNTER, PLACE_MODEL, "output_tokens_total", NULL, 0,
     "Tokens that were made."},
    {"steps_total", COUNTER, PLACE_MODEL, "steps_total", NULL, 0, "Steps of its worker."},
    {"steps_in_flight", GAUGE, PLACE_MODEL, "steps_in_flight", NULL, 0,
     "Steps that were handed over and have not come back."},
    {"kv_blocks", GAUGE, PLACE_MODEL, "kv_blocks_count", NULL, 0, "Blocks of its KV cache."},
    {"kv_blocks_used", GAUGE, PLACE_MODEL, "kv_blocks_used", NULL, 0, "Of them, in use."},
    {"kv_blocks_free", GAUGE, PLACE_MODEL, "kv_blocks_free", NULL, 0, "Of them, free."},
    {"kv_block_tokens", GAUGE, PLACE_MODEL, "kv_block_tokens", NULL, 0, "Positions of a block."},
    {"kv_block_bytes", GAUGE, PLACE_MODEL, "kv_block_bytes", NULL, 0, "Size of a block."},

    {"device_memory_bytes", GAUGE, PLACE_DEVICE, "memory_bytes", NULL, 0, "Memory of the device."},
    {"device_memory_free_bytes", GAUGE, PLACE_DEVICE, "memory_free_bytes", NULL, 0, "Of it, free."},
    {"device_temperature_celsius", GAUGE, PLACE_DEVICE, "temperature_celsius", NULL, 0,
     "Temperature of the device."},
    {"device_power_watts", GAUGE, PLACE_DEVICE, "power_watts", NULL, 0, "Power that it takes."},
    {"device_ecc_corrected_total", COUNTER, PLACE_DEVICE, "ecc_corrected_total", NULL, 0,
     "Errors of its memory that were corrected."},
    {"device_ecc_uncorrected_total", COUNTER, PLACE_DEVICE, "ecc_uncorrected_total", NULL, 0,
     "Errors of its memory that could not be."},
    {"device_throttles", GAUGE, PLACE_DEVICE, "throttled_by", NULL, 0,
     "Reasons for which its clock is lower than it could be."},

    {"tenant_weight", GAUGE, PLACE_TENANT, "weight", NULL, 0, "As configured."},
    {"tenant_share_ratio", GAUGE, PLACE_TENANT, "share_permille", NULL, 1e-3,
     "What its weight gives it of what its parent gets."},
    {"tenant_closed", GAUGE, PLACE_TENANT, "closed", NULL, 0, "It takes no new requests."},
    {"tenant_requests_waiting", GAUGE, PLACE_TENANT, "requests_waiting", NULL, 0,
     "For their turn."},
    {"tenant_requests_running", GAUGE, PLACE_TENANT, "requests_running", NULL, 0, "In the steps."},
    {"tenant_kv_blocks_used", GAUGE, PLACE_TENANT, "kv_blocks_used", NULL, 0, "Blocks in use."},
    {"tenant_kv_blocks_reserved", GAUGE, PLACE_TENANT, "kv_blocks_reserved", NULL, 0,
     "Blocks that nobody else may take."},
    {"tenant_kv_blocks_limit", GAUGE, PLACE_TENANT, "kv_blocks_limit", NULL, 0,
     "Blocks at most; 0: no limit."},
    {"tenant_prompt_tokens_total", COUNTER, PLACE_TENANT, "prompt_tokens_total", NULL, 0,
     "Tokens of prompts that were computed."},
    {"tenant_cached_tokens_total", COUNTER, PLACE_TENANT, "cached_tokens_total", NULL, 0,
     "Tokens of prompts that came from the prefix cache."},
    {"tenant_recomputed_tokens_total", COUNTER, PLACE_TENANT, "recomputed_tokens_total", NULL, 0,
     "Tokens that were computed again after a preemption."},
    {"tenant_output_tokens_total", COUNTER, PLACE_TENANT, "output_tokens_total", NULL, 0,
     "Tokens that were made."},
    {"tenant_requests_admitted_total", COUNTER, PLACE_TENANT, "admitted_total", NULL, 0,
     "Requests that came to their turn."},
    {"tenant_requests_preempted_total", COUNTER, PLACE_TENANT, "preempted_total", NULL, 0,
     "Times that a request lost its blocks to others, for a while."},

    {"quota_hard", GAUGE, PLACE_QUOTA, "hard", NULL, 0,
     "Tokens are held to the most that requests may take."},
    {"quota_requests_left", GAUGE, PLACE_QUOTA, "requests_left", NULL, 0, "That fit just now."},
    {"quota_tokens_left", GAUGE, PLACE_QUOTA, "tokens_left", NULL, 0, "That fit just now."},
    {"quota_month_tokens_left", GAUGE, PLACE_QUOTA, "month_tokens_left", NULL, 0,
     "Of this calendar month, UTC."},
    {"quota_month_tokens_used", GAUGE, PLACE_QUOTA, "month_tokens_used", NULL, 0,
     "In this calendar month, UTC, since the daemon started."},
    {"quota_requests_held", GAUGE, PLACE_QUOTA, "requests_held", NULL, 0,
     "Requests that wait or run."},
    {"quota_tokens_held", GAUGE, PLACE_QUOTA, "tokens_held", NULL, 0, "Tokens promised to them."},
    {"quota_queued_tokens", GAUGE, PLACE_QUOTA, "queued_tokens", NULL, 0,
     "Prompt tokens of those that wait."},
    {"quota_requests_refused_total", COUNTER, PLACE_QUOTA, "refused_total", NULL, 0,
     "Requests that were refused for a limit of this tenant."},
};

bool metrics_use(const char *path, const char *field)
{
    for (size_t i = 0; i < array_count(rows); i++)
        if (strcmp(paths[rows[i].place], path) == 0 && strcmp(rows[i].field, field) == 0)
            return true;
    return false;
}

/* ---- lines ---- */

static void label_print(FILE *out, const char *name, const char *value, bool *first)
{
    if (!value)
        return;
    fprintf(out, "%s%s=\"", *first ? "{" : ",", name);
    *first = false;
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"')
            fprintf(out, "\\%c", *c);
        else if (*c == '\n')
            fputs("\\n", out);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

struct labels {
    const char *model, *tenant, *cause; /* or NULL */
};

static void value_print(FILE *out, const struct row *row, const json_t *value)
{
    if (row->is)
        fprintf(out, " %d\n", strcmp(json_string_value(value), row->is) == 0);
    else if (json_is_boolean(value))
        fprintf(out, " %d\n", json_is_true(value));
    else if (json_is_array(value))
        fprintf(out, " %zu\n", json_array_size(value));
    else if (json_is_integer(value) && row->scale == 0)
        fprintf(out, " %" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
    else
        fprintf(out, " %.15g\n", json_number_value(value) * (row->scale == 0 ? 1 : row->scale));
}

/* One number of `message`, which may lack it, or be NULL. */
static void sample_print(FILE *out, const struct row *row, const json_t *message,
                         const struct labels *labels)
{
    const json_t *value = json_object_get(message, row->field);
    bool first = true;
    if (!value || (row->is && !json_is_string(value)))
        return;
    fprintf(out, "galerne_%s", row->name);
    label_print(out, "model", labels->model, &first);
    label_print(out, "tenant", labels->tenant, &first);
    label_print(out, "cause", labels->cause, &first);
    if (!first)
        fputc('}', out);
    value_print(out, row, value);
}

/* ---- the walk ---- */

static const char *text_of(const json_t *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    return text ? text : "";
}

/* NAME of models/NAME. */
static const char *model_name(const json_t *model)
{
    const char *name = text_of(model, "name"), *slash = strchr(name, '/');
    return slash ? slash + 1 : name;
}

static void model_print(FILE *out, const struct row *row, const json_t *model)
{
    struct labels labels = {.model = model_name(model)};
    size_t i;
    json_t *tenant;
    if (row->place == PLACE_MODEL) {
        sample_print(out, row, model, &labels);
    } else if (row->place == PLACE_ENDS) {
        labels.cause = row->field;
        sample_print(out, row, json_object_get(model, "worker_ends"), &labels);
    } else if (row->place == PLACE_DEVICE) {
        sample_print(out, row, json_object_get(model, "device_facts"), &labels);
    } else {
        json_array_foreach (json_object_get(model, "tenants"), i, tenant) {
            labels.tenant = text_of(tenant, "name");
            sample_print(out, row, tenant, &labels);
        }
    }
}

static void row_print(FILE *out, const struct row *row, const json_t *status)
{
    struct labels labels = {NULL, NULL, NULL};
    size_t i;
    json_t *item;
    if (row->place == PLACE_DAEMON) {
        sample_print(out, row, status, &labels);
    } else if (row->place == PLACE_QUOTA) {
        json_array_foreach (json_object_get(status, "quotas"), i, item) {
            labels.tenant = text_of(item, "tenant");
            sample_print(out, row, item, &labels);
        }
    } else {
        json_array_foreach (json_object_get(status, "models"), i, item)
            model_print(out, row, item);
    }
}

static void head_print(FILE *out, const char *name, enum kind kind, const char *help)
{
    fprintf(out, "# HELP galerne_%s %s\n# TYPE galerne_%s %s\n", name, help, name,
            kind == COUNTER ? "counter" : "gauge");
}

static void versions_print(FILE *out, const json_t *status)
{
    bool first = true;
    size_t i;
    json_t *model;
    head_print(out, "build_info", GAUGE, "The version of the daemon.");
    fputs("galerne_build_info", out);
    label_print(out, "version", text_of(status, "version"), &first);
    fputs("} 1\n", out);
    head_print(out, "device_info", GAUGE, "What a model runs on.");
    json_array_foreach (json_object_get(status, "models"), i, model) {
        first = true;
        fputs("galerne_device_info", out);
        label_print(out, "model", model_name(model), &first);
        label_print(out, "device", text_of(model, "device"), &first);
        fputs("} 1\n", out);
    }
}

bool metrics_text(const json_t *status, char **ret_text)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return false;
    head_print(out, "up", GAUGE, "The daemon answers.");
    fprintf(out, "galerne_up %d\n", status != NULL);
    if (status)
        versions_print(out, status);
    for (size_t i = 0; status && i < array_count(rows); i++) {
        if (rows[i].help)
            head_print(out, rows[i].name, rows[i].kind, rows[i].help);
        row_print(out, &rows[i], status);
    }
    bool failed = ferror(out);
    if (fclose(out) != 0 || failed) {
        free(text);
        return false;
    }
    *ret_text = text;
    return true;
}
