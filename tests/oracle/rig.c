#include "tests/oracle/rig.h"

#include <fnmatch.h>
#include <math.h>

#include "kernels/module.h"

struct rig rig_open(const char *backend, const char *tier, uint32_t threads_count)
{
    struct rig rig = {0};
    struct device_options options = {.threads_count = threads_count, .tier = tier};
    struct error error = {0};
    if (module_ops(backend, &rig.ops, &error) != STATUS_OK)
        fail_msg("module_ops: %s", error.text);
    if (rig.ops->device_open(&options, &rig.device, &error) != STATUS_OK)
        fail_msg("device_open: %s", error.text);
    return rig;
}

void rig_close(struct rig *rig)
{
    for (uint32_t i = 0; i < rig->n_buffers; i++)
        rig->ops->buffer_free(rig->device, rig->buffers[i]);
    for (uint32_t i = 0; i < rig->n_weights; i++)
        rig->ops->weight_free(rig->device, rig->weights[i]);
    for (uint32_t i = 0; i < rig->n_kvs; i++)
        rig->ops->kv_close(rig->device, rig->kvs[i]);
    rig->ops->device_close(rig->device);
    *rig = (struct rig){0};
}

void *rig_put(struct rig *rig, const void *host, size_t size_bytes)
{
    assert_true(rig->n_buffers < array_count(rig->buffers));
    void *buffer = rig->ops->buffer_alloc(rig->device, size_bytes);
    assert_non_null(buffer);
    assert_int_equal((uintptr_t)buffer % 64, 0);
    if (host)
        rig->ops->buffer_write(rig->device, buffer, host, size_bytes);
    rig->buffers[rig->n_buffers++] = buffer;
    return buffer;
}

void *rig_poison(struct rig *rig, size_t size_bytes)
{
    void *host = malloc(size_bytes + 1);
    assert_non_null(host);
    memset(host, 0xff, size_bytes);
    void *buffer = rig_put(rig, host, size_bytes);
    free(host);
    return buffer;
}

void rig_get(struct rig *rig, const void *buffer, void *host, size_t size_bytes)
{
    struct error error = {0};
    if (rig->ops->sync(rig->device, &error) != STATUS_OK)
        fail_msg("sync: %s", error.text);
    rig->ops->buffer_read(rig->device, buffer, host, size_bytes);
}

struct weight *rig_weight_source(struct rig *rig, const struct weight_source *source)
{
    struct error error = {0};
    assert_true(rig->n_weights < array_count(rig->weights));
    struct weight **weight = &rig->weights[rig->n_weights++];
    if (rig->ops->weight_pack(rig->device, source, weight, &error) != STATUS_OK)
        fail_msg("weight_pack: %s", error.text);
    return *weight;
}

struct weight *rig_weight(struct rig *rig, enum dtype dtype, uint32_t out_count, uint32_t in_count,
                          const void *data)
{
    struct weight_part part = {.dtype = dtype, .out_count = out_count, .data = data};
    struct weight_source source = {.stack_count = 1,
                                   .n_parts = 1,
                                   .out_count = out_count,
                                   .in_count = in_count,
                                   .parts = &part};
    return rig_weight_source(rig, &source);
}

struct kv *rig_kv(struct rig *rig, const struct kv_shape *shape)
{
    struct error error = {0};
    assert_true(rig->n_kvs < array_count(rig->kvs));
    struct kv **kv = &rig->kvs[rig->n_kvs++];
    if (rig->ops->kv_open(rig->device, shape, kv, &error) != STATUS_OK)
        fail_msg("kv_open: %s", error.text);
    return *kv;
}

void rig_kv_poison(struct rig *rig, struct kv *kv, const struct kv_shape *shape)
{
    size_t row = (size_t)(1 + 2 * shape->n_kv_heads) * shape->head_dim;
    float *nan_row = malloc(row * sizeof(float));
    float *inv_freq = calloc(shape->head_dim / 2, sizeof(float));
    assert_true(nan_row && inv_freq);
    memset(nan_row, 0xff, row * sizeof(float));
    void *qkv = rig_put(rig, nan_row, row * sizeof(float));
    void *frequencies = rig_put(rig, inv_freq, shape->head_dim / 2 * sizeof(float));
    uint32_t zero = 0;
    for (uint32_t block = 0; block < shape->blocks_count; block++) {
        rig->ops->kv_table_set(rig->device, kv, 0, 0, &block, 1);
        for (uint32_t i = 0; i < shape->block_tokens * shape->n_layers; i++) {
            uint32_t position = i % shape->block_tokens;
            struct rope_kv_args args = {.n_rows = 1,
                                        .n_heads = 1,
                                        .n_kv_heads = shape->n_kv_heads,
                                        .head_dim = shape->head_dim,
                                        .qkv = qkv,
                                        .inv_freq = frequencies,
                                        .attention_factor = 1,
                                        .host_positions = &position,
                                        .host_slots = &zero,
                                        .kv = kv,
                                        .layer = i / shape->block_tokens};
            rig->ops->rope_kv(rig->device, &args);
        }
    }
    free(nan_row);
    free(inv_freq);
}

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

/* The last are left out under AddressSanitizer: the same kernels, cut into other pieces. */
static struct config cpu_configs[] = {
    {"cpu", "scalar", 1},      {"cpu", "avx2", 3},        {"cpu", "avx512", 3},
    {"cpu", "avx2-vnni", 2},   {"cpu", "avx512-bf16", 3}, {"cpu", "avx512-vnni", 3},
#if !SANITIZED
    {"cpu", "scalar", 2},      {"cpu", "avx2", 1},        {"cpu", "avx2", 2},
    {"cpu", "avx512", 1},      {"cpu", "avx512", 2},      {"cpu", "avx2-vnni", 1},
    {"cpu", "avx512-bf16", 1}, {"cpu", "avx512-bf16", 2}, {"cpu", "avx512-vnni", 1},
    {"cpu", "avx512-vnni", 2},
#endif
};
/* GALERNE_ORACLE_BACKEND names the backend under test, else it is cpu: cuda or cuda-host. */
static struct config cuda_host_configs[] = {
    {"cuda-host", "sm80", 1}, {"cuda-host", "sm90", 1}, {"cuda-host", "plain", 1}};
static struct config cuda_configs[] = {
    {"cuda", "sm80", 1}, {"cuda", "sm90", 1}, {"cuda", "plain", 1}};

static struct config *configs_of(const char *backend, size_t *ret_n)
{
    if (!backend || strcmp(backend, "cpu") == 0) {
        *ret_n = array_count(cpu_configs);
        return cpu_configs;
    }
    *ret_n = array_count(cuda_configs);
    if (strcmp(backend, "cuda-host") == 0)
        return cuda_host_configs;
    return strcmp(backend, "cuda") == 0 ? cuda_configs : NULL;
}

struct rig rig_tested(void **state)
{
    const struct config *config = *state;
    return rig_open(config->backend, config->tier, config->threads_count);
}

bool rig_emulated(void **state)
{
    return strcmp(((const struct config *)*state)->backend, "cuda-host") == 0;
}

void rig_large(void **state)
{
    if (!rig_emulated(state))
        return;
    print_message("skipped: too large for an emulated GPU\n");
    skip();
}

bool rig_is_slow(void **state)
{
    const struct config *config = *state;
    return strcmp(config->backend, "cuda-host") == 0;
}

bool rig_rounds(void **state, enum dtype dtype)
{
    const struct config *config = *state;
    if (strncmp(config->backend, "cuda", 4) == 0)
        return dtype != DTYPE_F32 && strcmp(config->tier, "plain") != 0;
    bool pairs = dtype == DTYPE_BF16 || ops_cpu.widens >> dtype & 1;
    return dtype_has_blocks(dtype) || (pairs && strcmp(config->tier, "avx512-bf16") == 0);
}

bool rig_widens(void **state, enum dtype dtype)
{
    const struct config *config = *state;
    return strcmp(config->backend, "cpu") == 0 && ops_cpu.widens >> dtype & 1;
}

/* Other numbers in every test where GALERNE_ORACLE_SEED is not 0. */
static uint64_t dice_seed(void)
{
    static bool is_read;
    static uint64_t seed;
    const char *text = is_read ? NULL : getenv("GALERNE_ORACLE_SEED");
    if (text)
        seed = strtoull(text, NULL, 10) * 0xd1342543de82ef95u;
    is_read = true;
    return seed;
}

double rig_bound(void **state, enum dtype dtype)
{
    if (!rig_rounds(state, dtype))
        return rig_widens(state, dtype) ? 1e-2 : 1e-5;
    if (!dtype_has_blocks(dtype))
        return 1e-2;
    return dice_seed() ? 6e-2 : 3e-2;
}

/* A tier that this CPU lacks is skipped by name; one that is not known at all is a failure. */
static int config_setup(void **state)
{
    const struct config *config = *state;
    struct device_options options = {.threads_count = 1, .tier = config->tier};
    struct device *device;
    struct error error = {0};
    const struct ops *ops = NULL;
    enum status status = module_ops(config->backend, &ops, &error);
    if (status == STATUS_OK && ops->device_open(&options, &device, &error) == STATUS_OK) {
        ops->device_close(device);
        return 0;
    }
    if (error.status == STATUS_UNSUPPORTED && strstr(error.text, "not supported by")) {
        print_message("skipped: %s\n", error.text);
        skip();
    }
    print_error("%s\n", error.text);
    return -1;
}

int rig_main(const char *group, const struct rig_test *tests, size_t n_tests)
{
    size_t n_configs, first = 0;
    const char *backend = getenv("GALERNE_ORACLE_BACKEND"), *tier = getenv("GALERNE_ORACLE_TIER");
    const char *filter = getenv("GALERNE_ORACLE_FILTER");
    struct config *configs = configs_of(backend, &n_configs);
    if (!configs) {
        print_error("GALERNE_ORACLE_BACKEND=%s: use cpu, cuda or cuda-host\n", backend);
        return 1;
    }
    while (tier && first < n_configs && strcmp(configs[first].tier, tier) != 0)
        first++;
    if (first == n_configs) {
        print_error("GALERNE_ORACLE_TIER=%s: that backend has no such tier\n", tier);
        return 1;
    }
    configs += first;
    n_configs = tier ? 1 : n_configs;
    size_t most = n_tests * n_configs, n = 0;
    struct CMUnitTest *all = calloc(most, sizeof *all);
    char(*names)[96] = calloc(most, sizeof *names);
    if (!all || !names)
        return 1;
    for (size_t i = 0; i < most; i++) {
        struct config *config = &configs[i / n_tests];
        const struct rig_test *test = &tests[i % n_tests];
        snprintf(names[n], sizeof names[n], "%s (%s, %u threads)", test->name, config->tier,
                 config->threads_count);
        if (filter && fnmatch(filter, names[n], 0) != 0)
            continue;
        all[n] = (struct CMUnitTest){.name = names[n],
                                     .test_func = test->run,
                                     .setup_func = config_setup,
                                     .initial_state = config};
        n++;
    }
    if (n == 0)
        print_error("GALERNE_ORACLE_FILTER=%s: no test of %s has such a name\n", filter, group);
    int failed = n == 0 ? 1 : _cmocka_run_group_tests(group, all, n, NULL, NULL);
    free(all);
    free(names);
    return failed;
}

/* SplitMix64. */
static uint64_t dice_next(struct dice *dice)
{
    uint64_t z = (dice->state += 0x9e3779b97f4a7c15u) ^ dice_seed();
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t dice_below(struct dice *dice, uint32_t n)
{
    return (uint32_t)(dice_next(dice) % n);
}

uint32_t dice_between(struct dice *dice, uint32_t low, uint32_t high)
{
    return low + dice_below(dice, high - low + 1);
}

float dice_float(struct dice *dice)
{
    return (float)((double)(dice_next(dice) >> 11) * 0x1p-52 - 1);
}

float *dice_floats(struct dice *dice, size_t n, float scale)
{
    float *values = malloc(n * sizeof *values + 1);
    assert_non_null(values);
    for (size_t i = 0; i < n; i++)
        values[i] = dice_float(dice) * scale;
    return values;
}

void dice_shuffle(struct dice *dice, uint32_t *items, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        items[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = dice_below(dice, i), item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

void close_to(const char *what, size_t index, float got, float expected, double bound)
{
    double difference = fabs((double)got - (double)expected);
    if (!(difference <= bound)) /* NaN fails too */
        fail_msg("%s[%zu]: %.9g, reference %.9g, off by %.3g, bound %.3g", what, index, (double)got,
                 (double)expected, difference, bound);
}

void *dice_weights(struct dice *dice, enum dtype dtype, size_t count, float scale)
{
    size_t bytes = count / dtype_block_count(dtype) * dtype_block_bytes(dtype);
    uint8_t *data = malloc(bytes + 1);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)dice_below(dice, 256);
    if (dtype == DTYPE_F32 || dtype == DTYPE_BF16) {
        for (size_t i = 0; i < count; i++) {
            float value = dice_float(dice) * scale;
            uint16_t half = bf16_of(value);
            if (dtype == DTYPE_F32)
                memcpy(data + 4 * i, &value, 4);
            else
                memcpy(data + 2 * i, &half, 2);
        }
        return data;
    }
    for (size_t at = 0; dtype == DTYPE_F8_E4M3 && at < bytes; at += dtype_block_bytes(dtype)) {
        float block_scale = dice_float(dice) * scale / 448;
        memcpy(data + at, &block_scale, sizeof block_scale);
        for (uint32_t i = 0; i < 128; i++)
            if ((data[at + 4 + i] & 0x7f) == 0x7f) /* not a number */
                data[at + 4 + i] ^= 1;
    }
    if (dtype == DTYPE_F8_E4M3)
        return data;
    /* F16, and scales and minima of blocks: an exponent, whatever fraction and sign. */
    int most = dtype == DTYPE_Q8_0 ? 128 : dtype == DTYPE_F16 ? 1 : 16;
    uint8_t exponent = (uint8_t)((14 + ilogbf(scale / (float)most)) << 2);
    uint8_t minimum = (uint8_t)((13 + ilogbf(scale)) << 2);
    for (size_t at = 0; at < bytes; at += dtype_block_bytes(dtype)) {
        data[at + 1] = (uint8_t)((data[at + 1] & 0x83) | exponent);
        if (dtype == DTYPE_Q4_1)
            data[at + 3] = (uint8_t)((data[at + 3] & 0x83) | minimum);
    }
    return data;
}
