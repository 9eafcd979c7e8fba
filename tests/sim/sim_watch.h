/*
 * sim_watch: what the clients of a random day (sched_sim.c) see of the scheduler, and what it must
 * have been.
 *
 * Each function compares a call's outcome, or a plan, with what the requests and limits in `sim`
 * demand; a breach is named by MUST. They keep the requests' side up to date: what was opened,
 * planned, cached. One thread, one day at a time.
 */
#pragma once

#include "tests/sim/sim_draw.h"

/* Over all days. */
struct sim_totals {
    uint64_t steps, tokens, ended, preempted, recomputed, replays, full, never, refused_late,
        cancelled, expired, cached, copies, tables, rights, fair;
    uint64_t fair_steps;                /* each of them planned as its twin did */
    uint64_t windows, behind, longer;   /* days; opens that begin behind; streams above the pool */
    uint64_t choices, choices_once;     /* prompts with choices; undisturbed ones */
    uint64_t tails_copied, tails_again; /* choices that began without, with part of a last block */
    double calm_ratio[2];               /* first come, fair */
};

extern struct sim_totals totals;
extern bool sim_verbose;

#define SAY(...)                                                                                   \
    do {                                                                                           \
        if (sim_verbose)                                                                           \
            printf(__VA_ARGS__);                                                                   \
    } while (0)

/* A live one. */
struct request *request_by_id(sched_id id);

/* What sched_submit must say, from the limits and from what the clients know. */
enum status submit_expected(const struct request *r);

/* All choices of a prompt are live, by these ids. */
void choices_live(const struct request *first, const sched_id *ids);

/* Of a plan: an open, then its rows; then whether anybody was left out. */
void open_note(const struct sched_open_row *open);
void row_note(const struct sched_row *row);
void rows_complete(const struct sched_plan *plan);

/* Two plans are the same to the byte. */
void plans_same(const struct sched_plan *a, const struct sched_plan *b);

/* No step takes a tenant over its limit, or further over it: [sim.n_rows] as before the step. */
void limits_hold(const struct sched_tenant_stats *before);

/* One of several choices is over. */
void choices_over(const struct request *r, const struct sched_ended *e);
