#include "daemon/grpc_error.h"

#include "proto/any.pb-c.h"
#include "proto/duration.pb-c.h"
#include "proto/error_details.pb-c.h"
#include "proto/status.pb-c.h"

#define TYPE_PREFIX "type.googleapis.com/"
#define DETAIL_MAX_BYTES 1024

static const enum rpc_code codes[STATUS_COUNT] = {
    [STATUS_OK] = RPC_OK,
    [STATUS_CANCELLED] = RPC_CANCELLED,
    [STATUS_INVALID] = RPC_INVALID_ARGUMENT,
    [STATUS_DEADLINE] = RPC_DEADLINE_EXCEEDED,
    [STATUS_NOT_FOUND] = RPC_NOT_FOUND,
    [STATUS_EXISTS] = RPC_ALREADY_EXISTS,
    [STATUS_DENIED] = RPC_PERMISSION_DENIED,
    [STATUS_EXHAUSTED] = RPC_RESOURCE_EXHAUSTED,
    [STATUS_UNSUPPORTED] = RPC_UNIMPLEMENTED,
    [STATUS_UNAVAILABLE] = RPC_UNAVAILABLE,
    [STATUS_IO] = RPC_INTERNAL,
    [STATUS_INTERNAL] = RPC_INTERNAL,
};

enum rpc_code rpc_code_of(enum status status)
{
    return (unsigned)status < STATUS_COUNT ? codes[status] : RPC_INTERNAL;
}

/* A detail, packed where it lies. */
struct detail {
    Google__Protobuf__Any any;
    uint8_t bytes[DETAIL_MAX_BYTES];
};

static void detail_pack(struct detail *detail, const char *type_url,
                        const ProtobufCMessage *message)
{
    CHECK(protobuf_c_message_get_packed_size(message) <= sizeof detail->bytes);
    detail->any = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
    detail->any.type_url = (char *)(uintptr_t)type_url;
    detail->any.value.len = protobuf_c_message_pack(message, detail->bytes);
    detail->any.value.data = detail->bytes;
}

static void error_info_pack(const struct error *error, const char *request_id,
                            struct detail *ret_detail)
{
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    const struct {
        const char *key, *value;
    } all[] = {{"request_id", request_id}, {"limit", error->limit}, {"subject", error->subject}};
    Google__Rpc__ErrorInfo__MetadataEntry entries[array_count(all)];
    Google__Rpc__ErrorInfo__MetadataEntry *pointers[array_count(all)];
    info.reason = (char *)(uintptr_t)status_name(error->status);
    info.domain = (char *)(uintptr_t) "galerne";
    info.metadata = pointers;
    for (size_t i = 0; i < array_count(all); i++) {
        if (!all[i].value || !all[i].value[0])
            continue;
        size_t n = info.n_metadata++;
        pointers[n] = &entries[n];
        google__rpc__error_info__metadata_entry__init(&entries[n]);
        entries[n].key = (char *)(uintptr_t)all[i].key;
        entries[n].value = (char *)(uintptr_t)all[i].value;
    }
    detail_pack(ret_detail, TYPE_PREFIX "google.rpc.ErrorInfo", &info.base);
}

static void bad_request_pack(const struct error *error, struct detail *ret_detail)
{
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    Google__Rpc__BadRequest__FieldViolation violation =
        GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT;
    Google__Rpc__BadRequest__FieldViolation *violations[] = {&violation};
    violation.field = (char *)(uintptr_t)error->field;
    violation.description = (char *)(uintptr_t)error->text;
    bad.field_violations = violations;
    bad.n_field_violations = 1;
    detail_pack(ret_detail, TYPE_PREFIX "google.rpc.BadRequest", &bad.base);
}

/* "project:north/b", "tokens_per_minute of project north/b is 6000: ..." */
static void quota_failure_pack(const struct error *error, struct detail *ret_detail)
{
    Google__Rpc__QuotaFailure failure = GOOGLE__RPC__QUOTA_FAILURE__INIT;
    Google__Rpc__QuotaFailure__Violation violation = GOOGLE__RPC__QUOTA_FAILURE__VIOLATION__INIT;
    Google__Rpc__QuotaFailure__Violation *violations[] = {&violation};
    violation.subject = (char *)(uintptr_t)error->subject;
    violation.description = (char *)(uintptr_t)error->text;
    failure.violations = violations;
    failure.n_violations = 1;
    detail_pack(ret_detail, TYPE_PREFIX "google.rpc.QuotaFailure", &failure.base);
}

static void retry_info_pack(const struct error *error, struct detail *ret_detail)
{
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    delay.seconds = (int64_t)(error->retry_ns / NS_PER_S);
    delay.nanos = (int32_t)(error->retry_ns % NS_PER_S);
    retry.retry_delay = &delay;
    detail_pack(ret_detail, TYPE_PREFIX "google.rpc.RetryInfo", &retry.base);
}

void grpc_error_make(const struct error *error, const char *request_id, struct grpc_error *ret)
{
    struct detail details[4];
    Google__Protobuf__Any *anys[4];
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    size_t n = 0;
    bool at_field = error->status == STATUS_INVALID && error->field[0];

    /* "max_tokens: is 0", but not "prompt: the prompt is empty" twice over. */
    bool named = !at_field || strstr(error->text, error->field);
    snprintf(ret->message, sizeof ret->message, "%s%s%s", named ? "" : error->field,
             named ? "" : ": ", error->text);
    error_info_pack(error, request_id, &details[n++]);
    if (at_field)
        bad_request_pack(error, &details[n++]);
    if (error->subject[0])
        quota_failure_pack(error, &details[n++]);
    if (error->retry_ns)
        retry_info_pack(error, &details[n++]);
    for (size_t i = 0; i < n; i++)
        anys[i] = &details[i].any;
    status.code = (int32_t)rpc_code_of(error->status);
    status.message = ret->message;
    status.details = anys;
    status.n_details = n;

    size_t packed_bytes = protobuf_c_message_get_packed_size(&status.base);
    CHECK(packed_bytes <= sizeof ret->details);
    protobuf_c_message_pack(&status.base, ret->details);
    ret->ending = (struct rpc_ending){
        .code = rpc_code_of(error->status),
        .message = ret->message,
        .details = {.data = (const char *)ret->details, .size_bytes = packed_bytes}};
}
