/*
 * grpc.health.v1.Health. Services: "" (the daemon), "galerne.v1.Inference", "models/NAME".
 *
 * Nobody tells us when a model's state changes, so a Watch looks at every tick and sends what is
 * new. A worker can be lost and back between two looks: the count of restarts tells, and the
 * watcher hears of both. When the daemon drains, a watcher hears NOT_SERVING and its call ends.
 */
#include "daemon/grpc_calls.h"
#include "proto/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

static serving_status health_of(struct front *front, const char *service)
{
    enum front_state state = front_state(front);
    if (service[0] == '\0' || strcmp(service, "galerne.v1.Inference") == 0)
        return state == FRONT_READY || state == FRONT_DEGRADED ? SERVING : NOT_SERVING;
    if (strncmp(service, "models/", strlen("models/")) != 0)
        return SERVICE_UNKNOWN;
    struct served_model *model = front_model_find(front, span_of(service));
    if (!model)
        return SERVICE_UNKNOWN;
    struct engine_status status;
    engine_status(model->engine, &status);
    return status.state == ENGINE_SERVING && state != FRONT_DRAINING ? SERVING : NOT_SERVING;
}

/* How often what serves `service` was lost: a model's worker, the daemon's only model. */
static uint32_t outages_of(struct front *front, const char *service)
{
    struct served_model *model = NULL;
    if (strncmp(service, "models/", strlen("models/")) == 0)
        model = front_model_find(front, span_of(service));
    else if (front->n_models == 1)
        model = &front->models[0];
    if (!model)
        return 0;
    struct engine_status status;
    engine_status(model->engine, &status);
    return status.restarts_total;
}

static void check_start(struct call *call)
{
    const Grpc__Health__V1__HealthCheckRequest *input = (const void *)call->input;
    Grpc__Health__V1__HealthCheckResponse output = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    output.status = health_of(call->front, input->service);
    if (output.status == SERVICE_UNKNOWN) {
        struct error error;
        error_set(&error, STATUS_NOT_FOUND,
                  "no such service: expected \"\", \"galerne.v1.Inference\" or \"models/NAME\"");
        call_fail(call, &error);
        return;
    }
    call_reply(call, &output.base);
}

/* What a watcher was told last. */
struct watch {
    bool told;
    serving_status status;
    uint32_t outages;
};

static void watch_ready(struct call *call)
{
    const Grpc__Health__V1__HealthCheckRequest *input = (const void *)call->input;
    struct watch *watch = call->state;
    if (rpc_call_is_sending(call->rpc))
        return;
    uint32_t outages = outages_of(call->front, input->service); /* before the state: see below */
    serving_status now = health_of(call->front, input->service);
    if (watch->told && watch->status == SERVING && outages != watch->outages)
        now = NOT_SERVING; /* what it is now comes with the next look */
    watch->outages = outages;
    bool news = !watch->told || watch->status != now;
    Grpc__Health__V1__HealthCheckResponse output = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    output.status = now;
    watch->told = true;
    watch->status = now;
    if (atomic_load(&call->front->draining)) {
        struct error error = {.status = STATUS_OK};
        error_set(&error, STATUS_UNAVAILABLE, "the daemon is stopping");
        call_finish(call, news ? &output.base : NULL, &error);
    } else if (news) {
        rpc_call_send(call->rpc, &output.base);
    }
}

static void watch_start(struct call *call)
{
    call->state = call_alloc(call, sizeof(struct watch));
    if (call->state) {
        watch_ready(call);
        return;
    }
    struct error error = {.status = STATUS_OK};
    error_set(&error, STATUS_EXHAUSTED, "no memory for the watch");
    call_fail(call, &error);
}

static void watch_ticked(struct call *call, uint64_t now_ns)
{
    if (call->state) /* the request has come */
        watch_ready(call);
}

const struct call_handler call_health_check = {
    .path = "/grpc.health.v1.Health/Check", .always = true, .start = check_start};
const struct call_handler call_health_watch = {.path = "/grpc.health.v1.Health/Watch",
                                               .always = true,
                                               .start = watch_start,
                                               .ready = watch_ready,
                                               .ticked = watch_ticked};
