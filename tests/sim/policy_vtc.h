/*
 * policy_vtc: the virtual token counter of Sheng et al. (OSDI 2024), to compare with, behind the
 * same table and under the same mechanism as the product's own policies.
 *
 * As published: a counter a client, charged prompt_cost a prompt token when a request is admitted
 * and output_cost an output token when it is made, over the client's weight. A client that has
 * nobody in line and sends is lifted to the least counter of those in line, or, when there are
 * none, to that of the client that left the line last. While there is room, the first request of
 * the client with the least counter is admitted; when it does not fit, nobody is. Below it chunks,
 * preemption (the last admitted goes) and admission (what is known must fit) are those of
 * policy_fcfs, vLLM's.
 *
 * `policy_vtc_reserve` admits only when all that runs could take all that it asked for, as the
 * published code does: nobody is ever preempted.
 *
 * Rows of the tenants' table are clients; levels are not known to it.
 */
#pragma once

#include "sched/policy.h"

extern const struct sched_policy policy_vtc;
extern const struct sched_policy policy_vtc_reserve;
