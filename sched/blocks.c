#include "sched/blocks.h"

static uint32_t table_max(const struct sched_limits *limits)
{
    uint32_t context_blocks = div_up_u32(limits->context_tokens, limits->block_tokens);
    return limits->window_tokens ? context_blocks : u32_min(context_blocks, limits->blocks_count);
}

static size_t tables_bytes(const struct sched_limits *limits)
{
    return (size_t)limits->slots_max * table_max(limits) * sizeof(uint32_t);
}

/* The prefix cache's part comes first, the arrays of u32 follow. */
static size_t prefix_bytes(const struct sched_limits *limits)
{
    return round_up(prefix_footprint(limits), 16);
}

size_t blocks_footprint(const struct sched_limits *limits)
{
    _Static_assert(_Alignof(struct block) == _Alignof(uint32_t), "arrays follow without padding");
    size_t per_block = sizeof(struct block) + 2 * sizeof(uint32_t);
    return prefix_bytes(limits) + limits->blocks_count * per_block +
           limits->slots_max * 2 * sizeof(uint32_t) + tables_bytes(limits);
}

void blocks_init(struct blocks *blocks, const struct sched_limits *limits, void *memory)
{
    *blocks = (struct blocks){.count = limits->blocks_count,
                              .block_tokens = limits->block_tokens,
                              .tables_count = limits->slots_max,
                              .table_max = table_max(limits)};
    prefix_init(&blocks->prefix, limits, memory);
    blocks->blocks = (struct block *)((char *)memory + prefix_bytes(limits));
    blocks->free = (uint32_t *)(blocks->blocks + blocks->count);
    blocks->marks = blocks->free + blocks->count;
    blocks->table_counts = blocks->marks + blocks->count;
    blocks->table_firsts = blocks->table_counts + blocks->tables_count;
    blocks->tables = blocks->table_firsts + blocks->tables_count;
    blocks_reset(blocks);
}

void blocks_reset(struct blocks *blocks)
{
    memset(blocks->blocks, 0, blocks->count * sizeof *blocks->blocks);
    memset(blocks->table_counts, 0, blocks->tables_count * sizeof *blocks->table_counts);
    memset(blocks->table_firsts, 0, blocks->tables_count * sizeof *blocks->table_firsts);
    for (uint32_t i = 0; i < blocks->count; i++)
        blocks->free[i] = blocks->count - 1 - i;
    blocks->free_count = blocks->count;
    prefix_reset(&blocks->prefix);
}

static uint32_t *table_of(struct blocks *blocks, uint32_t table)
{
    return blocks->tables + (size_t)table * blocks->table_max;
}

void blocks_begin(struct blocks *blocks, uint32_t table, uint32_t first)
{
    CHECK(table < blocks->tables_count && blocks->table_counts[table] == 0);
    CHECK(first <= blocks->table_max);
    blocks->table_firsts[table] = first;
}

void blocks_take(struct blocks *blocks, uint32_t table, sched_id owner, uint32_t n,
                 uint32_t *ret_blocks)
{
    CHECK(n <= blocks_takeable(blocks));
    CHECK(table < blocks->tables_count);
    CHECK(n <= blocks->table_max - blocks_table_end(blocks, table));
    uint32_t *entries = table_of(blocks, table) + blocks_table_end(blocks, table);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t block = blocks->free_count > 0 ? blocks->free[--blocks->free_count]
                                                : prefix_evict(&blocks->prefix);
        CHECK(blocks->blocks[block].references == 0);
        blocks->blocks[block] = (struct block){.owner = owner, .references = 1};
        entries[i] = block;
        if (ret_blocks)
            ret_blocks[i] = block;
    }
    blocks->table_counts[table] += n;
}

void blocks_hold(struct blocks *blocks, uint32_t block)
{
    CHECK(prefix_is_listed(&blocks->prefix, block));
    if (blocks->blocks[block].references++ == 0)
        prefix_uncache(&blocks->prefix, block);
}

void blocks_let_go(struct blocks *blocks, uint32_t block)
{
    CHECK(blocks->blocks[block].references > 0);
    if (--blocks->blocks[block].references > 0)
        return;
    if (prefix_is_listed(&blocks->prefix, block))
        prefix_cache(&blocks->prefix, block);
    else
        blocks->free[blocks->free_count++] = block;
}

void blocks_share(struct blocks *blocks, uint32_t table, uint32_t block)
{
    CHECK(table < blocks->tables_count && blocks_table_end(blocks, table) < blocks->table_max);
    blocks_hold(blocks, block);
    table_of(blocks, table)[blocks_table_end(blocks, table)] = block;
    blocks->table_counts[table]++;
}

void blocks_slide(struct blocks *blocks, uint32_t table, uint32_t n)
{
    CHECK(table < blocks->tables_count && n <= blocks->table_counts[table]);
    const uint32_t *entries = table_of(blocks, table) + blocks->table_firsts[table];
    for (uint32_t i = 0; i < n; i++)
        blocks_let_go(blocks, entries[i]);
    blocks->table_firsts[table] += n;
    blocks->table_counts[table] -= n;
}

uint32_t blocks_give_back(struct blocks *blocks, uint32_t table)
{
    CHECK(table < blocks->tables_count);
    const uint32_t *entries = table_of(blocks, table) + blocks->table_firsts[table];
    uint32_t n = blocks->table_counts[table];
    /* Last first: a table taken next has the same order as this one, and of a chain that is cached
     * now, the end is evicted before the beginning. */
    for (uint32_t i = n; i-- > 0;)
        blocks_let_go(blocks, entries[i]);
    blocks->table_counts[table] = blocks->table_firsts[table] = 0;
    return n;
}

void blocks_forget(struct blocks *blocks, uint64_t domain)
{
    uint32_t block;
    while ((block = prefix_forget(&blocks->prefix, domain)) != PREFIX_NONE)
        blocks->free[blocks->free_count++] = block;
}

void blocks_check(const struct blocks *blocks)
{
    prefix_check(&blocks->prefix);
    memset(blocks->marks, 0, blocks->count * sizeof *blocks->marks);
    for (uint32_t table = 0; table < blocks->tables_count; table++) {
        const uint32_t *entries = blocks_table(blocks, table) + blocks->table_firsts[table];
        CHECK(blocks_table_end(blocks, table) <= blocks->table_max);
        for (uint32_t i = 0; i < blocks->table_counts[table]; i++) {
            CHECK(entries[i] < blocks->count);
            blocks->marks[entries[i]]++;
        }
    }
    uint32_t unused = 0, cached = 0;
    for (uint32_t block = 0; block < blocks->count; block++) {
        bool listed = prefix_is_listed(&blocks->prefix, block);
        CHECK(blocks->marks[block] == blocks->blocks[block].references);
        CHECK(listed || blocks->marks[block] <= 1);
        unused += blocks->marks[block] == 0 && !listed;
        cached += blocks->marks[block] == 0 && listed;
    }
    CHECK(unused == blocks->free_count && cached == blocks->prefix.n_cached);
    /* As many entries as unused blocks, none used, none twice: the stack is exactly those. */
    for (uint32_t i = 0; i < blocks->free_count; i++) {
        CHECK(blocks->free[i] < blocks->count);
        CHECK(!prefix_is_listed(&blocks->prefix, blocks->free[i]));
        CHECK(blocks->marks[blocks->free[i]]++ == 0);
    }
}
