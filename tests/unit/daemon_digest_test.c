/* Names of blocks: what they depend on, and that nobody outside can tell them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/digest.h"

#define BLOCK_TOKENS 16
#define N_IDS 50 /* three blocks, and something */

static const uint8_t model_a[32] = {1}, model_b[32] = {2};
static const struct digest_scope scope = {
    .model_digest = model_a, .kv_dtype = 1, .adapter = 3, .cache_domain = 77};

static void ids_make(uint32_t *ids)
{
    for (uint32_t i = 0; i < N_IDS; i++)
        ids[i] = 1000 + i;
}

static bool same(const struct sched_digest *a, const struct sched_digest *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* First of all: a child draws its own secret only if none was drawn before. */
static struct sched_digest other_process_digest(void)
{
    int ends[2], code;
    struct sched_digest digests[3] = {{{0}}};
    uint32_t ids[N_IDS];
    ids_make(ids);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        digest_blocks(&scope, ids, N_IDS, BLOCK_TOKENS, digests);
        _exit(write(ends[1], &digests[2], sizeof digests[2]) != sizeof digests[2]);
    }
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_int_equal(code, 0);
    assert_int_equal(read(ends[0], &digests[2], sizeof digests[2]), sizeof digests[2]);
    close(ends[0]);
    close(ends[1]);
    return digests[2];
}

static void each_process_has_its_own(void **state)
{
    struct sched_digest first = other_process_digest(), second = other_process_digest();
    assert_false(same(&first, &second));
}

static void a_chain_is_what_its_prefix_is(void **state)
{
    struct sched_digest whole[3], shorter[2], again[3], one;
    struct digest_chain *chain;
    uint32_t ids[N_IDS];
    ids_make(ids);
    digest_blocks(&scope, ids, N_IDS, BLOCK_TOKENS, whole);
    digest_blocks(&scope, ids, 2 * BLOCK_TOKENS, BLOCK_TOKENS, shorter);
    assert_memory_equal(whole, shorter, sizeof shorter);
    assert_int_equal(digest_chain_open(&chain, NULL), STATUS_OK);
    for (uint32_t i = 0; i < 3; i++) { /* one by one, as decoding fills them */
        digest_next(chain, &scope, i ? &one : NULL, ids + i * BLOCK_TOKENS, BLOCK_TOKENS, &one);
        assert_true(same(&one, &whole[i]));
    }
    digest_chain_close(chain);
    ids[3]++; /* in the first block: all names behind it are others */
    digest_blocks(&scope, ids, N_IDS, BLOCK_TOKENS, again);
    for (uint32_t i = 0; i < 3; i++)
        assert_false(same(&again[i], &whole[i]));
}

static void everything_counts(void **state)
{
    struct digest_scope all[] = {scope, scope, scope, scope, scope};
    struct sched_digest digests[array_count(all)];
    uint32_t ids[N_IDS];
    ids_make(ids);
    all[1].model_digest = model_b;
    all[2].kv_dtype++;
    all[3].adapter++;
    all[4].cache_domain++;
    for (size_t i = 0; i < array_count(all); i++) {
        digest_blocks(&all[i], ids, BLOCK_TOKENS, BLOCK_TOKENS, &digests[i]);
        for (size_t j = 0; j < i; j++)
            assert_false(same(&digests[i], &digests[j]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_process_has_its_own),
        cmocka_unit_test(a_chain_is_what_its_prefix_is),
        cmocka_unit_test(everything_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
