#include <dlfcn.h>
#include <math.h>

#include "tests/bench/side.h"

/* Of the peers' public C interface what is called here; both peers are of one family. Types are
 * numbers of the GGUF format; tensors, graphs, buffers are opaque. */
typedef struct ggml_tensor *tensor;
typedef struct ggml_context *context;
struct init_params {
    size_t size_bytes;
    void *memory;
    bool no_alloc;
};
enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q4_0 = 2, TYPE_I32 = 26, TYPE_BF16 = 30 };

#define FUNCTIONS(F)                                                                               \
    F(context, init, (struct init_params))                                                         \
    F(void, free, (context))                                                                       \
    F(tensor, new_tensor_2d, (context, int, int64_t, int64_t))                                     \
    F(tensor, new_tensor_3d, (context, int, int64_t, int64_t, int64_t))                            \
    F(tensor, mul_mat, (context, tensor, tensor))                                                  \
    F(tensor, mul_mat_id, (context, tensor, tensor, tensor))                                       \
    F(tensor, soft_max, (context, tensor))                                                         \
    F(tensor, get_rows, (context, tensor, tensor))                                                 \
    F(tensor, reshape_2d, (context, tensor, int64_t, int64_t))                                     \
    F(tensor, reshape_3d, (context, tensor, int64_t, int64_t, int64_t))                            \
    F(tensor, sum_rows, (context, tensor))                                                         \
    F(tensor, div, (context, tensor, tensor))                                                      \
    F(tensor, mul, (context, tensor, tensor))                                                      \
    F(tensor, add, (context, tensor, tensor))                                                      \
    F(tensor, permute, (context, tensor, int, int, int, int))                                      \
    F(tensor, view_2d, (context, tensor, int64_t, int64_t, size_t, size_t))                        \
    F(tensor, flash_attn_ext, (context, tensor, tensor, tensor, tensor, float, float, float))      \
    F(void *, new_graph, (context))                                                                \
    F(void, build_forward_expand, (void *, tensor))                                                \
    F(void *, backend_cpu_init, (void))                                                            \
    F(void, backend_cpu_set_n_threads, (void *, int))                                              \
    F(void *, backend_cpu_buffer_type, (void))                                                     \
    F(void *, backend_alloc_ctx_tensors_from_buft, (context, void *))                              \
    F(void, backend_buffer_free, (void *))                                                         \
    F(void, backend_tensor_set, (tensor, const void *, size_t, size_t))                            \
    F(void, backend_tensor_get, (const struct ggml_tensor *, void *, size_t, size_t))              \
    F(int, backend_graph_compute, (void *, void *))                                                \
    F(void, fp32_to_fp16_row, (const float *, uint16_t *, int64_t))
/* Only one of the peers has each of these. */
#define SPECIAL_FUNCTIONS(F)                                                                       \
    F(tensor, argsort_top_k, (context, tensor, int))                                               \
    F(tensor, top_k, (context, tensor, int))                                                       \
    F(tensor, swiglu_split, (context, tensor, tensor))                                             \
    F(tensor, moe_up_gate, (context, tensor, tensor, tensor, tensor, int))                         \
    F(tensor, mul_multi_add, (context, tensor, tensor))                                            \
    F(const char *, unary_op_name, (int))                                                          \
    F(void *, backend_dev_by_type, (int))                                                          \
    F(void *, backend_dev_backend_reg, (void *))                                                   \
    F(void *, backend_reg_get_proc_address, (void *, const char *))

#define POINTER(returns, name, arguments) returns(*name) arguments;
static struct {
    FUNCTIONS(POINTER)
    SPECIAL_FUNCTIONS(POINTER)
} ggml;
static void (*repack)(
    tensor); /* lays a tensor out anew, in place; of the peer that does so at load */

static struct {
    void *library, *backend, *packed_type; /* buffers whose tensors are laid out anew; or NULL */
    context weights, steps;
    void *weights_buffer, *steps_buffer;
    tensor in, out, router, first, second, third, k[64], v[64], mask;
    void *graph;
    const struct side_product *product;
    const struct side_moe *moe;
    const struct side_attention *attention;
} peer;

static void *open_any(const char *where)
{
    static const char *const folders[] = {"bin", "ggml/src", "src", "lib", "."};
    char path[4096];
    for (size_t i = 0; i < array_count(folders); i++) {
        snprintf(path, sizeof path, "%s/%s/libggml.so", where, folders[i]);
        void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (library)
            return library;
    }
    side_fail("%s: no libggml.so in bin, ggml/src, src, lib or itself (%s); name the folder that "
              "the peer was built in, with shared libraries",
              where, dlerror());
}

/* The buffer type of packed weights, of the peer that has one. */
static void *packed_type_find(void)
{
    if (!ggml.backend_dev_by_type || !ggml.backend_dev_backend_reg ||
        !ggml.backend_reg_get_proc_address)
        return NULL;
    void *device = ggml.backend_dev_by_type(0);
    void *(*extra)(void *) = NULL;
    void *found = device ? ggml.backend_reg_get_proc_address(ggml.backend_dev_backend_reg(device),
                                                             "ggml_backend_dev_get_extra_bufts")
                         : NULL;
    memcpy(&extra, &found, sizeof extra);
    void **types = extra ? extra(device) : NULL;
    return types ? types[0] : NULL;
}

/* Whether the peer has gate, up and their product as one op. */
static bool fuses(void)
{
    return repack && ggml.moe_up_gate;
}

static void open_peer(const char *where, uint32_t threads_count)
{
    peer.library = open_any(where);
#define FIND(returns, name, arguments)                                                             \
    ggml.name = (returns(*) arguments)dlsym(peer.library, "ggml_" #name);
#define NEED(returns, name, arguments)                                                             \
    FIND(returns, name, arguments)                                                                 \
    if (!ggml.name)                                                                                \
        side_fail("%s: ggml_%s is not in its libraries", where, #name);
    FUNCTIONS(NEED)
    SPECIAL_FUNCTIONS(FIND)
    repack = (void (*)(tensor))dlsym(peer.library, "iqk_repack_tensor");
    peer.packed_type = repack ? NULL : packed_type_find();
    peer.backend = ggml.backend_cpu_init();
    CHECK(peer.backend != NULL);
    ggml.backend_cpu_set_n_threads(peer.backend, (int)threads_count);
    printf("ok %s, %u threads, %s\n", where, threads_count,
           repack             ? "all types laid out anew at load"
           : peer.packed_type ? "Q4_0 laid out anew at load"
                              : "nothing laid out anew");
}

static context context_make(void)
{
    context made = ggml.init((struct init_params){16 << 20, NULL, true});
    CHECK(made != NULL);
    return made;
}

static void steps_free(void)
{
    if (peer.steps_buffer)
        ggml.backend_buffer_free(peer.steps_buffer);
    if (peer.steps)
        ggml.free(peer.steps);
    peer.steps = NULL;
    peer.steps_buffer = NULL;
}

static void unload(void)
{
    steps_free();
    if (peer.weights_buffer)
        ggml.backend_buffer_free(peer.weights_buffer);
    if (peer.weights)
        ggml.free(peer.weights);
    peer.weights_buffer = NULL;
    peer.weights = context_make();
    peer.product = NULL;
    peer.moe = NULL;
    peer.attention = NULL;
}

static int type_of(enum dtype dtype)
{
    static const int types[DTYPE_COUNT] = {[DTYPE_F32] = 0,  [DTYPE_F16] = 1,  [DTYPE_BF16] = 30,
                                           [DTYPE_Q8_0] = 8, [DTYPE_Q4_0] = 2, [DTYPE_Q4_1] = 3};
    return types[dtype];
}

static size_t matrix_bytes(enum dtype dtype, size_t rows, uint32_t columns)
{
    return rows * (columns / dtype_block_count(dtype)) * dtype_block_bytes(dtype);
}

/* Memory for the tensors of the weights' context, packed where the peer has that for the type. */
static void weights_alloc(enum dtype dtype)
{
    void *type =
        peer.packed_type && dtype == DTYPE_Q4_0 ? peer.packed_type : ggml.backend_cpu_buffer_type();
    peer.weights_buffer = ggml.backend_alloc_ctx_tensors_from_buft(peer.weights, type);
    CHECK(peer.weights_buffer != NULL);
}

static void weights_set(tensor to, const uint8_t *data, size_t size_bytes)
{
    ggml.backend_tensor_set(to, data, 0, size_bytes);
    if (repack)
        repack(to);
}

static void product_load(const struct side_product *p)
{
    unload();
    peer.first = ggml.new_tensor_2d(peer.weights, type_of(p->dtype), p->in_count, p->out_count);
    weights_alloc(p->dtype);
    weights_set(peer.first, p->weights, matrix_bytes(p->dtype, p->out_count, p->in_count));
    peer.product = p;
}

/* Gate and up of each expert one after the other, in one tensor, as the fused op likes it best. */
static void moe_load_merged(const struct side_moe *m)
{
    size_t one_bytes = matrix_bytes(m->dtype, m->ffn, m->hidden);
    for (uint32_t e = 0; e < m->n_experts; e++) {
        size_t at = e * one_bytes;
        ggml.backend_tensor_set(peer.first, m->gate + at, 2 * at, one_bytes);
        ggml.backend_tensor_set(peer.first, m->up + at, 2 * at + one_bytes, one_bytes);
    }
    repack(peer.first);
}

static void moe_load(const struct side_moe *m)
{
    int type = type_of(m->dtype);
    size_t size_bytes = matrix_bytes(m->dtype, (size_t)m->n_experts * m->ffn, m->hidden);
    bool merged = fuses();
    unload();
    peer.first =
        ggml.new_tensor_3d(peer.weights, type, m->hidden, (merged ? 2 : 1) * m->ffn, m->n_experts);
    if (!merged)
        peer.second = ggml.new_tensor_3d(peer.weights, type, m->hidden, m->ffn, m->n_experts);
    peer.third = ggml.new_tensor_3d(peer.weights, type, m->ffn, m->hidden, m->n_experts);
    weights_alloc(m->dtype);
    if (merged) {
        moe_load_merged(m);
    } else {
        weights_set(peer.first, m->gate, size_bytes);
        weights_set(peer.second, m->up, size_bytes);
    }
    weights_set(peer.third, m->down, size_bytes);
    peer.moe = m;
}

/* K or V of all positions in the peer's type: bf16 means its usual 16 bits, f16. */
static void kv_set(tensor to, const struct side_attention *a, const float *values)
{
    size_t count = (size_t)a->context_tokens * a->n_kv_heads * a->head_dim;
    if (a->kv_dtype == DTYPE_F32) {
        ggml.backend_tensor_set(to, values, 0, count * sizeof *values);
        return;
    }
    CHECK(a->kv_dtype == DTYPE_BF16 || a->kv_dtype == DTYPE_Q8_0);
    uint16_t *halves = calloc(count, sizeof *halves);
    CHECK(halves != NULL);
    if (a->kv_dtype == DTYPE_BF16) {
        ggml.fp32_to_fp16_row(values, halves, (int64_t)count);
        ggml.backend_tensor_set(to, halves, 0, count * sizeof *halves);
        free(halves);
        return;
    }
    uint8_t *blocks = (uint8_t *)halves;
    for (size_t b = 0; b < count / 32; b++) {
        float most = 0, scale;
        for (size_t i = 0; i < 32; i++)
            most = fmaxf(most, fabsf(values[b * 32 + i]));
        scale = most / 127;
        ggml.fp32_to_fp16_row(&scale, (uint16_t *)(void *)(blocks + b * 34), 1);
        for (size_t i = 0; i < 32; i++)
            blocks[b * 34 + 2 + i] =
                (uint8_t)(int8_t)lrintf(most > 0 ? values[b * 32 + i] / scale : 0);
    }
    ggml.backend_tensor_set(to, blocks, 0, count / 32 * 34);
    free(halves);
}

static void attention_load(const struct side_attention *a)
{
    int type = a->kv_dtype == DTYPE_BF16 ? TYPE_F16 : type_of(a->kv_dtype);
    CHECK(a->n_layers <= array_count(peer.k));
    unload();
    for (uint32_t i = 0; i < a->n_layers; i++) {
        peer.k[i] =
            ggml.new_tensor_3d(peer.weights, type, a->head_dim, a->n_kv_heads, a->context_tokens);
        peer.v[i] =
            ggml.new_tensor_3d(peer.weights, type, a->head_dim, a->n_kv_heads, a->context_tokens);
    }
    weights_alloc(DTYPE_F32);
    for (uint32_t i = 0; i < a->n_layers; i++) {
        kv_set(peer.k[i], a, a->k);
        kv_set(peer.v[i], a, a->v);
    }
    peer.attention = a;
}

static int silu_number(void)
{
    for (int i = 0; ggml.unary_op_name && i < 15; i++)
        if (strcmp(ggml.unary_op_name(i), "SILU") == 0)
            return i;
    side_fail("the peer has a fused mixture, but no SILU");
}

/* As both peers build it for a model, with what goes in added: router, softmax, the best, their
 * weights normalised; gate and up fused where the peer has that. */
static void moe_graph(context c, uint32_t n_rows)
{
    const struct side_moe *m = peer.moe;
    uint32_t k = m->top_k;
    peer.router = ggml.new_tensor_2d(c, TYPE_F32, m->hidden, m->n_experts);
    tensor probabilities = ggml.soft_max(c, ggml.mul_mat(c, peer.router, peer.in));
    tensor chosen = ggml.argsort_top_k ? ggml.argsort_top_k(c, probabilities, (int)k)
                                       : ggml.top_k(c, probabilities, (int)k);
    tensor weights =
        ggml.get_rows(c, ggml.reshape_3d(c, probabilities, 1, m->n_experts, n_rows), chosen);
    weights = ggml.reshape_2d(c, weights, k, n_rows);
    weights = ggml.div(c, weights, ggml.sum_rows(c, weights));
    weights = ggml.reshape_3d(c, weights, 1, k, n_rows);
    tensor in = ggml.reshape_3d(c, peer.in, m->hidden, 1, n_rows), middle;
    if (fuses()) {
        middle = ggml.moe_up_gate(c, peer.first, NULL, in, chosen, silu_number());
    } else {
        tensor up = ggml.mul_mat_id(c, peer.second, in, chosen);
        tensor gate = ggml.mul_mat_id(c, peer.first, in, chosen);
        middle = ggml.swiglu_split(c, gate, up);
    }
    tensor experts = ggml.mul_mat_id(c, peer.third, middle, chosen);
    if (ggml.mul_multi_add) {
        peer.out = ggml.add(c, ggml.mul_multi_add(c, experts, weights), peer.in);
        return;
    }
    experts = ggml.mul(c, experts, weights);
    size_t row_bytes = m->hidden * sizeof(float);
    for (uint32_t j = 0; j < k; j++) {
        tensor part = ggml.view_2d(c, experts, m->hidden, n_rows, k * row_bytes, j * row_bytes);
        peer.out = j ? ggml.add(c, peer.out, part) : part;
    }
    peer.out = ggml.add(c, peer.out, peer.in);
}

/* The rows are the last ones of the context. */
static void mask_set(uint32_t n_rows, uint32_t n_padded)
{
    uint32_t n_tokens = peer.attention->context_tokens;
    uint16_t *mask = calloc((size_t)n_tokens * n_padded, sizeof *mask);
    CHECK(mask != NULL);
    for (uint32_t r = 0; r < n_padded; r++)
        for (uint32_t t = n_tokens - n_rows + r + 1; t < n_tokens; t++)
            mask[(size_t)r * n_tokens + t] = 0xfc00; /* minus infinity */
    ggml.backend_tensor_set(peer.mask, mask, 0, (size_t)n_tokens * n_padded * sizeof *mask);
    free(mask);
}

static void attention_graph(context c, uint32_t n_rows, uint32_t n_padded)
{
    const struct side_attention *a = peer.attention;
    tensor q = ggml.permute(c, peer.in, 0, 2, 1, 3);
    peer.mask = ggml.new_tensor_2d(c, TYPE_F16, a->context_tokens, n_padded);
    for (uint32_t i = 0; i < a->n_layers; i++) {
        tensor out = ggml.flash_attn_ext(c, q, ggml.permute(c, peer.k[i], 0, 2, 1, 3),
                                         ggml.permute(c, peer.v[i], 0, 2, 1, 3), peer.mask,
                                         1 / sqrtf((float)a->head_dim), 0, 0);
        ggml.build_forward_expand(peer.graph, out);
        if (i == 0)
            peer.out = out;
    }
}

static void prepare(uint32_t n_rows, const float *in)
{
    steps_free();
    context c = peer.steps = context_make();
    uint32_t n_padded = (uint32_t)round_up(n_rows, 64);
    size_t n_in;
    peer.graph = ggml.new_graph(c);
    if (peer.product) {
        n_in = peer.product->in_count;
        peer.in = ggml.new_tensor_2d(c, TYPE_F32, (int64_t)n_in, n_rows);
        peer.out = ggml.mul_mat(c, peer.first, peer.in);
    } else if (peer.moe) {
        n_in = peer.moe->hidden;
        peer.in = ggml.new_tensor_2d(c, TYPE_F32, (int64_t)n_in, n_rows);
        moe_graph(c, n_rows);
    } else {
        const struct side_attention *a = peer.attention;
        n_in = (size_t)a->n_heads * a->head_dim;
        peer.in = ggml.new_tensor_3d(c, TYPE_F32, a->head_dim, a->n_heads, n_rows);
        attention_graph(c, n_rows, n_padded);
    }
    ggml.build_forward_expand(peer.graph, peer.out);
    peer.steps_buffer = ggml.backend_alloc_ctx_tensors_from_buft(c, ggml.backend_cpu_buffer_type());
    CHECK(peer.steps_buffer != NULL);
    ggml.backend_tensor_set(peer.in, in, 0, n_rows * n_in * sizeof *in);
    if (peer.moe)
        ggml.backend_tensor_set(peer.router, peer.moe->router, 0,
                                (size_t)peer.moe->n_experts * peer.moe->hidden * sizeof(float));
    if (peer.attention)
        mask_set(n_rows, n_padded);
}

static void run(void)
{
    if (ggml.backend_graph_compute(peer.backend, peer.graph) != 0)
        side_fail("the peer could not compute its graph");
}

static void result(float *out, size_t count)
{
    ggml.backend_tensor_get(peer.out, out, 0, count * sizeof *out);
}

const struct side side_peer = {.name = "peer",
                               .open = open_peer,
                               .product_load = product_load,
                               .moe_load = moe_load,
                               .attention_load = attention_load,
                               .prepare = prepare,
                               .run = run,
                               .result = result};
