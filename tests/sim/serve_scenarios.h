/*
 * serve_scenarios: the days on which policies are compared, and those on which somebody means ill.
 *
 * Fixed before the fair policy was tuned, and not changed for it. Rates are parts of a capacity:
 * tokens a second, prompts and outputs, of the best baseline with every queue full of the same
 * requests. A capacity is measured by the caller (serve_scenario_full) and handed in.
 *
 * Pure; the tables are constant.
 */
#pragma once

#include "tests/sim/serve_world.h"

enum serve_day {
    /* The three of the comparison. */
    DAY_CHAT,   /* short chat beside long prompts */
    DAY_BURSTS, /* steady tenants beside one that bursts */
    DAY_FLOOD,  /* one of eight floods */
    DAYS_COMPARED,
    DAY_WEIGHTS = DAYS_COMPARED, /* four that always want, 1:2:3:4 */
    DAY_TWO_CLIENTS, /* the published workload of VTC: 256/256 tokens, 90 and 180 a minute */
    /* Four honest chats, together at half of the capacity, and besides .. */
    DAY_CALM,         /* nobody */
    DAY_NEIGHBOUR,    /* one more of the same kind that always wants more */
    DAY_LONG_PROMPTS, /* prompts of 12,000 and more, at twice the capacity */
    DAY_ONE_TOKEN,    /* a hundred requests a second for one token */
    DAY_LIARS,        /* asks for the whole context, takes what the others take */
    DAY_SURPRISES,    /* outputs of four tokens, but each twelfth is of 3,000 */
    DAY_LEAVERS,      /* twenty prompts of 2,000 a second whose clients leave after half a second */
    DAY_HOARDER,      /* silent for 100 s, then 20 s at six times the capacity */
    DAY_THRASH,       /* documents without end; here the honest ones have documents of their own */
    DAYS_COUNT
};

#define DAY_FIRST_HOSTILE DAY_LONG_PROMPTS

struct serve_scenario {
    const char *name;  /* a word */
    const char *title; /* for people */
    double duration_s;
    uint32_t pool_tokens; /* 0: the preset's */
    uint32_t n_habits;
    struct serve_habit habits[SERVE_TENANTS_MAX]; /* [n_habits] */
};

/* `capacity` in tokens a second. */
struct serve_scenario serve_scenario_of(enum serve_day day, double capacity);

/* The same tenants and lengths, with every queue full all the time: measures a capacity. */
struct serve_scenario serve_scenario_full(enum serve_day day);
