/*
 * host_fiber: stacks that take turns on one thread.
 *
 * Every thread of an emulated block is a fiber. A switch saves the registers that a call must keep
 * and nothing else (a few nanoseconds on x86-64; ucontext elsewhere). AddressSanitizer is told of
 * each switch. A fiber may be left for ever: its stack is used again by the next block.
 */
#pragma once

#include "base/types.h"

struct host_fiber {
    void *stack; /* its lowest byte; NULL for the thread's own stack */
    void *context;
    void *fake; /* AddressSanitizer's, kept with the stack */
    void (*entry)(void *);
    void *argument;
};

#define HOST_STACK_BYTES ((size_t)256 << 10)

/* Makes `fiber` ready to begin entry(argument) on its stack. entry must not return. */
void host_fiber_begin(struct host_fiber *fiber, void (*entry)(void *), void *argument);
/* Leaves `from` here, perhaps for ever, and goes on with `to`. */
void host_fiber_switch(struct host_fiber *from, struct host_fiber *to);
/* Must be the first call of an entry: `self` is the fiber that it is of. */
void host_fiber_entered(struct host_fiber *self);
