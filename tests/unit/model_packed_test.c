/*
 * Checkpoints that hold their matrices in 8 or 4 bits: each layout gives, on ref, the same bits as
 * a checkpoint in F32 of the values that it stands for; quantised while loading, in several files,
 * on the CPU backend.
 */
#include "tests/unit/logits_rig.h"
#include "tests/unit/packed_build.h"

static char noted[512];
static void note(void *context, bool is_warning, const char *text)
{
    (void)context;
    (void)is_warning;
    snprintf(noted, sizeof noted, "%s", text);
}

/* Logits of every position of a fixed sequence: [ROWS][VOCAB], to be freed. */
static float *logits_of(const struct model_options *how)
{
    const struct model_progress progress = {.note = note};
    struct model *model = NULL;
    struct error error = {0};
    noted[0] = 0;
    if (model_open(directory, how, &progress, &model, &error))
        fail_msg("%s", error.text);
    float *copy = malloc(ROWS * VOCAB * sizeof *copy);
    assert_non_null(copy);
    logits_of_model(model, ROWS, VOCAB, copy);
    model_close(model);
    return copy;
}

/* The bound is a part of how far apart the logits are. */
static void compare(struct file *packed, struct file *wide, const struct model_options *how,
                    float bound)
{
    file_write(wide);
    float *expected = logits_of(how), least = expected[0], most = expected[0];
    file_write(packed);
    float *got = logits_of(how);
    for (uint32_t i = 0; i < ROWS * VOCAB; i++) {
        least = fminf(least, expected[i]);
        most = fmaxf(most, expected[i]);
    }
    assert_true(most - least > 1); /* something was computed */
    for (uint32_t i = 0; i < ROWS * VOCAB; i++)
        if (!(fabsf(got[i] - expected[i]) <= bound * (most - least)))
            fail_msg("%s: logit %u: %g, expected %g", packed->quantization, i, (double)got[i],
                     (double)expected[i]);
    free(got);
    free(expected);
}

static void same_bits_as_what_it_stands_for(void **state)
{
    for (size_t i = 0; i < array_count(layouts); i++) {
        struct file packed, wide;
        models_make(&layouts[i], &packed, &wide);
        compare(&packed, &wide, &options, 0);
        file_free(&packed);
        file_free(&wide);
    }
}

static void shards(void **state)
{
    struct file packed, wide;
    models_make(&layouts[0], &packed, &wide);
    file_write(&packed);
    float *one = logits_of(&options);
    shards_write(&packed);
    float *two = logits_of(&options);
    assert_memory_equal(one, two, ROWS * VOCAB * sizeof *one);
    free(one);
    free(two);
    file_free(&packed);
    file_free(&wide);
}

/* Quantised on the way: what is in 8 bits as its F32 twin would be, bit for bit. */
static void quantised(void **state)
{
    struct model_options how = options;
    struct file packed, wide;
    for (int kind = 0; kind < 2; kind++) {
        how.limits.quantise = kind ? DTYPE_Q4_0 : DTYPE_Q8_0;
        models_make(&layouts[0], &packed, &wide);
        compare(&packed, &wide, &how, 0);
        file_free(&packed);
        file_free(&wide);
    }
    models_make(&layouts[15], &packed, &wide);
    file_write(&packed);
    float *as_is = logits_of(&options), *same = logits_of(&how);
    assert_memory_equal(as_is, same, ROWS * VOCAB * sizeof *same);
    assert_non_null(strstr(noted, "quantize changes nothing"));
    free(as_is);
    free(same);
    file_free(&packed);
    file_free(&wide);
}

/* The CPU backend: BF16 of 8 bits, and says so; blocks of 4 bits as they are. */
static void on_cpu(void **state)
{
    struct model_options how = options;
    struct model_plan plans[2];
    struct error error;
    how.ops = &ops_cpu;
    for (size_t i = 0; i < array_count(layouts); i += 3) {
        struct file packed, wide;
        models_make(&layouts[i], &packed, &wide);
        compare(&packed, &wide, &how, 0.02f);
        bool eight = layouts[i].kind == ROWS_F8;
        assert_true(!eight || strstr(noted, "BF16"));
        assert_int_equal(model_plan(directory, &options, &plans[0], &error), STATUS_OK);
        assert_int_equal(model_plan(directory, &how, &plans[1], &error), STATUS_OK);
        if (eight && layouts[i].hidden == 0)
            assert_true(plans[1].weights_bytes > plans[0].weights_bytes);
        else
            assert_int_equal(plans[1].weights_bytes, plans[0].weights_bytes);
        file_free(&packed);
        file_free(&wide);
    }
}

/* Scales of activations and of a KV cache are not ours to use. */
static void unused_scales(void **state)
{
    static const char *const names[] = {"model.layers.0.mlp.up_proj.input_scale",
                                        "model.layers.0.self_attn.k_scale",
                                        "model.layers.0.self_attn.v_scale"};
    struct file packed, wide;
    models_make(&layouts[3], &packed, &wide);
    for (size_t i = 0; i < array_count(names); i++)
        value_put(item_new(&packed, names[i], "F32", 0, 0, 0), 2);
    compare(&packed, &wide, &options, 0);
    file_free(&packed);
    file_free(&wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_as_what_it_stands_for),
        cmocka_unit_test(shards),
        cmocka_unit_test(quantised),
        cmocka_unit_test(on_cpu),
        cmocka_unit_test(unused_scales),
    };
    return cmocka_run_group_tests_name("packed", tests, directory_make, directory_drop);
}
