#include <inttypes.h>

#include "admin/command.h"
#include "admin/message_json.h"
#include "admin/output.h"
#include "base/clock.h"
#include "proto/admin.pb-c.h"

static struct {
    uint32_t limit;
} options;

static const struct option_row rows[] = {
    {"limit", OPTION_U32, OPTION_AT(__typeof__(options), limit), .letter = 'n', .value = "N",
     .min = 1, .max = 20, .fallback_text = "10; 1 with a request's id",
     .text = "Show at most so many requests, the most recent first."},
};

/* What people call the stages, and what an event's number counts; "" when it says nothing. */
struct stage_text {
    const char *name, *unit;
};

static struct stage_text stage_text(Galerne__Admin__V1__TraceStage stage)
{
    static const struct stage_text texts[] = {
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_ACCEPTED] = {"accepted", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_DECODED] = {"decoded", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_TEXT] = {"text thread", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_TOKENIZED] = {"tokenized", "prompt tokens"},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_INLET] = {"inlet", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_SUBMITTED] = {"waiting", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_FIRST_STEP] = {"first step", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_FIRST_TOKEN] = {"first token", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_FIRST_SENT] = {"first message sent", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_TOKENS] = {"tokens", "tokens"},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_REPLAYED] = {"worker lost", "times"},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_ENDED] = {"ended", "tokens"},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_FINISHED] = {"status", ""},
        [GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_LAST_SENT] = {"last byte sent", ""},
    };
    if ((size_t)stage >= array_count(texts) || !texts[stage].name)
        return (struct stage_text){"of a newer daemon", "value"};
    return texts[stage];
}

static void event_print(struct table *table, const Galerne__Admin__V1__TraceEvent *event,
                        uint64_t previous_ns)
{
    struct stage_text text = stage_text(event->stage);
    uint64_t since_ns = event->at_ns > previous_ns ? event->at_ns - previous_ns : 0;
    table_line(table);
    table_cell(table, TONE_PLAIN, "%s", text.name);
    table_cell(table, TONE_PLAIN, "%.3f ms", (double)event->at_ns / (double)NS_PER_MS);
    table_cell(table, TONE_PLAIN, "+%.3f ms", (double)since_ns / (double)NS_PER_MS);
    if (event->stage == GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_FINISHED)
        table_cell(table, event->value ? TONE_BAD : TONE_GOOD, "%s",
                   client_code_name((enum client_code)event->value));
    else if (event->stage == GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_FIRST_STEP)
        table_cell(table, TONE_PLAIN, "step %u", event->value);
    else if (text.unit[0])
        table_cell(table, TONE_PLAIN, "%u %s", event->value, text.unit);
    else
        table_cell(table, TONE_PLAIN, " ");
}

static void request_print(const Galerne__Admin__V1__RequestTrace *request)
{
    static const struct table_column columns[] = {
        {"STAGE", false}, {"AT", true}, {"AFTER", true}, {"NOTE", false}};
    char age[32];
    duration_text(request->age_ms, age, sizeof age);
    char *name = output_escape(span_of(request->request_id));
    const char *slash = strchr(request->model, '/');
    char *model = output_escape(span_of(slash ? slash + 1 : request->model));
    char *tenant = output_escape(span_of(request->tenant));
    printf("request %s  model %s  tenant %s  %s ago\n", name, model[0] ? model : "unknown",
           tenant[0] ? tenant : "unknown", age);
    free(tenant);
    free(name);
    free(model);
    struct table *table = table_new(columns, array_count(columns));
    uint64_t previous_ns = 0;
    for (size_t i = 0; i < request->n_events; i++) {
        event_print(table, request->events[i], previous_ns);
        previous_ns = request->events[i]->at_ns;
    }
    table_print(table);
    table_free(table);
}

static bool take(void *context, const ProtobufCMessage *message)
{
    const struct common *common = context;
    const Galerne__Admin__V1__TraceResponse *response =
        (const Galerne__Admin__V1__TraceResponse *)message;
    if (common->output == OUTPUT_JSON) {
        json_t *value = message_json(message);
        bool good = output_json(value, true);
        json_decref(value);
        return good;
    }
    if (response->n_requests == 0)
        fputs("no request yet\n", stderr);
    for (size_t i = 0; i < response->n_requests; i++) {
        if (i)
            putchar('\n');
        request_print(response->requests[i]);
    }
    return true;
}

static int run(const struct common *common, const struct words *words)
{
    Galerne__Admin__V1__TraceRequest request = GALERNE__ADMIN__V1__TRACE_REQUEST__INIT;
    struct client_call call = {
        .method = METHOD_ADMIN("Trace"),
        .request = &request.base,
        .response = &galerne__admin__v1__trace_response__descriptor,
        .take = take,
        .context = (void *)(uintptr_t)common,
    };
    if (words->count > 1)
        return command_misuse(&command_trace, "expected one request's id, got %d words",
                              words->count);
    if (words->count == 1)
        request.request_id = words->items[0];
    request.limit = options.limit;
    if (!request.limit && words->count)
        request.limit = 1;
    return command_call(common, &call);
}

const struct command command_trace = {
    .name = "trace",
    .arguments = "[REQUEST_ID]",
    .summary = "the walk of a request, or of the most recent ones, with times",
    .text = "Asks the operator's socket (admin.sock). A request's id stands in the log, in the\n"
            "first message of its answer and in its error. Times are since the request came; no\n"
            "content is kept. The daemon remembers the latest requests (trace_events_count).",
    .rows = rows,
    .n_rows = array_count(rows),
    .target = &options,
    .run = run,
};
