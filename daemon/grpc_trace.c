/*
 * galerne.admin.v1.Admin/Trace: the walk of requests, from the rings of base/trace.h.
 *
 * The rings are read on the call's own thread; limits keep that in the milliseconds.
 */
#include <inttypes.h>

#include "daemon/grpc_calls.h"
#include "proto/admin.pb-c.h"

#define LIMIT_DEFAULT 10
#define LIMIT_MAX 20

_Static_assert((int)WALK_LAST_SENT == (int)GALERNE__ADMIN__V1__TRACE_STAGE__TRACE_STAGE_LAST_SENT,
               "one numbering");

/* One request of the answer, and what it points to. */
struct row {
    Galerne__Admin__V1__RequestTrace trace;
    char model[CONFIG_NAME_MAX_BYTES + 8];
    Galerne__Admin__V1__TraceEvent events[WALK_EVENTS_MAX];
    Galerne__Admin__V1__TraceEvent *event_rows[WALK_EVENTS_MAX];
};

struct answer {
    struct trace_named names[LIMIT_MAX];
    struct trace_event events[WALK_EVENTS_MAX];
    struct row rows[LIMIT_MAX];
    Galerne__Admin__V1__RequestTrace *row_rows[LIMIT_MAX];
};

static void row_fill(const struct front *front, struct answer *answer, uint32_t index)
{
    struct row *row = &answer->rows[index];
    struct trace_named *named = &answer->names[index];
    const struct trace_event *events = answer->events;
    uint32_t n = trace_read(front->trace, named->id, answer->events, WALK_EVENTS_MAX);
    galerne__admin__v1__request_trace__init(&row->trace);
    row->trace.request_id = named->name;
    row->trace.model = row->model;
    row->trace.events = row->event_rows;
    row->trace.n_events = n;
    if (n)
        row->trace.age_ms = (clock_now_ns() - events[0].at_ns) / NS_PER_MS;
    for (uint32_t i = 0; i < n; i++) {
        Galerne__Admin__V1__TraceEvent *event = row->event_rows[i] = &row->events[i];
        galerne__admin__v1__trace_event__init(event);
        event->stage = (Galerne__Admin__V1__TraceStage)events[i].kind;
        event->at_ns = events[i].at_ns - events[0].at_ns;
        event->value = events[i].value;
        if (events[i].kind != WALK_DECODED)
            continue;
        event->value = 0; /* model and tenant are said by their names */
        uint32_t model = events[i].value & 0xff;
        if (model < front->n_models)
            snprintf(row->model, sizeof row->model, "models/%s", front->models[model].config->name);
        row->trace.tenant = (char *)(uintptr_t)tenancy_name(front->tenancy, events[i].value >> 8);
    }
    answer->row_rows[index] = &row->trace;
}

static enum status trace_answer(const struct front *front,
                                const Galerne__Admin__V1__TraceRequest *input,
                                struct answer *answer, uint32_t *ret_n, struct error *error)
{
    bool by_name = input->request_id[0] != '\0';
    if (!front->trace)
        return error_set(error, STATUS_UNSUPPORTED,
                         "nothing is traced: trace_events_count is 0 in the configuration");
    if (input->limit > LIMIT_MAX)
        return error_field(error, "limit", "expected at most %d, got %" PRIu32, LIMIT_MAX,
                           input->limit);
    if (strlen(input->request_id) > REQUEST_NAME_MAX_BYTES)
        return error_field(error, "request_id", "expected at most %d bytes, got %zu",
                           REQUEST_NAME_MAX_BYTES, strlen(input->request_id));
    uint32_t n = trace_names(front->trace, by_name ? input->request_id : NULL, answer->names,
                             input->limit ? input->limit : LIMIT_DEFAULT);
    if (by_name && n == 0)
        return error_set(error, STATUS_NOT_FOUND,
                         "no request %s is remembered: it was never taken, or too many came since "
                         "(trace_events_count)",
                         input->request_id);
    for (uint32_t i = 0; i < n; i++)
        row_fill(front, answer, i);
    *ret_n = n;
    return STATUS_OK;
}

static void trace_start(struct call *call)
{
    Galerne__Admin__V1__TraceResponse output = GALERNE__ADMIN__V1__TRACE_RESPONSE__INIT;
    struct error error = {.status = STATUS_OK};
    enum status status = STATUS_OK;
    uint32_t n = 0;
    struct answer *answer = call_alloc(call, sizeof *answer);
    if (!answer)
        status = error_set(&error, STATUS_EXHAUSTED, "no memory for the trace");
    if (status == STATUS_OK)
        status = trace_answer(call->front, (const void *)call->input, answer, &n, &error);
    if (status != STATUS_OK) {
        call_fail(call, &error);
        return;
    }
    output.requests = answer->row_rows;
    output.n_requests = n;
    call_reply(call, &output.base);
}

const struct call_handler call_trace = {
    .path = "/galerne.admin.v1.Admin/Trace", .always = true, .start = trace_start};
