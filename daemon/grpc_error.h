/*
 * grpc_error: from `struct error` to what a gRPC client sees.
 *
 * The one place that maps `enum status` to gRPC's codes. Beside code and message every error has a
 * google.rpc.Status in its trailers (grpc-status-details-bin) with an ErrorInfo (reason = our
 * status name, domain "galerne", metadata request_id, limit, subject as far as there are any), a
 * BadRequest when a field is at fault, a QuotaFailure when a tenant's limit refuses, a RetryInfo
 * when the error says when to try again. Pure; any thread.
 */
#pragma once

#include "base/status.h"
#include "daemon/grpc_server.h"

#define GRPC_ERROR_DETAILS_MAX_BYTES 3072

struct grpc_error {
    struct rpc_ending ending; /* points into this struct */
    char message[ERROR_TEXT_MAX_BYTES + 80];
    uint8_t details[GRPC_ERROR_DETAILS_MAX_BYTES];
};

enum rpc_code rpc_code_of(enum status status);

/* `request_id` may be NULL. */
void grpc_error_make(const struct error *error, const char *request_id, struct grpc_error *ret);
