/*
 * blocks: the pool of KV blocks, who reads each, and the block table of every slot.
 *
 * A block holds the keys and values of `block_tokens` positions in the worker's memory; here it is
 * only a number, an owner and a count of the tables that name it. Tables are by slot, since only a
 * sequence that has a slot has blocks: entry i of a table serves positions i * block_tokens and on.
 * Tables grow at their end only. They are given back whole or, behind a sliding window, from their
 * beginning: a table holds the entries from `first` on, and those before are dead.
 *
 * A block is free, private to the one sequence that took it (`owner`), or listed in the prefix
 * cache: then any number of tables name it, and when none does it is cached, which is as good as
 * free: taking blocks evicts when the free ones are used up. A listed block is full, and nobody
 * writes it any more; save the tail of a group's prompt (group.h), whose owner writes on behind it
 * and which is only copied.
 *
 * Free blocks are a stack: the one given back last is taken first, it is the warmest. All memory is
 * laid out once in what blocks_footprint asked for. Owner: the scheduler.
 */
#pragma once

#include "sched/prefix.h"
#include "sched/sched.h"

struct block {
    sched_id owner;      /* the sequence that took it */
    uint32_t references; /* tables that name it; 0: free or cached */
};

struct blocks {
    uint32_t count;         /* blocks in the pool */
    uint32_t block_tokens;  /* positions of a block */
    uint32_t tables_count;  /* slots */
    uint32_t table_max;     /* most blocks of one table */
    uint32_t free_count;    /* blocks in `free` */
    uint32_t *free;         /* [count], a stack of the first free_count */
    struct block *blocks;   /* [count] */
    uint32_t *tables;       /* [tables_count][table_max] */
    uint32_t *table_counts; /* [tables_count] entries in use */
    uint32_t *table_firsts; /* [tables_count] the first of them */
    uint32_t *marks;        /* [count] scratch of blocks_check */
    struct prefix prefix;   /* which blocks hold what */
};

size_t blocks_footprint(const struct sched_limits *limits);

/* All blocks free, all tables empty. `memory` is zeroed, blocks_footprint bytes, aligned to 16. */
void blocks_init(struct blocks *blocks, const struct sched_limits *limits, void *memory);

/* Back to that state: the worker that held them is gone. */
void blocks_reset(struct blocks *blocks);

/* Blocks that a sequence of n positions needs. */
static inline uint32_t blocks_for(const struct blocks *blocks, uint32_t n_tokens)
{
    return div_up_u32(n_tokens, blocks->block_tokens);
}

/* Blocks that can be taken: free, or cached and evicted for it. */
static inline uint32_t blocks_takeable(const struct blocks *blocks)
{
    return blocks->free_count + blocks->prefix.n_cached;
}

static inline const uint32_t *blocks_table(const struct blocks *blocks, uint32_t table)
{
    return blocks->tables + (size_t)table * blocks->table_max;
}

/* One past the last entry. */
static inline uint32_t blocks_table_end(const struct blocks *blocks, uint32_t table)
{
    return blocks->table_firsts[table] + blocks->table_counts[table];
}

/* An empty table begins at entry `first`. */
void blocks_begin(struct blocks *blocks, uint32_t table, uint32_t first);

/* Appends n blocks to a table and to ret_blocks [n], which may be NULL. The caller has seen that n
 * are takeable. */
void blocks_take(struct blocks *blocks, uint32_t table, sched_id owner, uint32_t n,
                 uint32_t *ret_blocks);

/* Appends a listed block to a table. */
void blocks_share(struct blocks *blocks, uint32_t table, uint32_t block);

/* Keeps a listed block where it is while a step is planned that copies it; and lets it go. */
void blocks_hold(struct blocks *blocks, uint32_t block);
void blocks_let_go(struct blocks *blocks, uint32_t block);

/* Gives back the first n entries of a table, the first of all first: it then begins behind them. */
void blocks_slide(struct blocks *blocks, uint32_t table, uint32_t n);

/* Empties a table; returns how many entries it had. */
uint32_t blocks_give_back(struct blocks *blocks, uint32_t table);

/* All cached blocks of a domain are free. */
void blocks_forget(struct blocks *blocks, uint64_t domain);

/* Aborts unless each block is free once, or cached, or referenced exactly as often as tables name
 * it, and by one table alone if it is not listed. */
void blocks_check(const struct blocks *blocks);
