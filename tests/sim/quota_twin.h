/*
 * quota_twin: what the quotas must allow and must refuse, from a plain list of all requests.
 *
 * No leases, no credit, no sums: each question walks the list. It knows two meters for each rate of
 * each row. The early one is charged when something is used, so it is never above what the quotas
 * may think; the late one when a lease has surely told, so it is never below. Between them lies
 * what leases are free to do. Time is the latest that anybody told.
 *
 * One day at a time, in `twin`. MUST names the day and aborts.
 */
#pragma once

#include "sched/quota.h"

#define TWIN_ROWS_MAX 10
#define TWIN_REQUESTS_MAX 1200
#define TWIN_MONTHS_MAX 64

__extension__ typedef unsigned __int128 u128;

void twin_fail(const char *file, int line, const char *condition) __attribute__((noreturn));
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            twin_fail(__FILE__, __LINE__, #condition);                                             \
    } while (0)

enum counted { COUNTED_RESERVED = 0, COUNTED_BETWEEN, COUNTED_SETTLED, COUNTED_TIMES };

struct twin_request {
    struct reservation reservation;
    uint32_t tenant, lease, table;
    uint64_t at_ns[COUNTED_TIMES];
    uint64_t used_tokens;
    uint32_t rows[QUOTA_LEVELS_MAX], n_rows; /* its path when it was settled */
    bool undone;
    bool request_told, tokens_told; /* to the late meters */
};

/* A leaky bucket, in tokens times 60e9. */
struct twin_meter {
    u128 fill;
    uint64_t at_ns;
};

struct twin_row {
    struct twin_meter early_requests, late_requests, early_tokens, late_tokens;
};

struct twin {
    uint64_t now_ns;
    uint32_t n_rows, table; /* the table's number */
    struct quota_row rows[TWIN_ROWS_MAX];
    struct twin_row meters[TWIN_ROWS_MAX];
    uint32_t n_requests;
    struct twin_request requests[TWIN_REQUESTS_MAX];
    uint32_t n_months, months[TWIN_MONTHS_MAX]; /* that were ever asked in */
};

extern struct twin twin;

uint64_t twin_burst(uint64_t burst, uint64_t per_minute);
uint64_t twin_overdraft(const struct quota_row *row);

void twin_tick(uint64_t now_ns);
void twin_table(const struct quota_row *rows, uint32_t n_rows);

/* The request was admitted: was there room? */
void twin_admitted(struct twin_request *request, const struct quota_ask *ask);
void twin_settled(struct twin_request *request);
/* At the very time when it was reserved. */
void twin_undone(struct twin_request *request);
/* It was refused: must it have been? */
void twin_refused(const struct quota_ask *ask, uint32_t month, const struct error *error);

/* A lease has told all that was used; UINT32_MAX: all have. */
void twin_told(uint32_t lease);

/* All windows of the whole day. Everything is settled. */
void twin_windows(void);
