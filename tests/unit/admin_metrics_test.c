#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "admin/message_json.h"
#include "admin/metrics_text.h"
#include "base/types.h"
#include "proto/admin.pb-c.h"

/* `line` begins with the end of the line before. */
static void must_have(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no line \"%s\" in:\n%s", line + 1, text);
}

static void must_lack(const char *text, const char *words)
{
    if (strstr(text, words))
        fail_msg("\"%s\" in:\n%s", words, text);
}

static char *text_made(const ProtobufCMessage *status)
{
    char *text = NULL;
    json_t *value = status ? message_json(status) : NULL;
    assert_true(metrics_text(value, &text));
    json_decref(value);
    return text;
}

static void says_that_nobody_answers(void **state)
{
    char *text = text_made(NULL);
    assert_string_equal(text, "# HELP galerne_up The daemon answers.\n# TYPE galerne_up gauge\n"
                              "galerne_up 0\n");
    free(text);
}

static void writes_every_place(void **state)
{
    Galerne__Admin__V1__StatusResponse status = GALERNE__ADMIN__V1__STATUS_RESPONSE__INIT;
    Galerne__Admin__V1__ModelStatus model = GALERNE__ADMIN__V1__MODEL_STATUS__INIT;
    Galerne__Admin__V1__WorkerEnds ends = GALERNE__ADMIN__V1__WORKER_ENDS__INIT;
    Galerne__Admin__V1__DeviceFacts facts = GALERNE__ADMIN__V1__DEVICE_FACTS__INIT;
    Galerne__Admin__V1__TenantStatus tenant = GALERNE__ADMIN__V1__TENANT_STATUS__INIT;
    Galerne__Admin__V1__QuotaStatus quota = GALERNE__ADMIN__V1__QUOTA_STATUS__INIT;
    Galerne__Admin__V1__ModelStatus *models[] = {&model};
    Galerne__Admin__V1__TenantStatus *tenants[] = {&tenant};
    Galerne__Admin__V1__QuotaStatus *quotas[] = {&quota};
    status.version = "0.1.0";
    status.state = GALERNE__ADMIN__V1__DAEMON_STATE__DAEMON_STATE_DEGRADED;
    status.uptime_ms = 1500;
    status.models = models;
    status.quotas = quotas;
    status.n_models = status.n_quotas = 1;
    model.name = "models/tiny";
    model.device = "cpu \"avx2\"\\\n";
    model.worker_state = GALERNE__ADMIN__V1__WORKER_STATE__WORKER_STATE_SERVING;
    model.quantising = true;
    model.output_tokens_total = 1234567890123456;
    model.worker_ends = &ends;
    ends.device = 3;
    model.device_facts = &facts;
    facts._temperature_celsius_case =
        GALERNE__ADMIN__V1__DEVICE_FACTS___TEMPERATURE_CELSIUS_TEMPERATURE_CELSIUS;
    facts.temperature_celsius = 61;
    char *reasons[] = {"heat", "power"};
    facts.throttled_by = reasons;
    facts.n_throttled_by = 2;
    model.tenants = tenants;
    model.n_tenants = 1;
    tenant.name = "bank/a";
    tenant.share_permille = 250;
    quota.tenant = "bank";
    quota.refused_total = 9;
    char *text = text_made(&status.base);
    must_have(text, "\ngalerne_up 1\n");
    must_have(text, "\ngalerne_ready 0\n");
    must_have(text, "\ngalerne_uptime_seconds 1.5\n");
    must_have(text, "\ngalerne_build_info{version=\"0.1.0\"} 1\n");
    must_have(text, "\ngalerne_device_info{model=\"tiny\",device=\"cpu \\\"avx2\\\"\\\\\\n\"} 1\n");
    must_have(text, "\ngalerne_model_serving{model=\"tiny\"} 1\n");
    must_have(text, "\ngalerne_model_quantising{model=\"tiny\"} 1\n");
    must_have(text, "\ngalerne_output_tokens_total{model=\"tiny\"} 1234567890123456\n");
    must_have(text, "\n# TYPE galerne_output_tokens_total counter\n");
    must_have(text, "\ngalerne_worker_ends_total{model=\"tiny\",cause=\"device\"} 3\n");
    must_have(text, "\ngalerne_worker_ends_total{model=\"tiny\",cause=\"died\"} 0\n");
    must_have(text, "\ngalerne_device_temperature_celsius{model=\"tiny\"} 61\n");
    must_have(text, "\ngalerne_device_throttles{model=\"tiny\"} 2\n");
    must_have(text, "\ngalerne_tenant_share_ratio{model=\"tiny\",tenant=\"bank/a\"} 0.25\n");
    must_have(text, "\ngalerne_quota_requests_refused_total{tenant=\"bank\"} 9\n");
    must_lack(text, "galerne_device_power_watts{"); /* not set */
    must_lack(text, "galerne_quota_tokens_left{");
    free(text);
}

/* A number that a status gains is one of the metrics, or stands here. */
static void knows_every_number(void **state)
{
    static const char *const left_out[] = {"pid", "worker_pid", "epoch"};
    static const struct {
        const char *path;
        const ProtobufCMessageDescriptor *message;
    } messages[] = {
        {"", &galerne__admin__v1__status_response__descriptor},
        {"models", &galerne__admin__v1__model_status__descriptor},
        {"models.worker_ends", &galerne__admin__v1__worker_ends__descriptor},
        {"models.device_facts", &galerne__admin__v1__device_facts__descriptor},
        {"models.tenants", &galerne__admin__v1__tenant_status__descriptor},
        {"quotas", &galerne__admin__v1__quota_status__descriptor},
    };
    for (size_t m = 0; m < array_count(messages); m++)
        for (unsigned i = 0; i < messages[m].message->n_fields; i++) {
            const ProtobufCFieldDescriptor *field = &messages[m].message->fields[i];
            bool number =
                field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE;
            bool out = false;
            for (size_t l = 0; l < array_count(left_out); l++)
                out |= strcmp(left_out[l], field->name) == 0;
            if (number && !out && !metrics_use(messages[m].path, field->name))
                fail_msg("%s of %s is no metric", field->name, messages[m].message->short_name);
        }
    assert_false(metrics_use("models", "name"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_that_nobody_answers),
        cmocka_unit_test(writes_every_place),
        cmocka_unit_test(knows_every_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
