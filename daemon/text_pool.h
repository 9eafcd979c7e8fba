/*
 * text_pool: the bounded pool of text threads, between a listener and the engines.
 *
 * A job is a request. A text thread checks the prompt (empty, too long, ids in range, UTF-8),
 * renders the chat template, tokenises, makes the digests of the full blocks, and puts a GENERATE
 * request down its own inlet of the model's engine; other kinds end here. A request that fails ends
 * with an error through its outlet, like any other. Any thread may submit.
 *
 * Queue: bounded by the request pool (a request waits at most once), first in first out.
 */
#pragma once

#include "daemon/request.h"

struct text_pool;
struct front;

enum status text_pool_open(struct front *front, struct text_pool **ret_pool, struct error *error);

/* Stops the threads; what is queued ends with UNAVAILABLE. */
void text_pool_close(struct text_pool *pool);

void text_pool_submit(struct text_pool *pool, struct request *request);
