#include "text/bpe.h"

#include "text/utf8.h"

#define NONE UINT32_MAX
#define FREE_PAIR UINT64_MAX
#define PROBES_MAX 512 /* as in vocabulary.c: a file built to collide is refused */

enum status bpe_init(struct bpe *bpe, const struct vocabulary *vocabulary, uint32_t merges_max,
                     struct error *error)
{
    memset(bpe, 0, sizeof *bpe);
    bpe->unk_id = VOCABULARY_NONE;
    bpe->vocabulary = vocabulary;
    if (merges_max > BPE_MERGES_MAX)
        return error_set(error, STATUS_INVALID, "%u merges, expected at most %u", merges_max,
                         BPE_MERGES_MAX);
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        bpe->byte_ids[byte] = vocabulary_find(vocabulary, (struct span){&text, 1});
    }
    uint32_t n_slots = 16;
    while (n_slots < 2 * merges_max)
        n_slots *= 2;
    bpe->merges = malloc(n_slots * sizeof *bpe->merges);
    if (!bpe->merges)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %u merges", merges_max);
    memset(bpe->merges, 0xff, n_slots * sizeof *bpe->merges);
    bpe->merges_mask = n_slots - 1;
    return STATUS_OK;
}

void bpe_free(struct bpe *bpe)
{
    free(bpe->merges);
    memset(bpe, 0, sizeof *bpe);
}

static uint64_t pair_of(uint32_t left, uint32_t right)
{
    return (uint64_t)left << 32 | right;
}

static uint32_t pair_slot(const struct bpe *bpe, uint64_t pair)
{
    uint64_t hash = pair * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
    return (uint32_t)((hash * 0xff51afd7ed558ccdull) >> 32) & bpe->merges_mask;
}

/* NULL when these two do not merge. */
static const struct bpe_merge *merge_find(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t pair = pair_of(left, right);
    for (uint32_t slot = pair_slot(bpe, pair);; slot = (slot + 1) & bpe->merges_mask) {
        const struct bpe_merge *merge = &bpe->merges[slot];
        if (merge->pair == pair)
            return merge;
        if (merge->pair == FREE_PAIR)
            return NULL;
    }
}

enum status bpe_merge_put(struct bpe *bpe, const struct bpe_merge_ids *ids, uint32_t rank,
                          struct error *error)
{
    uint64_t pair = pair_of(ids->left, ids->right);
    uint32_t slot = pair_slot(bpe, pair);
    if (bpe->merges_count >= BPE_MERGES_MAX)
        return error_set(error, STATUS_INVALID, "more than %u merges", BPE_MERGES_MAX);
    CHECK(2 * bpe->merges_count <= bpe->merges_mask);
    for (int probe = 0; probe < PROBES_MAX; probe++) {
        struct bpe_merge *merge = &bpe->merges[slot];
        if (merge->pair == pair)
            return error_set(error, STATUS_INVALID, "merge %u repeats merge %u", bpe->merges_count,
                             merge->rank);
        if (merge->pair == FREE_PAIR) {
            *merge = (struct bpe_merge){pair, rank, ids->whole};
            bpe->merges_count++;
            return STATUS_OK;
        }
        slot = (slot + 1) & bpe->merges_mask;
    }
    return error_set(error, STATUS_INVALID, "merge %u: the merges are built to make look-ups slow",
                     bpe->merges_count);
}

static enum status part_unknown(const struct bpe *bpe, const char *which, struct span part,
                                struct error *error)
{
    return error_set(error, STATUS_INVALID, "merge %u: %s \"%.*s\" is not in the vocabulary",
                     bpe->merges_count, which, (int)size_min(part.size_bytes, 64), part.data);
}

enum status bpe_merge_add(struct bpe *bpe, const struct vocabulary *vocabulary, struct span left,
                          struct span right, struct error *error)
{
    char joint[VOCABULARY_TOKEN_MAX_BYTES];
    uint32_t left_id = vocabulary_find(vocabulary, left);
    if (left_id == VOCABULARY_NONE)
        return part_unknown(bpe, "its left part", left, error);
    uint32_t right_id = vocabulary_find(vocabulary, right);
    if (right_id == VOCABULARY_NONE)
        return part_unknown(bpe, "its right part", right, error);
    struct span whole = {joint, left.size_bytes + right.size_bytes};
    if (whole.size_bytes > sizeof joint)
        return error_set(error, STATUS_INVALID, "merge %u makes %zu bytes, expected at most %zu",
                         bpe->merges_count, whole.size_bytes, sizeof joint);
    memcpy(joint, left.data, left.size_bytes);
    memcpy(joint + left.size_bytes, right.data, right.size_bytes);
    uint32_t whole_id = vocabulary_find(vocabulary, whole);
    if (whole_id == VOCABULARY_NONE)
        return part_unknown(bpe, "what it makes,", whole, error);
    return bpe_merge_put(bpe, &(struct bpe_merge_ids){left_id, right_id, whole_id},
                         bpe->merges_count, error);
}

static enum status scratch_reserve(struct bpe_scratch *scratch, uint32_t count, struct error *error)
{
    if (count <= scratch->capacity)
        return STATUS_OK;
    uint32_t capacity = u32_max(64, scratch->capacity);
    while (capacity < count)
        capacity *= 2;
    bpe_scratch_free(scratch); /* nothing in it needs to be kept */
    scratch->symbols = malloc(capacity * sizeof *scratch->symbols);
    scratch->heap = malloc(2 * (size_t)capacity * sizeof *scratch->heap);
    if (!scratch->symbols || !scratch->heap) {
        bpe_scratch_free(scratch);
        return error_set(error, STATUS_EXHAUSTED, "no memory to encode a word of %u bytes", count);
    }
    scratch->capacity = capacity;
    return STATUS_OK;
}

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    memset(scratch, 0, sizeof *scratch);
}

/* Four children a node: half the levels of two, and the children share a cache line. */
#define HEAP_CHILDREN 4

static void heap_push(struct bpe_scratch *scratch, uint64_t candidate)
{
    uint64_t *heap = scratch->heap;
    uint32_t at = scratch->heap_count++;
    DCHECK(at < 2 * scratch->capacity);
    while (at > 0) {
        uint32_t parent = (at - 1) / HEAP_CHILDREN;
        if (heap[parent] <= candidate)
            break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = candidate;
}

static uint64_t heap_pop(struct bpe_scratch *scratch)
{
    uint64_t *heap = scratch->heap;
    uint64_t least = heap[0], last = heap[--scratch->heap_count];
    uint32_t count = scratch->heap_count, at = 0;
    for (;;) {
        uint32_t first = HEAP_CHILDREN * at + 1, end = u32_min(first + HEAP_CHILDREN, count);
        if (first >= count)
            break;
        uint32_t child = first;
        for (uint32_t other = first + 1; other < end; other++)
            if (heap[other] < heap[child])
                child = other;
        if (last <= heap[child])
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return least;
}

/* Symbols under way, before merging. */
struct start {
    struct bpe_symbol *symbols;
    uint32_t count;
    bool after_unk;
};

static void symbol_add(struct start *start, uint32_t id)
{
    start->symbols[start->count] =
        (struct bpe_symbol){id, NONE, start->count - 1, start->count + 1};
    start->count++;
}

/* A byte or character; one without a token is dropped or replaced. */
static void symbol_start(const struct bpe *bpe, struct start *start, uint32_t id)
{
    bool unk = id == VOCABULARY_NONE;
    if (unk && (bpe->unk_id == VOCABULARY_NONE || (start->after_unk && bpe->fuse_unk)))
        return;
    start->after_unk = unk;
    symbol_add(start, unk ? bpe->unk_id : id);
}

static void characters_start(const struct bpe *bpe, struct start *start, struct span piece)
{
    size_t length;
    for (size_t i = 0; i < piece.size_bytes; i += length) {
        int valid = utf8_next(piece.data + i, piece.size_bytes - i, NULL);
        DCHECK(valid > 0);
        length = valid > 0 ? (size_t)valid : 1;
        uint32_t id = length == 1
                          ? bpe->byte_ids[(uint8_t)piece.data[i]]
                          : vocabulary_find(bpe->vocabulary, (struct span){piece.data + i, length});
        if (id != VOCABULARY_NONE || !bpe->falls_back) {
            symbol_start(bpe, start, id);
            continue;
        }
        for (size_t byte = 0; byte < length; byte++)
            symbol_add(start, bpe->fallback_ids[(uint8_t)piece.data[i + byte]]);
    }
}

/* Returns how many symbols merging begins with. */
static uint32_t symbols_start(const struct bpe *bpe, struct bpe_symbol *symbols, struct span piece)
{
    struct start start = {.symbols = symbols};
    if (bpe->characters)
        characters_start(bpe, &start, piece);
    for (size_t i = 0; !bpe->characters && i < piece.size_bytes; i++)
        symbol_start(bpe, &start, bpe->byte_ids[(uint8_t)piece.data[i]]);
    if (start.count > 0)
        symbols[start.count - 1].next = NONE;
    return start.count;
}

/* Looks up the merge of a symbol with its next one; a candidate when there is one. */
static void pair_update(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left)
{
    struct bpe_symbol *symbol = &scratch->symbols[left];
    symbol->rank = NONE;
    if (symbol->next == NONE)
        return;
    const struct bpe_merge *merge = merge_find(bpe, symbol->id, scratch->symbols[symbol->next].id);
    if (!merge)
        return;
    symbol->rank = merge->rank;
    heap_push(scratch, (uint64_t)merge->rank << 32 | left);
}

/*
 * Every symbol whose pair merges has one live candidate in the heap: the one with its present rank.
 * Others are of pairs that are gone and are skipped.
 */
static void symbols_merge(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_symbol *symbols = scratch->symbols;
    while (scratch->heap_count > 0) {
        uint64_t candidate = heap_pop(scratch);
        uint32_t left = (uint32_t)candidate, rank = (uint32_t)(candidate >> 32);
        if (symbols[left].rank != rank)
            continue;
        uint32_t right = symbols[left].next;
        const struct bpe_merge *merge = merge_find(bpe, symbols[left].id, symbols[right].id);
        DCHECK(merge && merge->rank == rank);
        symbols[left].id = merge->id;
        symbols[left].next = symbols[right].next;
        symbols[right].rank = NONE;
        if (symbols[left].next != NONE)
            symbols[symbols[left].next].previous = left;
        pair_update(bpe, scratch, left);
        if (symbols[left].previous != NONE)
            pair_update(bpe, scratch, symbols[left].previous);
    }
}

enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, struct span piece,
                       uint32_t *ret_count, struct error *error)
{
    if (piece.size_bytes > BPE_PIECE_MAX_BYTES)
        return error_set(error, STATUS_INVALID,
                         "a word of %zu bytes without a break, expected at most %u",
                         piece.size_bytes, BPE_PIECE_MAX_BYTES);
    enum status status = scratch_reserve(scratch, (uint32_t)piece.size_bytes, error);
    if (status)
        return status;
    uint32_t started = symbols_start(bpe, scratch->symbols, piece);
    scratch->heap_count = 0;
    for (uint32_t i = 0; i < started; i++)
        pair_update(bpe, scratch, i);
    symbols_merge(bpe, scratch);
    uint32_t count = 0;
    for (uint32_t i = started ? 0 : NONE; i != NONE; i = scratch->symbols[i].next)
        scratch->symbols[count++].id = scratch->symbols[i].id;
    *ret_count = count;
    return STATUS_OK;
}
