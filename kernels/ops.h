/*
 * ops: the table of a backend, the arithmetic of one device.
 *
 * A backend (`ref`, `cpu`, `cuda`) implements every op below. Ops *enqueue* work on the
 * device's one stream, in order; only `sync` and `buffer_read` wait. `ref` and `cpu` happen to run
 * at once. Argument structs hold backend addresses: memory that `buffer_alloc` gave, which the host
 * must not touch (it may be on a GPU), except where a field says "host". Host arrays may be reused
 * as soon as the call returns.
 *
 * Numbers. `ref` computes in double and is the oracle; the other backends are compared with it op
 * by op (tests/oracle states the bound). In every backend **the bits of an output row depend on
 * that row's inputs only**: not on how many rows share the call, nor on their order, nor on the
 * number of threads. K is reduced in one order per weight in every row bucket; attention splits KV
 * at fixed absolute positions (multiples of `block_tokens`).
 *
 * Ownership: a device is used by one thread at a time (the worker's step loop). Weights are packed
 * at load and read-only afterwards. Ops check their shapes with CHECK: a wrong shape is our fault,
 * since `model/` validates what comes from files. Allocation and device failures are `struct
 * error`.
 *
 * A "row" is one token position of one sequence in this step. All matrices are row-major unless
 * opaque. Sizes: n_rows rows, `hidden` values each.
 */
#pragma once

#include "base/status.h"

/* Element types of weights and of what files hold. Values are our own, stable in the protocol. */
enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_Q8_0,    /* 32 values: f16 scale, 32 int8                       (GGUF) */
    DTYPE_Q4_0,    /* 32 values: f16 scale, 16 bytes of nibbles, minus 8  (GGUF) */
    DTYPE_Q4_1,    /* 32 values: f16 scale, f16 minimum, 16 bytes         (GGUF) */
    DTYPE_F8_E4M3, /* 128 values: f32 scale, 128 bytes of e4m3 (dtype_e4m3): scale * e4m3 each;
                      |scale| <= F8_SCALE_MAX */
    DTYPE_COUNT,
    DTYPE_KV_E4M3 = 32, /* a byte of e4m3 (dtype_e4m3), without a scale; of K and V alone */
};

const char *dtype_name(enum dtype dtype);
#define F8_SCALE_MAX 0x1p64f

/* Values in one block (1, 32 or 128) and its bytes. */
uint32_t dtype_block_count(enum dtype dtype);
uint32_t dtype_block_bytes(enum dtype dtype);
/* Weights in blocks of whole numbers (the Q types): rows that they meet are quantised (see
 * weight_part). */
bool dtype_has_blocks(enum dtype dtype);
/* Index of the first value that is not finite, or whose block's scale or minimum is not; `count`
 * when all are. */
size_t dtype_find_not_finite(enum dtype dtype, const void *source, size_t count);
/* Widens `count` values (a multiple of the block) at `source`, any alignment, to f32. Exact for
 * F32, F16, BF16; for the others it is the value that the format defines, rounded once to f32. */
void dtype_widen(enum dtype dtype, const void *source, size_t count, float *ret_values);
/* The nearest bf16, ties to even; NaN stays one. */
uint16_t dtype_bf16(float value);
/* The nearest f16, ties to even; what is too large is infinite, NaN stays one. */
uint16_t dtype_f16(float value);
/* FP8 E4M3 as in the OCP's specification: sign, 4 bits of exponent (bias 7), 3 of fraction; no
 * infinity, and 0x7f and 0xff are NaN. The nearest, ties to even; 448 is the largest, which larger
 * values and infinity become too. */
uint8_t dtype_e4m3(float value);
float dtype_of_e4m3(uint8_t byte);

struct device; /* a backend's device: stream, threads, memory */
struct kv;     /* the paged KV cache of one model, with its block tables */
struct weight; /* a packed matrix or stack of matrices, opaque */

struct device_options {
    uint32_t threads_count; /* CPU threads, >= 1; 0 = all that the process may use */
    const char *tier; /* "scalar", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "avx512-bf16" or
                         NULL: what the environment variable GALERNE_CPU_TIER names, else the best
                         that there is */
};

/*
 * One matrix or a stack of equal ones (experts): rows are outputs, columns are inputs, as in
 * y = W x. A matrix may be put together from parts one under the other (q, k, v; gate, up), each
 * where its file has it, of its own type and any alignment. Each part keeps its type, in the
 * backend's own order, and is never widened in memory. Only a part that has not the same type in
 * all matrices of a stack is kept as F32, and a part in blocks of a source that says `exact`; and
 * the CPU backend keeps F8_E4M3 as BF16: each value rounded to f32, then to bf16, off by at most
 * (2^-8 + 2^-23) |w| (`struct ops` says so in `widens`).
 *
 * Products with F32 take the input row as it is, on CPUs those with F16 as well. Products with BF16
 * may take it rounded to BF16 (the nearest, ties to even; below 2^-126 in size to zero), with sums
 * still in f32; of the CPU's tiers avx512-bf16 does, for every number of rows, and no other; GPUs
 * do. `ref` does not round: it is off from it by at most 2^-8 sum_i |w_i x_i|, and the rounding of
 * the f32 sums. GPUs round rows for F16 to F16, after a power of two has brought the row's largest
 * value into [2^14, 2^15): 2^-11 sum_i |w_i x_i|, and 2^-39 of that value times sum_i |w_i|. They
 * do the same for F8_E4M3, whose values f16 holds exactly: the bound is the same. The sum over 64
 * columns is multiplied by their scale in f32.
 *
 * Products with the Q types may take it quantised, 32 values at a time, as the widespread engines
 * do; the CPU backend always does, in every tier and for every number of rows: most = max |x_i|;
 * scale = f32(most / 127);  q_i = round(f32(x_i * f32(127 / most))), to even (most < 2^-100: all
 * zero; a value that is not finite: scale is NaN, and so is the row's output). Then sum_i w_i x_i
 * over a block is f32(d * scale) * I, I = sum_i q_w,i q_i in whole numbers, which no order changes;
 * Q4_1 adds minimum * f32(scale * sum_i q_i). Blocks are added in f32 from k = 0 on. `ref` does not
 * quantise: it is off from it by at most sum_blocks (most / 254) sum_i |w_i|, and the rounding of
 * the f32 sums.
 */
#define WEIGHT_PARTS_MAX 4
struct weight_part {
    enum dtype dtype;
    uint32_t out_count; /* rows of this part */
    const void *data;   /* host [out_count][in_count] in `dtype`'s blocks */
};

struct weight_source {
    uint32_t stack_count;            /* matrices; 1 for a plain one */
    uint32_t n_parts;                /* parts of each matrix, at most WEIGHT_PARTS_MAX */
    uint32_t out_count;              /* rows of each matrix: the sum over its parts */
    uint32_t in_count;               /* columns; a multiple of each part's block */
    const struct weight_part *parts; /* host [stack_count][n_parts] */
    bool exact;                      /* the input is never quantised nor rounded (routers) */
    bool paired; /* outputs i and out_count / 2 + i are only ever wanted together (gate and up), by
                    mlp or moe: a backend may lay them side by side */
};

/*
 * Products norm their rows themselves, where a network does, so that no backend has to write what
 * it can keep at hand: with `norm`, x below is
 *     x[r][i] = in[r][i] / sqrt(mean_i(in[r]^2) + norm_eps) * norm[i]   (Zhang & Sennrich 2019)
 * rounded to f32, and without it x = in.
 *
 * out[r][o] = sum_i W[o][i] * x[r][i] (+ bias[o]) (+ residual[r][o]). out may equal residual, and
 * not in.
 */
struct logits_note;
struct linear_args {
    const struct weight *weight; /* a plain matrix, or `stack_index` of a stack */
    uint32_t stack_index;
    uint32_t n_rows;
    const float *norm; /* [in_count] or NULL */
    float norm_eps;
    const float *in;           /* [n_rows][in_count] */
    const float *bias;         /* [out_count] or NULL */
    const float *residual;     /* [n_rows][out_count] or NULL */
    float *out;                /* [n_rows][out_count] */
    struct logits_note *notes; /* [n_rows] or NULL: for `sample`, which may then spare a pass over
                                  these rows */
};

/* What a backend's linear leaves for its own sample about a row of logits: its own affair. */
struct logits_note {
    uint32_t words[4];
};

/* out[r] = W[id[r]] widened: the embedding. Ids are in range (the caller checked host ids). */
struct embed_args {
    const struct weight *weight; /* [vocab][hidden] */
    uint32_t n_rows;
    const uint32_t *ids; /* [n_rows], what tokens_gather wrote */
    float *out;          /* [n_rows][hidden] */
};

/*
 * ids[r] = host_ids[r], or, where host_ids[r] == TOKEN_FROM_SLOT, last_sampled[slots[r]]:
 * the token that `sample` wrote in an earlier step, which the host may not have seen yet.
 */
#define TOKEN_FROM_SLOT UINT32_MAX
struct tokens_gather_args {
    uint32_t n_rows;
    const uint32_t *host_ids;     /* host [n_rows] */
    const uint32_t *host_slots;   /* host [n_rows] */
    const uint32_t *last_sampled; /* [n_slots] */
    uint32_t *ids;                /* [n_rows] */
};

/*
 * Rotates pairs (i, i + head_dim/2) of each head by position * inv_freq[i]   (Su et al. 2021, the
 * "half" layout of Hugging Face). Angles are computed in double from the integer position. q is
 * rotated in place; k is rotated and written with v into the KV pages of its sequence.
 */
struct rope_kv_args {
    uint32_t n_rows;
    uint32_t n_heads, n_kv_heads, head_dim;
    float *qkv;             /* [n_rows][(n_heads + 2 * n_kv_heads) * head_dim]: q, then k, then v */
    const float *inv_freq;  /* [head_dim / 2] */
    float attention_factor; /* scales cos and sin; 1 unless the rope scaling says otherwise */
    const uint32_t *host_positions; /* host [n_rows] */
    const uint32_t *host_slots;     /* host [n_rows]: row's sequence slot in the block tables */
    struct kv *kv;
    uint32_t layer;
};

/*
 * Causal attention of each row over its sequence's positions 0..position (the last `window` of
 * them when window > 0), grouped-query: head h reads KV head h / (n_heads / n_kv_heads).
 * out = softmax(q k^T * scale) v   (Vaswani et al. 2017); scale > 0.
 *
 * A backend may round what it multiplies with K and V, never K and V themselves (kv_shape, which
 * may also forbid this with `exact`):
 *     F32    nothing is rounded.
 *     BF16   q to bf16; the weights w_t = exp(score_t - largest) to bf16, at fixed splits of
 *            positions. The sum that divides is taken over the rounded weights.
 *     E4M3   as BF16, which holds every value of E4M3.
 *     Q8_0   q to 8 bits with a scale for 32 features, by the rule for rows of products (above
 *            weight_part); w_t times the scale of V to 16 bits, in units of 1 / 65535 of the
 *            largest scale of the row's positions in a split (for each 32 features). The sum that
 *            divides is taken over weights that are not rounded.
 *
 * With s = scale * sum_i |dq_i k_i| at most, dq_i being what q_i lost (BF16, E4M3: 2^-9 |q_i|;
 * Q8_0: most / 254, most the largest |q| of its 32), an output is off by at most
 *     BF16, E4M3
 *            (exp(2 s + 2^-8) - 1) * 2 * max_t |v_t|
 *     Q8_0   (exp(2 s) - 1) * 2 * max_t |v_t| + n * scale_v / 131070 * 127 / sum_t w_t,
 *            n positions, scale_v the largest scale of V
 * beside the rounding of f32 sums. In the CPU backend the tiers with the instructions for it do
 * so for BF16 and Q8_0; the others compute in f32 and round nothing, and so do all with E4M3. The
 * cuda backend does so for BF16, E4M3 and head_dim 64, 80, 96 and 128, and divides by the sum of
 * weights that are not rounded, within the same bound; else it rounds nothing.
 */
struct attention_args {
    uint32_t n_rows;
    uint32_t n_heads, n_kv_heads, head_dim;
    float scale;
    uint32_t window_tokens;         /* 0 = none. Entries of block tables that lie behind the window
                                       of every row are never looked at */
    const float *qkv;               /* as rope_kv left it */
    const uint32_t *host_positions; /* host [n_rows] */
    const uint32_t *host_slots;     /* host [n_rows] */
    struct kv *kv;
    uint32_t layer;
    float *out; /* [n_rows][n_heads * head_dim] */
};

/*
 * A whole feed-forward block (Shazeer 2020, SwiGLU), x as linear_args has it:
 *     g = W_gate x (+ bias);  u = W_up x (+ bias)
 *     out[r] = in[r] + W_down (silu(g) * u) (+ bias),  silu(x) = x / (1 + exp(-x))
 * One op and not two products, because what lies between them, silu(g) * u, is wanted in the form
 * that W_down's type asks for (quantised, say), which only who knows both can make while it is at
 * hand.
 */
struct mlp_args {
    uint32_t n_rows, hidden, intermediate;
    const struct weight *gate_up; /* [2 * intermediate][hidden]: gate, then up; may be `paired` */
    const struct weight *down;    /* [hidden][intermediate] */
    const float *gate_up_bias;    /* [2 * intermediate] or NULL */
    const float *down_bias;       /* [hidden] or NULL */
    const float *norm;            /* [hidden] or NULL */
    float norm_eps;
    const float *in; /* [n_rows][hidden] */
    float *out;      /* [n_rows][hidden]; may equal in */
};

/*
 * A whole mixture-of-experts block (Mixtral), x as linear_args has it: router logits in f32,
 * softmax over all experts, the `top_k` largest (ties: the lower expert), their weights divided by
 * their sum when `normalise`; out[r] = in[r] + sum_j weight_j * down_j(silu(gate_j x) * up_j x),
 * summed in the order of rank j. Dropless: every row visits all of its experts, whatever else is in
 * the step.
 */
#define MOE_TOP_K_MAX 64
struct moe_args {
    uint32_t n_rows, hidden, intermediate, n_experts, top_k;
    bool normalise;
    const struct weight *router;  /* [n_experts][hidden], `exact` */
    const struct weight *gate_up; /* stack [n_experts] of what mlp_args has */
    const struct weight *down;    /* stack [n_experts] of [hidden][intermediate] */
    const float *norm;            /* [hidden] or NULL */
    float norm_eps;
    const float *in; /* [n_rows][hidden] */
    float *out;      /* [n_rows][hidden]; may equal in */
};

/* out[j] = in[host_rows[j]]: picks the rows that are sampled. */
struct rows_gather_args {
    uint32_t n_out, n;
    const uint32_t *host_rows; /* host [n_out] */
    const float *in;           /* [*][n] */
    float *out;                /* [n_out][n] */
};

#define TOP_LOGPROBS_MAX 20
#define SAMPLE_BIASES_MAX 300 /* of a slot */
#define SAMPLE_HOLDS_MAX 32   /* of a slot */
#define SAMPLE_ENTRIES_MAX (SAMPLE_BIASES_MAX + SAMPLE_HOLDS_MAX)

/*
 * How one row is sampled. Zeroed means greedy.
 *
 * The logits l of the row go through these steps, in this order, each result rounded to f32. The
 * row chooses the token of position `position`, so its slot's history is ids [0, position): the
 * prompt [0, prompt_tokens), then the output. n is how often an id occurs in the output.
 *     clean              NaN is minus infinity, plus infinity the largest float (after each step)
 *     logit bias         l + value, for each of the slot's biases in their order (OpenAI)
 *     repetition         ids of the prompt or the output: l > 0 ? l / r : l * r
 *                        (Keskar et al. 2019, CTRL; as Hugging Face has it)
 *     frequency          l - n * frequency_penalty, the product rounded first     (OpenAI)
 *     presence           l - presence_penalty where n > 0                         (OpenAI)
 *     hold               minus infinity for the slot's held ids while the output has less than
 *                        min_tokens tokens: what would end it cannot be chosen yet
 * What comes out is l'. Greedy takes the largest l' (ties: the lower id). Otherwise weights are
 * w = exp((l' - largest l') / temperature), from which these keep the best (ties: lower id first):
 *     top-k              the k largest                                  (Fan et al. 2018)
 *     top-p              of those the fewest whose sum reaches top_p of the sum of what top-k kept
 *                                                                       (Holtzman et al. 2020)
 *     min-p              of those the ones with w >= min_p, which is min_p times the best one's
 *                                                                       (Nguyen et al. 2024)
 * The draw is u = sample_uniform(seed, position) in [0, 1); the chosen token is the first, in order
 * of descending weight (ties: lower id first), whose cumulative weight exceeds u * (sum of what is
 * kept). So a choice depends on (logits, parameters, history, seed, position) alone.
 *
 * Log-probabilities are of the model's own softmax of l, cleaned: before all of these. When every
 * l' is minus infinity the token is 0; when every l is, so are all log-probabilities.
 */
struct sample_params {
    float temperature;        /* 0 = greedy; else > 0 */
    float top_p;              /* (0, 1]; 1 or 0 = off */
    uint32_t top_k;           /* 0 = off */
    uint32_t n_logprobs;      /* 0..TOP_LOGPROBS_MAX: how many best to report */
    float min_p;              /* [0, 1]; 0 = off */
    float repetition_penalty; /* > 0; 1 or 0 = off */
    float presence_penalty;   /* 0 = off */
    float frequency_penalty;  /* 0 = off */
    uint32_t min_tokens;      /* of output, before held ids are free */
    uint32_t n_biases;        /* of the slot's entries, from the first on */
    uint32_t n_holds;         /* and the entries after them: ids alone, values do not matter */
    uint32_t logprob_off;     /* 1: nobody looks at `logprob`, which may be anything */
    uint64_t seed;
};

/* A bias of a slot, or an id that it holds. */
struct sample_entry {
    uint32_t id; /* < vocab */
    float value; /* finite */
};

/* Counter-based: the first 53 bits of Philox-4x32-10 (Salmon et al. 2011) at counter
 * (position, 0, 0, 0), key = (low, high half of seed), as a double in [0, 1): output word 0 is the
 * upper half of 64 bits, word 1 the lower, and the lowest 11 are dropped. Same on every backend. */
double sample_uniform(uint64_t seed, uint32_t position);

struct sample_result {
    uint32_t id;
    float logprob;                     /* natural log, of the chosen token */
    uint32_t n_top;                    /* = n_logprobs, at most vocab */
    uint32_t not_finite;               /* 1: a logit l of the row is NaN or infinite, so that what
                                          is chosen means nothing; else 0 */
    uint32_t top_id[TOP_LOGPROBS_MAX]; /* descending; ties: lower id first */
    float top_logprob[TOP_LOGPROBS_MAX];
};

/*
 * `place` is where last_sampled gets the id. Where it is the row's slot, the slot's history goes on
 * with the id as well, at `position`; a place past the slots is for a token of no consequence.
 * Every row reads first, then they write in their order. A history is read only where a penalty of
 * the row is on, and written where there is one; entries are read where the row has some. Both may
 * be NULL when no row needs them.
 */
struct sample_args {
    uint32_t n_rows, vocab;
    const float *logits;                     /* [n_rows][vocab] */
    const struct logits_note *notes;         /* [n_rows] that linear left with them, or NULL */
    const struct sample_params *host_params; /* host [n_rows] */
    const uint32_t *host_positions;          /* host [n_rows]: of the token being chosen */
    const uint32_t *host_prompt_tokens;      /* host [n_rows] or NULL: the history is all prompt */
    const uint32_t *host_slots;              /* host [n_rows] */
    const uint32_t *host_places;             /* host [n_rows] */
    const struct sample_entry *entries;      /* [n_slots][SAMPLE_ENTRIES_MAX] */
    uint32_t *history;                       /* [n_slots][history_tokens] ids, each < vocab */
    uint32_t history_tokens;                 /* > every position */
    uint32_t *last_sampled;                  /* [n_slots and more]: last_sampled[place] = id */
    struct sample_result *results;           /* [n_rows], device memory; read with buffer_read */
};

/*
 * Geometry of the paged KV cache of one model. A block holds `block_tokens` consecutive positions
 * of one sequence, for all layers; its inside belongs to the backend.
 *
 * K (rotated) and V are rounded when they are written: to F32 not at all, to BF16 to the nearest,
 * ties to even; to Q8_0 for KV_SCALE_VALUES features of a head at a time (the last ones may be
 * fewer):
 *     most = max |x_i|;  scale = the least bf16 that is not below f32(most / 127)
 *     q_i = round(f32(x_i * f32(1 / scale))), to even;  kept as scale * q_i, exact in f32
 * (most < 2^-100: all zero; an x_i that is not finite: scale and so all of them are NaN).
 * To KV_E4M3 each for itself, without a scale:
 *     kept = dtype_e4m3(x_i), the nearest e4m3, ties to even; more than 448 in size: 448; an x_i
 *            that is not finite: NaN
 * It is off by at most 2^-4 |x_i|, below 2^-6 by 2^-10, above 448 by |x_i| - 448. E4M3 spans
 * 2^-9 .. 448 by itself: a scale for 32 features would take a twelfth to a quarter off the error
 * (docs/cuda.md), a sixteenth more bytes, and from kernels their rows of 16-byte pieces.
 */
#define KV_SCALE_VALUES 32
struct kv_shape {
    uint32_t n_layers, n_kv_heads, head_dim;
    uint32_t block_tokens;    /* positions a block; 16 or 32 */
    uint32_t blocks_count;    /* blocks in the pool */
    uint32_t slots_count;     /* sequences that can have a block table */
    uint32_t slot_blocks_max; /* longest table: ceil(context / block_tokens) */
    enum dtype dtype;         /* of K and V: F32, BF16, Q8_0 or KV_E4M3 */
    bool exact;               /* attention rounds neither queries nor weights */
};

/* The largest shapes that ops will see; a zero means that the op is not used. */
struct op_limits {
    uint32_t rows_max;    /* rows of a step */
    uint32_t sampled_max; /* rows that are sampled in a step */
    uint32_t vocab, n_heads, head_dim;
    uint32_t hidden, intermediate, n_experts, top_k; /* n_experts 0: the op mlp, else moe */
    uint32_t context_tokens;
};

/* What a device says of itself, as far as it does. */
enum device_fact {
    DEVICE_MEMORY = 1,
    DEVICE_TEMPERATURE = 2,
    DEVICE_POWER = 4,
    DEVICE_ECC = 8,
    DEVICE_THROTTLE = 16,
};
/* Why its clock is below what it could be. */
enum device_throttle {
    DEVICE_THROTTLE_POWER = 1, /* its power limit, or what the host's supply gives */
    DEVICE_THROTTLE_HEAT = 2,
    DEVICE_THROTTLE_OTHER = 4, /* another reason that it names as a slowdown */
};
struct device_facts {
    uint32_t known; /* enum device_fact: which of the numbers mean something */
    uint32_t temperature_celsius;
    uint32_t power_milliwatts;
    uint32_t throttle; /* enum device_throttle; 0: none */
    uint64_t memory_bytes, memory_free_bytes;
    uint64_t ecc_corrected_total, ecc_uncorrected_total; /* errors since its driver was loaded */
    char name[64];                                       /* NUL-terminated; "" when not known */
    char driver[32];                                     /* its version; the same */
    char note[128]; /* why something is missing, one line; "" when nothing is */
};

struct ops {
    const char *name;    /* "ref", "cpu" */
    const char *summary; /* one line for --version */
    uint32_t widens;     /* 1 << enum dtype, or'ed: what is kept as BF16 (see weight_part) */

    enum status (*device_open)(const struct device_options *options, struct device **ret_device,
                               struct error *error);
    void (*device_close)(struct device *device);
    /* e.g. "cpu avx512-vnni, 2 threads" (static for the life of the device). */
    const char *(*device_text)(const struct device *device);

    /* 64-byte aligned, zeroed. NULL when memory is out. */
    void *(*buffer_alloc)(struct device *device, size_t size_bytes);
    void (*buffer_free)(struct device *device, void *buffer);
    void (*buffer_write)(struct device *device, void *buffer, const void *host, size_t size_bytes);
    void (*buffer_read)(struct device *device, const void *buffer, void *host, size_t size_bytes);

    /* Packs into the backend's layout. EXHAUSTED when memory is out. */
    enum status (*weight_pack)(struct device *device, const struct weight_source *source,
                               struct weight **ret_weight, struct error *error);
    void (*weight_free)(struct device *device, struct weight *weight);
    /* Bytes that the packed weight occupies (what a decode step reads, for a plain matrix). */
    size_t (*weight_bytes)(const struct weight *weight);

    /* Bytes of one KV block (all layers, K and V) for this shape. */
    size_t (*kv_block_bytes)(const struct kv_shape *shape);
    enum status (*kv_open)(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                           struct error *error);
    void (*kv_close)(struct device *device, struct kv *kv);
    /* Sets entries [first, first + n) of a slot's block table. Enqueued like an op. */
    void (*kv_table_set)(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
                         const uint32_t *host_blocks, uint32_t n);
    /* Copies whole blocks (copy-on-write), in order. */
    void (*kv_copy)(struct device *device, struct kv *kv, const uint32_t *host_from,
                    const uint32_t *host_to, uint32_t n);

    void (*tokens_gather)(struct device *device, const struct tokens_gather_args *args);
    void (*embed)(struct device *device, const struct embed_args *args);
    void (*linear)(struct device *device, const struct linear_args *args);
    void (*rope_kv)(struct device *device, const struct rope_kv_args *args);
    /* linear, then rope_kv over what it wrote (linear's `out` is `qkv`, and it has no residual): to
     * the bit, with less to launch. NULL in a backend that gains nothing by it: call both. */
    void (*qkv)(struct device *device, const struct linear_args *linear,
                const struct rope_kv_args *rope);
    void (*attention)(struct device *device, const struct attention_args *args);
    void (*mlp)(struct device *device, const struct mlp_args *args);
    void (*moe)(struct device *device, const struct moe_args *args);
    void (*rows_gather)(struct device *device, const struct rows_gather_args *args);
    void (*sample)(struct device *device, const struct sample_args *args);

    /* Reserves scratch, so that no later op within these limits allocates. Called once. */
    enum status (*reserve)(struct device *device, const struct op_limits *limits,
                           struct error *error);

    /* Waits for all work handed over so far. STATUS_INTERNAL when the device failed, in this or in
     * anything before, buffer_read too: what was read since the last good sync then means
     * nothing. */
    enum status (*sync)(struct device *device, struct error *error);

    /*
     * Graph capture: the calls between begin and end are kept and not run; `graph_launch` runs
     * them, and may do so again and again. NULL in a backend that has none (ref, cpu): the caller
     * just runs the ops. Between begin and end only ops are called: no buffer, KV or sync.
     *
     * A launch does what the same calls would do now, to the bit: addresses, shapes, and which of
     * the optional arguments are NULL are as they were captured; what is in memory of the device
     * and in host arrays is read anew, host arrays from where they lay. So they lie still for as
     * long as the graph lives. They may hold anything that the calls may be given (which the
     * launch does not check), save that in attention neighbouring rows are of different slots if
     * they were when it was captured: which kernels run depends on nothing else.
     *
     * After `reserve`, and within its limits. An error of begin or end is none of the device: the
     * ops can be run instead. A graph lives until it is freed, or its device is closed.
     */
    enum status (*graph_begin)(struct device *device, struct error *error);
    enum status (*graph_end)(struct device *device, void **ret_graph, struct error *error);
    void (*graph_launch)(struct device *device, void *graph);
    void (*graph_free)(struct device *device, void *graph);

    /* Bytes of the device's own memory that are free; 0 when it does not say. NULL in a backend
     * that computes in the host's. */
    size_t (*memory_free_bytes)(struct device *device);
    /* What the device says of itself just now: some milliseconds, so not in a step. NULL in a
     * backend that has nothing to say. */
    void (*device_facts)(struct device *device, struct device_facts *ret_facts);
};

extern const struct ops ops_ref;
extern const struct ops ops_cpu;

/* The backend of that name ("ref", "cpu"), or NULL. */
const struct ops *ops_find(const char *name);
