/* Errors as clients see them: code, message, details. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/grpc_error.h"
#include "proto/any.pb-c.h"
#include "proto/duration.pb-c.h"
#include "proto/error_details.pb-c.h"
#include "proto/status.pb-c.h"

static Google__Rpc__Status *unpack(const struct grpc_error *made)
{
    Google__Rpc__Status *status = google__rpc__status__unpack(
        NULL, made->ending.details.size_bytes, (const uint8_t *)made->ending.details.data);
    assert_non_null(status);
    assert_int_equal(status->code, (int)made->ending.code);
    assert_string_equal(status->message, made->ending.message);
    return status;
}

static const Google__Protobuf__Any *find(const Google__Rpc__Status *status, const char *type)
{
    for (size_t i = 0; i < status->n_details; i++)
        if (strcmp(status->details[i]->type_url, type) == 0)
            return status->details[i];
    return NULL;
}

static void test_codes(void **state)
{
    /* By the public numbers, one by one. */
    static const int expected[STATUS_COUNT] = {0, 1, 3, 4, 5, 6, 7, 8, 12, 14, 13, 13};
    for (int i = 0; i < STATUS_COUNT; i++)
        assert_int_equal((int)rpc_code_of((enum status)i), expected[i]);
    assert_int_equal((int)rpc_code_of((enum status)99), 13);
}

static void test_field(void **state)
{
    struct error error = {0};
    struct grpc_error made;
    error_field(&error, "sampling.top_p", "is %d: expected above 0, to 1", 7);
    grpc_error_make(&error, "job 7", &made);
    assert_string_equal(made.ending.message, "sampling.top_p: is 7: expected above 0, to 1");
    Google__Rpc__Status *status = unpack(&made);
    assert_int_equal(status->n_details, 2);

    const Google__Protobuf__Any *any = find(status, "type.googleapis.com/google.rpc.BadRequest");
    Google__Rpc__BadRequest *bad =
        google__rpc__bad_request__unpack(NULL, any->value.len, any->value.data);
    assert_int_equal(bad->n_field_violations, 1);
    assert_string_equal(bad->field_violations[0]->field, "sampling.top_p");
    assert_string_equal(bad->field_violations[0]->description, "is 7: expected above 0, to 1");
    google__rpc__bad_request__free_unpacked(bad, NULL);

    any = find(status, "type.googleapis.com/google.rpc.ErrorInfo");
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, any->value.len, any->value.data);
    assert_string_equal(info->reason, "INVALID");
    assert_string_equal(info->domain, "galerne");
    assert_int_equal(info->n_metadata, 1);
    assert_string_equal(info->metadata[0]->key, "request_id");
    assert_string_equal(info->metadata[0]->value, "job 7");
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__status__free_unpacked(status, NULL);
}

static void test_retry(void **state)
{
    struct error error = {0};
    struct grpc_error made;
    error_set(&error, STATUS_EXHAUSTED, "full");
    error.retry_ns = 2500000000ull;
    grpc_error_make(&error, NULL, &made);
    assert_string_equal(made.ending.message, "full");
    Google__Rpc__Status *status = unpack(&made);
    const Google__Protobuf__Any *any = find(status, "type.googleapis.com/google.rpc.RetryInfo");
    assert_null(find(status, "type.googleapis.com/google.rpc.BadRequest"));
    Google__Rpc__RetryInfo *retry =
        google__rpc__retry_info__unpack(NULL, any->value.len, any->value.data);
    assert_int_equal(retry->retry_delay->seconds, 2);
    assert_int_equal(retry->retry_delay->nanos, 500000000);
    google__rpc__retry_info__free_unpacked(retry, NULL);
    google__rpc__status__free_unpacked(status, NULL);
}

static void test_quota(void **state)
{
    struct error error = {0};
    struct grpc_error made;
    error_set(&error, STATUS_EXHAUSTED, "tokens_per_minute of project north/b is 5");
    snprintf(error.subject, sizeof error.subject, "project:north/b");
    snprintf(error.limit, sizeof error.limit, "tokens_per_minute");
    error.retry_ns = 7;
    grpc_error_make(&error, "job 7", &made);
    Google__Rpc__Status *status = unpack(&made);
    assert_int_equal(status->n_details, 3);
    const Google__Protobuf__Any *any = find(status, "type.googleapis.com/google.rpc.QuotaFailure");
    Google__Rpc__QuotaFailure *failure =
        google__rpc__quota_failure__unpack(NULL, any->value.len, any->value.data);
    assert_int_equal(failure->n_violations, 1);
    assert_string_equal(failure->violations[0]->subject, "project:north/b");
    assert_string_equal(failure->violations[0]->description, error.text);
    google__rpc__quota_failure__free_unpacked(failure, NULL);
    any = find(status, "type.googleapis.com/google.rpc.ErrorInfo");
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, any->value.len, any->value.data);
    assert_int_equal(info->n_metadata, 3);
    assert_string_equal(info->metadata[1]->key, "limit");
    assert_string_equal(info->metadata[1]->value, "tokens_per_minute");
    assert_string_equal(info->metadata[2]->key, "subject");
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__status__free_unpacked(status, NULL);
    /* The next error of the same struct is of no quota. */
    error_set(&error, STATUS_EXHAUSTED, "full");
    grpc_error_make(&error, "job 7", &made);
    status = unpack(&made);
    assert_int_equal(status->n_details, 1);
    google__rpc__status__free_unpacked(status, NULL);
}

static void test_largest(void **state)
{
    struct error error = {.retry_ns = UINT64_MAX};
    struct grpc_error made;
    char name[129];
    memset(name, 'n', 128);
    name[128] = '\0';
    error.status = STATUS_INVALID;
    memset(error.field, 'f', sizeof error.field - 1);
    memset(error.text, 't', sizeof error.text - 1);
    memset(error.subject, 's', sizeof error.subject - 1);
    memset(error.limit, 'l', sizeof error.limit - 1);
    grpc_error_make(&error, name, &made);
    Google__Rpc__Status *status = unpack(&made);
    assert_int_equal(status->n_details, 4);
    assert_int_equal(strlen(made.ending.message), 63 + 2 + 511);
    google__rpc__status__free_unpacked(status, NULL);
}

static void test_field_is_not_said_twice(void **state)
{
    struct error error = {0};
    struct grpc_error made;
    error_field(&error, "prompt", "the prompt has too many tokens");
    grpc_error_make(&error, NULL, &made);
    assert_string_equal(made.ending.message, "the prompt has too many tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),   cmocka_unit_test(test_field),
        cmocka_unit_test(test_retry),   cmocka_unit_test(test_quota),
        cmocka_unit_test(test_largest), cmocka_unit_test(test_field_is_not_said_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
