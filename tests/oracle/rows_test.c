/*
 * The embedding, gathers and copies on the CPU backend: exact.
 */
#include "tests/oracle/rig.h"

static void embed_and_gathers(void **state)
{
    struct dice dice = {8};
    enum { VOCAB = 77, HIDDEN = 64, ROWS = 30, SLOTS = 5 };
    uint32_t ids[ROWS], slots[ROWS], sampled[SLOTS], got_ids[ROWS], picks[ROWS];
    for (uint32_t i = 0; i < SLOTS; i++)
        sampled[i] = dice_below(&dice, VOCAB);
    for (uint32_t i = 0; i < ROWS; i++) {
        ids[i] = dice_below(&dice, 3) ? dice_below(&dice, VOCAB) : TOKEN_FROM_SLOT;
        slots[i] = dice_below(&dice, SLOTS);
        picks[i] = dice_below(&dice, ROWS);
    }
    for (int type = 0; type < DTYPE_COUNT; type++) {
        enum dtype dtype = (enum dtype)type;
        if (HIDDEN % dtype_block_count(dtype)) /* E4M3 of a checkpoint is of matrices alone */
            continue;
        void *data = dice_weights(&dice, dtype, VOCAB * HIDDEN, 1);
        float table[VOCAB * HIDDEN];
        dtype_widen(dtype, data, VOCAB * HIDDEN, table);
        struct rig rig = rig_tested(state);
        uint32_t *device_ids = rig_poison(&rig, sizeof ids);
        struct tokens_gather_args gather = {.n_rows = ROWS,
                                            .host_ids = ids,
                                            .host_slots = slots,
                                            .last_sampled = rig_put(&rig, sampled, sizeof sampled),
                                            .ids = device_ids};
        rig.ops->tokens_gather(rig.device, &gather);
        rig_get(&rig, device_ids, got_ids, sizeof got_ids);
        float out[ROWS * HIDDEN], picked[ROWS * HIDDEN];
        float *device_out = rig_poison(&rig, sizeof out);
        float *device_picked = rig_poison(&rig, sizeof picked);
        struct embed_args embed = {.weight = rig_weight(&rig, dtype, VOCAB, HIDDEN, data),
                                   .n_rows = ROWS,
                                   .ids = device_ids,
                                   .out = device_out};
        rig.ops->embed(rig.device, &embed);
        rig_get(&rig, device_out, out, sizeof out);
        struct rows_gather_args rows = {
            .n_out = ROWS, .n = HIDDEN, .host_rows = picks, .in = device_out, .out = device_picked};
        rig.ops->rows_gather(rig.device, &rows);
        rig_get(&rig, device_picked, picked, sizeof picked);
        for (uint32_t r = 0; r < ROWS; r++) {
            uint32_t id = ids[r] == TOKEN_FROM_SLOT ? sampled[slots[r]] : ids[r];
            assert_int_equal(got_ids[r], id);
            for (uint32_t i = 0; i < HIDDEN; i++)
                assert_true(out[r * HIDDEN + i] == table[id * HIDDEN + i]);
            assert_memory_equal(&picked[r * HIDDEN], &out[picks[r] * HIDDEN],
                                HIDDEN * sizeof(float));
        }
        rig_close(&rig);
        free(data);
    }
}

int main(void)
{
    static const struct rig_test tests[] = {
        {"embed, tokens_gather, rows_gather", embed_and_gathers},
    };
    return rig_main("rows", tests, array_count(tests));
}
