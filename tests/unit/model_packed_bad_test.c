/* Packed checkpoints that are wrong in one way each, refused by the name of the tensor or field. */
#include "tests/unit/packed_build.h"

#define UP "model.layers.0.mlp.up_proj"

static void u32_set(struct file *file, const char *name, size_t at, uint32_t word)
{
    memcpy(item_find(file, name)->bytes.data + 4 * at, &word, sizeof word);
}

static void scale_drop(struct file *file)
{
    item_drop(file, UP ".weight_scale_inv");
}
static void scale_turn(struct file *file)
{
    struct item *item = item_find(file, UP ".weight_scale_inv");
    uint64_t first = item->dims[0];
    item->dims[0] = item->dims[1];
    item->dims[1] = first;
}
static void scale_retype(struct file *file)
{
    item_find(file, UP ".weight_scale_inv")->dtype = "I32";
}
static void scale_nan(struct file *file)
{
    u32_set(file, UP ".weight_scale_inv", 3, 0x7fc00000);
}
static void scale_infinite(struct file *file)
{
    u32_set(file, UP ".weight_scale_inv", 2, 0xff800000);
}
static void scale_huge(struct file *file)
{
    u32_set(file, UP ".weight_scale_inv", 2, 0x70000000);
}
static void byte_nan(struct file *file)
{
    item_find(file, UP ".weight")->bytes.data[1000] = (char)0xff;
}
static void weight_wide(struct file *file)
{
    item_find(file, UP ".weight")->dims[1] = 64;
    item_find(file, UP ".weight")->dims[0] = 512;
}
static void zeros_drop(struct file *file)
{
    item_drop(file, UP ".qzeros");
}
static void scales_drop(struct file *file)
{
    item_drop(file, UP ".scales");
}
static void qweight_drop(struct file *file)
{
    item_drop(file, UP ".qweight");
}
static void qweight_turn(struct file *file)
{
    struct item *item = item_find(file, UP ".qweight");
    item->dims[0] /= 2;
    item->dims[1] *= 2;
}
static void qweight_retype(struct file *file)
{
    item_find(file, UP ".qweight")->dtype = "F32";
}
static void order_swap(struct file *file)
{
    u32_set(file, UP ".g_idx", 33, 0);
}
static void order_short(struct file *file)
{
    struct item *item = item_find(file, UP ".g_idx");
    item->dims[0] /= 2;
    item->bytes.size /= 2;
}
static void zero_other(struct file *file)
{
    u32_set(file, UP ".qzeros", 2, 0x77777677);
}
static void half_nan(struct file *file)
{
    item_find(file, UP ".scales")->bytes.data[7] = 0x7e;
}
static void half_large(struct file *file)
{
    item_find(file, UP ".scales")->bytes.data[7] = 0x7b;
}
static void bias_set(struct file *file)
{
    item_find(file, UP ".bias")->bytes.data[4] = 1;
}
static void bits_8(struct file *file)
{
    file->quantization = "{\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":32}";
}
static void undescribed(struct file *file)
{
    file->quantization = NULL;
}

static const struct {
    size_t layout;
    void (*spoil)(struct file *file);
    enum status status;
    const char *text;
} bad[] = {
    {0, scale_drop, STATUS_INVALID,
     UP ".weight_scale_inv is missing, expected F32, F16 or BF16 [6, 1]"},
    {0, scale_turn, STATUS_INVALID,
     UP ".weight_scale_inv: expected F32, F16 or BF16 [6, 1], got F32 [1, 6]"},
    {0, scale_retype, STATUS_UNSUPPORTED,
     UP ".weight_scale_inv: expected F32, F16 or BF16 [6, 1], got I32 [6, 1]"},
    {0, scale_nan, STATUS_INVALID, UP ".weight_scale_inv: value 3 is not a finite number"},
    {0, scale_infinite, STATUS_INVALID, UP ".weight_scale_inv: value 2 is not a finite number"},
    {0, scale_huge, STATUS_INVALID, UP ".weight_scale_inv: value 2 is too large for a scale"},
    {0, byte_nan, STATUS_INVALID, UP ".weight: value 1000 is not a finite number"},
    {0, weight_wide, STATUS_INVALID, UP ".weight: expected F8_E4M3 [256, 128], got F8_E4M3"},
    {0, undescribed, STATUS_UNSUPPORTED, ".weight: expected F32, F16 or BF16 [128, 128], got F8"},
    {10, zeros_drop, STATUS_INVALID, UP ".qzeros is missing, expected I32 [4, 32]"},
    {10, scales_drop, STATUS_INVALID, UP ".scales is missing, expected F32, F16 or BF16 [4, 256]"},
    {10, qweight_drop, STATUS_INVALID, UP ".weight is missing"},
    {10, qweight_turn, STATUS_INVALID, UP ".qweight: expected I32 [16, 256], got I32 [8, 512]"},
    {10, qweight_retype, STATUS_UNSUPPORTED, UP ".qweight: expected I32 [16, 256], got F32"},
    {10, order_swap, STATUS_UNSUPPORTED, UP ".g_idx: column 33 is of group 0, expected 1"},
    {10, order_short, STATUS_INVALID, UP ".g_idx: expected I32 [128], got I32 [64]"},
    {10, half_nan, STATUS_INVALID, UP ".scales: value 3 is not a finite number"},
    {10, half_large, STATUS_INVALID, UP ".scales: value 3 is too large for a scale"},
    {10, bits_8, STATUS_UNSUPPORTED, "quantization_config.bits: 8 is not supported, expected 4"},
    {11, zero_other, STATUS_INVALID, UP ".qzeros: word 2 has a zero other than 8"},
    {11, bias_set, STATUS_INVALID, "1 tensors that the architecture"},
    {15, qweight_turn, STATUS_INVALID, UP ".qweight: expected I32 [128, 32], got I32 [64, 64]"},
    {15, half_nan, STATUS_INVALID, UP ".scales: value 3 is not a finite number"},
};

static void refused(void **state)
{
    for (size_t i = 0; i < array_count(bad); i++) {
        struct file packed, wide;
        struct model *model = NULL;
        struct error error = {0};
        models_make(&layouts[bad[i].layout], &packed, &wide);
        bad[i].spoil(&packed);
        file_write(&packed);
        enum status status = model_open(directory, &options, NULL, &model, &error);
        if (status != bad[i].status || !strstr(error.text, bad[i].text))
            fail_msg("case %zu: status %d, \"%s\", expected \"%s\"", i, status, error.text,
                     bad[i].text);
        assert_null(model);
        file_free(&packed);
        file_free(&wide);
    }
}

/* Rows that are no whole blocks, outputs that are no whole words. */
static void odd_shapes_of_bits(void **state)
{
    static const struct layout odd[] = {
        {GPTQ("32", ""), BITS_GPTQ, NULL, "F16", 1, 32, .zero_offset = 1, .hidden = 48},
        {AWQ("32", ""), BITS_AWQ, NULL, "F16", 1, 32, .intermediate = 40}};
    static const char *const texts[] = {"outputs of 48 columns, expected multiples of 8 and 32",
                                        "outputs of 40 columns, expected multiples of 8 and 32"};
    for (size_t i = 0; i < array_count(odd); i++) {
        struct file packed, wide;
        struct model_plan plan;
        struct error error = {0};
        models_make(&odd[i], &packed, &wide);
        file_write(&packed);
        assert_int_equal(model_plan(directory, &options, &plan, &error), STATUS_UNSUPPORTED);
        if (!strstr(error.text, texts[i]))
            fail_msg("%s", error.text);
        file_free(&packed);
        file_free(&wide);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused),
        cmocka_unit_test(odd_shapes_of_bits),
    };
    return cmocka_run_group_tests_name("packed, bad", tests, directory_make, directory_drop);
}
