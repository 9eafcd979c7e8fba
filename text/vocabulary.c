#include "text/vocabulary.h"

/*
 * A table at most half full has short runs unless somebody chose its keys to collide. Such a file
 * is refused rather than served slowly.
 */
#define PROBES_MAX 512

enum status vocabulary_init(struct vocabulary *vocabulary, uint32_t count, struct error *error)
{
    memset(vocabulary, 0, sizeof *vocabulary);
    if (count == 0 || count > VOCABULARY_IDS_MAX)
        return error_set(error, STATUS_INVALID, "%u token ids, expected 1 to %u", count,
                         VOCABULARY_IDS_MAX);
    vocabulary->tokens = calloc(count, sizeof *vocabulary->tokens);
    if (!vocabulary->tokens)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %u tokens", count);
    vocabulary->count = count;
    return STATUS_OK;
}

void vocabulary_free(struct vocabulary *vocabulary)
{
    free(vocabulary->tokens);
    free(vocabulary->bytes);
    free(vocabulary->slots);
    memset(vocabulary, 0, sizeof *vocabulary);
}

static enum status bytes_reserve(struct vocabulary *vocabulary, size_t more_bytes,
                                 struct error *error)
{
    size_t needed = vocabulary->bytes_count + more_bytes;
    if (needed <= vocabulary->bytes_capacity)
        return STATUS_OK;
    size_t capacity = size_max(needed, 2 * vocabulary->bytes_capacity);
    capacity = size_max(capacity, 4096);
    char *bytes = realloc(vocabulary->bytes, capacity);
    if (!bytes)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %zu bytes of tokens", capacity);
    vocabulary->bytes = bytes;
    vocabulary->bytes_capacity = capacity;
    return STATUS_OK;
}

enum status vocabulary_set(struct vocabulary *vocabulary, uint32_t id, struct span bytes,
                           enum token_kind kind, bool merges, struct error *error)
{
    CHECK(id < vocabulary->count && kind != TOKEN_ABSENT);
    struct vocabulary_token *token = &vocabulary->tokens[id];
    if (token->kind != TOKEN_ABSENT)
        return error_set(error, STATUS_INVALID, "token id %u is there twice", id);
    if (bytes.size_bytes == 0 || bytes.size_bytes > VOCABULARY_TOKEN_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "token id %u has %zu bytes, expected 1 to %d", id,
                         bytes.size_bytes, VOCABULARY_TOKEN_MAX_BYTES);
    enum status status = bytes_reserve(vocabulary, bytes.size_bytes, error);
    if (status)
        return status;
    memcpy(vocabulary->bytes + vocabulary->bytes_count, bytes.data, bytes.size_bytes);
    *token = (struct vocabulary_token){.offset = (uint32_t)vocabulary->bytes_count,
                                       .size_bytes = (uint16_t)bytes.size_bytes,
                                       .kind = (uint8_t)kind,
                                       .merges = merges};
    vocabulary->bytes_count += bytes.size_bytes;
    return STATUS_OK;
}

/* Eight bytes at a time, mixed by multiplication; good enough for words. */
static uint32_t bytes_hash(struct span bytes)
{
    uint64_t hash = bytes.size_bytes * 0x9e3779b97f4a7c15ull;
    size_t at = 0;
    while (at < bytes.size_bytes) {
        uint64_t word = 0;
        size_t count = size_min(sizeof word, bytes.size_bytes - at);
        memcpy(&word, bytes.data + at, count);
        hash = (hash ^ word) * 0xff51afd7ed558ccdull;
        hash ^= hash >> 32;
        at += count;
    }
    hash *= 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(hash >> 32);
}

/* The slot that holds these bytes, or the free slot where they belong; UINT32_MAX past the limit.
 */
static uint32_t slot_of(const struct vocabulary *vocabulary, struct span bytes)
{
    uint32_t slot = bytes_hash(bytes) & vocabulary->slots_mask;
    for (int probe = 0; probe < PROBES_MAX; probe++) {
        uint32_t id = vocabulary->slots[slot];
        if (id == VOCABULARY_NONE || span_equal(vocabulary_bytes(vocabulary, id), bytes))
            return slot;
        slot = (slot + 1) & vocabulary->slots_mask;
    }
    return UINT32_MAX;
}

enum status vocabulary_index(struct vocabulary *vocabulary, struct error *error)
{
    uint32_t n_slots = 16;
    while (n_slots < 2 * vocabulary->count)
        n_slots *= 2;
    CHECK(!vocabulary->slots);
    vocabulary->slots = malloc(n_slots * sizeof *vocabulary->slots);
    if (!vocabulary->slots)
        return error_set(error, STATUS_EXHAUSTED, "no memory for an index of %u tokens", n_slots);
    memset(vocabulary->slots, 0xff, n_slots * sizeof *vocabulary->slots);
    vocabulary->slots_mask = n_slots - 1;
    for (uint32_t id = 0; id < vocabulary->count; id++) {
        if (!vocabulary->tokens[id].merges)
            continue;
        uint32_t slot = slot_of(vocabulary, vocabulary_bytes(vocabulary, id));
        if (slot == UINT32_MAX)
            return error_set(error, STATUS_INVALID,
                             "token id %u: the vocabulary is built to make look-ups slow", id);
        if (vocabulary->slots[slot] != VOCABULARY_NONE)
            return error_set(error, STATUS_INVALID, "token ids %u and %u have the same content",
                             vocabulary->slots[slot], id);
        vocabulary->slots[slot] = id;
    }
    return STATUS_OK;
}

uint32_t vocabulary_find(const struct vocabulary *vocabulary, struct span bytes)
{
    if (bytes.size_bytes == 0 || bytes.size_bytes > VOCABULARY_TOKEN_MAX_BYTES)
        return VOCABULARY_NONE;
    uint32_t slot = slot_of(vocabulary, bytes);
    return slot == UINT32_MAX ? VOCABULARY_NONE : vocabulary->slots[slot];
}
