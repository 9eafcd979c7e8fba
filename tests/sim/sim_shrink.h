/*
 * sim_shrink: from a random day that fails to the few turns of it that are enough.
 *
 * A simulation plays days, each from a seed, in turns; each turn has dice of its own (shrink_dice),
 * so that a turn may be left out and the others stay what they were. When a day aborts, its seed
 * and turn are named and the program begins anew in its place: it plays the day again and again in
 * child processes with ever fewer turns, many at once first, then single ones, for as long as it
 * fails, and names what is left:
 *     GALERNE_SIM_SEED=n GALERNE_SIM_TURNS=3,17,20 sched_sim
 * A day that was asked for by its seed is not shrunk. One thread.
 */
#pragma once

#include "base/status.h"

#define SHRINK_TURNS_MAX 4096

struct shrink {
    const char *program;         /* for messages */
    uint32_t n_turns;            /* at most SHRINK_TURNS_MAX: those that may be left out */
    void (*play)(uint64_t seed); /* one day; aborts when it fails */
};

/* First thing in main. `program --shrink SEED` does that and exits. */
void shrink_begin(const struct shrink *shrink, int n_arguments, char **arguments);

/* The number that an environment variable holds; a message and exit code 2 when it is none. */
uint64_t shrink_number(const char *name, uint64_t otherwise);

/* Where the day is, for the message, and whether this turn is left out. */
bool shrink_turn(uint64_t seed, uint64_t turn);
/* Whether some turns of the day are. */
bool shrink_is_on(void);

/* The state of the dice at the beginning of a turn. */
uint64_t shrink_dice(uint64_t seed, uint64_t turn);
