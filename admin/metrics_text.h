/*
 * metrics_text: the numbers of a status as Prometheus reads them (text format 0.0.4).
 *
 * One table says what every number is called, what kind it is, and which field of the status it
 * comes from (proto/galerne/admin/v1/admin.proto): a field that is not set has no line. Values of
 * labels are escaped; the text is UTF-8. No I/O; no state.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

/* `status`: a StatusResponse by message_json; NULL: no daemon answers, so that the text says no
 * more than that. The caller frees *ret_text. False: no memory. */
bool metrics_text(const json_t *status, char **ret_text);

/* The names of the fields of the status that the table uses, for its test: in the message `path`
 * ("", "models", "models.tenants", ...), `field`. */
bool metrics_use(const char *path, const char *field);
