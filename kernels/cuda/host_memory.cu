#include <sys/mman.h>

#include "kernels/cuda/host_private.h"

/* Memory of the emulated card: which addresses are whose, and who wrote each byte last. */

static uint32_t place_of(const struct host_memory *memory, const void *at)
{
    uint32_t low = 0, high = memory->n_allocations;
    while (low < high) { /* the first that begins after `at` */
        uint32_t middle = (low + high) / 2;
        if ((const char *)at < memory->allocations[middle].data)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Sixteen times the memory, but only what is written is ever touched: no swap is reserved. */
static struct host_word *words_make(size_t bytes)
{
    void *words = mmap(NULL, size_product(bytes, sizeof(struct host_word)), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(words != MAP_FAILED);
    return (struct host_word *)words;
}

static void words_free(const struct host_allocation *allocation)
{
    if (allocation->words)
        (void)munmap(allocation->words, allocation->bytes * sizeof(struct host_word));
}

void *host_memory_alloc(struct host_memory *memory, size_t bytes)
{
    if (memory->n_allocations == memory->capacity) {
        uint32_t capacity = memory->capacity ? 2 * memory->capacity : 64;
        void *grown = realloc(memory->allocations, capacity * sizeof *memory->allocations);
        if (!grown)
            return NULL;
        memory->allocations = (struct host_allocation *)grown;
        memory->capacity = capacity;
    }
    char *data = (char *)memory_alloc(bytes);
    if (!data)
        return NULL;
    uint32_t at = place_of(memory, data);
    memmove(memory->allocations + at + 1, memory->allocations + at,
            (memory->n_allocations - at) * sizeof *memory->allocations);
    memory->allocations[at] = (struct host_allocation){data, bytes, NULL};
    memory->n_allocations++;
    memory->last = 0;
    return data;
}

void host_memory_free(struct host_memory *memory, void *data)
{
    if (!data)
        return;
    uint32_t at = place_of(memory, data);
    CHECK(at > 0 && memory->allocations[at - 1].data == data);
    host_writes_settle(memory);
    words_free(&memory->allocations[--at]);
    memory_free(data);
    memmove(memory->allocations + at, memory->allocations + at + 1,
            (memory->n_allocations - at - 1) * sizeof *memory->allocations);
    memory->n_allocations--;
    memory->last = 0;
}

void host_memory_close(struct host_memory *memory)
{
    while (memory->n_allocations > 0)
        host_memory_free(memory, memory->allocations[0].data);
    free(memory->allocations);
    free(memory->released);
    free(memory->writes.items);
    free(memory->before.items);
}

/* ---- what the launch before wrote ---- */

static void write_note(struct host_memory *memory, const void *at, uint32_t bytes)
{
    struct host_writes *writes = &memory->writes;
    struct host_write *last = writes->n ? &writes->items[writes->n - 1] : NULL;
    if (last && last->at + last->bytes == at && last->bytes < 1u << 20) {
        last->bytes += bytes;
        return;
    }
    if (writes->n == writes->capacity) {
        writes->capacity = writes->capacity ? 2 * writes->capacity : 1024;
        writes->items =
            (struct host_write *)realloc(writes->items, writes->capacity * sizeof *writes->items);
        CHECK(writes->items);
    }
    writes->items[writes->n++] = {(char *)(uintptr_t)at, bytes};
}

void host_writes_begin(struct host_memory *memory)
{
    struct host_writes spare = memory->before;
    memory->before = memory->writes;
    memory->writes = spare;
    memory->writes.n = 0;
}

void host_writes_settle(struct host_memory *memory)
{
    host_writes_show(memory);
    memory->writes.n = memory->before.n = 0;
}

void host_writes_hide(struct host_memory *memory)
{
    const struct host_writes *before = &memory->before;
    size_t bytes = 0;
    for (size_t i = 0; i < before->n; i++)
        bytes += before->items[i].bytes;
    if (bytes == 0)
        return;
    memory->hidden = (char *)malloc(bytes);
    CHECK(memory->hidden);
    bytes = 0;
    for (size_t i = 0; i < before->n; bytes += before->items[i++].bytes)
        memcpy(memory->hidden + bytes, before->items[i].at, before->items[i].bytes);
    for (size_t i = 0; i < before->n; i++)
        memset(before->items[i].at, 0xff, before->items[i].bytes);
}

void host_writes_show(struct host_memory *memory)
{
    size_t bytes = 0;
    if (!memory->hidden)
        return;
    for (size_t i = 0; i < memory->before.n; bytes += memory->before.items[i++].bytes)
        memcpy(memory->before.items[i].at, memory->hidden + bytes, memory->before.items[i].bytes);
    free(memory->hidden);
    memory->hidden = NULL;
}

static bool holds(const struct host_allocation *a, const void *at, size_t bytes)
{
    const char *place = (const char *)at;
    return place >= a->data && bytes <= a->bytes && (size_t)(place - a->data) <= a->bytes - bytes;
}

struct host_allocation *host_memory_find(struct host_memory *memory, const void *at, size_t bytes)
{
    if (memory->last < memory->n_allocations &&
        holds(&memory->allocations[memory->last], at, bytes))
        return &memory->allocations[memory->last];
    uint32_t after = place_of(memory, at);
    if (after == 0 || !holds(&memory->allocations[after - 1], at, bytes))
        return NULL;
    memory->last = after - 1;
    return &memory->allocations[after - 1];
}

static bool word_ordered(const struct host_memory *memory, const struct host_word *word,
                         uint32_t block)
{
    if (word->launch != memory->launch)
        return true; /* a launch before, or nobody */
    if (word->block == block)
        return host_ordered(word->thread, word->clock);
    return memory->acquired && memory->released && memory->released[word->block];
}

void host_global(const void *at, uint32_t bytes, enum host_access access)
{
    struct host_block *b = host_block_now;
    struct host_memory *memory = b->memory;
    struct host_allocation *allocation = host_memory_find(memory, at, bytes);
    if (!allocation)
        host_fail("%s %u bytes at %p, which is no memory of the card",
                  access == HOST_READ ? "reads" : "writes", bytes, at);
    if ((uintptr_t)at % (bytes & -bytes)) /* a struct: the power of two in its size */
        host_fail("an access of %u bytes at %p is misaligned", bytes, at);
    if (b->launch->overlaps && !b->threads[b->now.thread].waited)
        host_fail("%s memory before launch_wait", access == HOST_READ ? "reads" : "writes");
    if (access != HOST_READ)
        write_note(memory, at, bytes);
    if (!allocation->words) {
        if (access == HOST_READ)
            return;
        allocation->words = words_make(allocation->bytes);
    }
    struct host_word *words = allocation->words + ((const char *)at - allocation->data);
    for (uint32_t i = 0; i < bytes; i++) {
        struct host_word *word = &words[i];
        if (!(word->atomic && access == HOST_ATOMIC) && !word_ordered(memory, word, b->linear)) {
            char a[64], c[64];
            host_fail("race in memory: byte %zu of an allocation of %zu is %s by %s and %s by %s%s",
                      (size_t)((const char *)at - allocation->data) + i, allocation->bytes,
                      word->atomic ? "changed" : "written",
                      host_thread_name(word->thread, a, sizeof a),
                      access == HOST_READ ? "read" : "written",
                      host_thread_name(b->now.thread, c, sizeof c),
                      word->block == b->linear ? "" : " of another block");
        }
        if (access != HOST_READ)
            *word = (struct host_word){memory->launch, b->linear, b->clock[b->now.thread / 32],
                                       (uint16_t)b->now.thread, access == HOST_ATOMIC};
    }
}

void host_global_order(void)
{
    struct host_block *b = host_block_now;
    size_t blocks = (size_t)b->now.grid_x * b->now.grid_y * b->now.grid_z;
    if (b->memory->released_bytes < blocks) {
        free(b->memory->released);
        b->memory->released = (uint8_t *)calloc(blocks, 1);
        CHECK(b->memory->released);
        b->memory->released_bytes = blocks;
    }
    b->memory->released[b->linear] = 1;
    b->memory->acquired = true;
}
