/*
 * cpu: the backend for processors: one pool of threads, one tier of inner kernels.
 *
 * The drivers here cut each op into items of a pool and call the tier for the arithmetic. Ops run
 * to the end before they return. The thread that opened the device calls everything; the pool's
 * threads see only items. After `reserve` and the last `weight_pack`, no op within the limits
 * allocates; an op that finds no memory marks the device as failed, and `sync` says so.
 */
#pragma once

#include "kernels/cpu/pool.h"
#include "kernels/cpu/tier.h"
#include "kernels/memory.h"
#include "kernels/ops.h"

/* Scratch for rows in each of their forms. */
struct forms_room {
    struct scratch rows, tiles, pairs, blocks;
};

struct device {
    struct pool *pool;
    const struct tier *tier;
    char text[64];
    bool failed;                /* memory ran out inside an op */
    uint32_t rows_max;          /* of reserve; 0 before */
    uint32_t in_max;            /* largest in_count of a weight */
    struct forms_room rooms[2]; /* rows of a product, and those of the next one of the op */
    struct scratch moe;         /* of the op moe */
    struct scratch bests;       /* of each range of logits */
    struct scratch attention;   /* tiles, and partial results */
    struct scratch angles;      /* of the last rope_kv, */
    struct scratch angles_key;  /* and what they come from */
    struct scratch *threads;    /* [threads_count]: of one item */
};

/* Outputs of a weight that are kept in one type, in panels of their own. */
struct weight_segment {
    enum dtype dtype;
    uint32_t first_out, out_count;
    uint32_t first_panel, panels_count; /* in a matrix */
    size_t panel_bytes;
    size_t offset_bytes; /* in a matrix */
};

struct weight {
    uint32_t stack_count, out_count, in_count;
    bool exact;            /* no row is rounded for it */
    uint32_t panels_count; /* of one matrix */
    bool paired; /* one segment; panels 2 i and 2 i + 1 are those of outputs 32 i and out_count / 2
                    + 32 i */
    uint32_t n_segments;
    struct weight_segment segments[WEIGHT_PARTS_MAX];
    size_t matrix_bytes;
    void *data; /* [stack_count] matrices of segments in panels, see tier.h */
};

struct kv {
    struct kv_shape shape;
    char *data;      /* [blocks_count][n_layers][n_kv_heads]{K, V}, see attend.h */
    uint32_t *table; /* [slots_count][slot_blocks_max], block numbers */
};

/* Scratch, or NULL with the device marked as failed. */
void *cpu_work(struct device *device, struct scratch *scratch, size_t size_bytes);
/* The same for every thread of the pool: false when memory is out. */
bool cpu_threads_work(struct device *device, size_t size_bytes);

/* Makes the scratch of products as large as rows_max and in_max ask for. */
bool cpu_products_reserve(struct device *device);

/* Runs `item` over `n_rows` rows cut into runs that are worth a thread: `values_per_row` is the
 * work of a row in values touched. The item finds its rows with rows_first. */
struct rows_run {
    const void *args;
    struct device *device;
    uint32_t n_rows, n_items;
};
void rows_run(struct device *device, const void *args, uint32_t n_rows, size_t values_per_row,
              pool_item item);
static inline uint32_t rows_first(const struct rows_run *run, uint32_t item)
{
    return (uint32_t)((uint64_t)run->n_rows * item / run->n_items);
}

/* Where rows stand in each of their forms. */
struct forms {
    float *rows;              /* [n_rows][in_count] */
    float *tiles;             /* [n_rows][in_count], regrouped: see tier.h */
    uint32_t *pairs;          /* [n_rows][pairs_count(in_count)], rounded to BF16: see tier.h */
    struct row_block *blocks; /* [n_rows][in_count / 32, rounded up], quantised: see tier.h */
};

/* Makes a room large enough: false when memory is out. */
bool cpu_forms_room(struct device *device, struct forms_room *room, size_t n_rows,
                    uint32_t in_count, struct forms *ret_forms);
/* Those of the rows from `first_row` on, as a feed of their own. */
struct forms cpu_forms_at(const struct forms *forms, size_t first_row, uint32_t in_count);

/*
 * The rows that products read, in the forms that their weights want: a norm, tiles and blocks are
 * made by feeds_run; or an op puts the rows into their forms itself, and says that they are ready.
 */
struct feed {
    const float *norm; /* [in_count], or NULL: rows are taken as they are */
    float norm_eps;
    const float *in; /* [n_rows][in_count], or NULL: an op puts them into `forms` */
    uint32_t n_rows, in_count;
    struct forms forms; /* room: those that are wanted are used */
    bool wants_rows, wants_tiles, wants_pairs, wants_blocks; /* cpu_feed_want sets these */
    bool is_ready;
    uint32_t n_items, first_item; /* of feeds_run */
};

/* Adds what the segments of a weight want. */
void cpu_feed_want(const struct tier *tier, struct feed *feed, const struct weight *weight);

/* Where products find the rows, when they want them as rows. */
static inline const float *cpu_feed_rows(const struct feed *feed)
{
    return feed->norm || !feed->in ? feed->forms.rows : feed->in;
}

/* Some neighbouring values of a row. */
struct feed_piece {
    uint32_t row;
    uint32_t first, n;   /* whole blocks where blocks are wanted */
    const float *values; /* [n] */
};
/* Puts them into all forms that are wanted save tiles. */
void cpu_feed_put(const struct tier *tier, const struct feed *feed, const struct feed_piece *piece);
/* Puts values of all rows of a tile there: the piece is the first row's, the others follow after
 * `stride` values each. */
void cpu_feed_put_tile(const struct feed *feed, uint32_t tile, const struct feed_piece *piece,
                       size_t stride);

struct feeds {
    struct device *device;
    struct feed *feeds; /* [n_feeds] */
    uint32_t n_feeds;
};
/* Norms and forms of all that are not ready: those are ready then. */
void feeds_run(struct feeds *feeds);
/* The tiles of feeds whose rows an op has put: those are ready then. */
void feeds_tile(struct feeds *feeds);

/* Ranges per thread: enough for a thread that was held up to be helped out. */
#define ITEMS_PER_THREAD 4
/* How many items a product is cut into: `n_units` panels or more at a time, `macs` multiply-adds
 * and `bytes` of weights in all. */
uint32_t cpu_items_count(const struct device *device, uint32_t n_units, size_t macs, size_t bytes);

/* One segment of a matrix with the rows of a feed; out and its stride are the caller's to set. */
struct product cpu_product(const struct tier *tier, const struct feed *feed,
                           const struct weight *weight, uint32_t index, uint32_t segment);
/* Whether a segment is multiplied with rows that are rounded to BF16. */
bool cpu_product_pairs(const struct tier *tier, const struct weight *weight, uint32_t segment);
void cpu_product_run(const struct tier *tier, const struct product *product, uint32_t first_panel,
                     uint32_t n_panels);

/* Products that run side by side: an op `linear` is one for each segment of its weight, a mixture
 * has as many for each expert. */
struct product_part {
    struct product product;
    uint32_t panels_count;
    size_t panel_bytes;
    uint32_t first_out;  /* of the segment, in the matrix */
    uint32_t first_item; /* among all of the call: products_run sets it */
};

/* What a struct logits_note is here: the best logit, the lowest id that has it, and whether one is
 * not finite. NaN and infinities as tier.h has them for logits_best. */
struct logits_best {
    float value;
    uint32_t id;
    uint32_t not_finite, unused;
};
/* Of one row, whose first logit is that of `first_id`. */
struct logits_best cpu_logits_best(const struct tier *tier, const float *logits, uint32_t n,
                                   uint32_t first_id);

struct products {
    struct device *device;
    struct feed *feeds;         /* [n_feeds] */
    struct product_part *parts; /* [n_parts] */
    uint32_t n_feeds, n_parts, n_items;
    struct logits_best *bests; /* [n_items][n_rows] of one feed, or NULL: see products_note */
};

/* Adds the products of the last feed's rows with one matrix of a weight: its segments, at most
 * WEIGHT_PARTS_MAX. out: [n_rows][out_count]; bias and residual may be NULL. */
struct product_ends {
    const float *bias, *residual;
    float *out;
};
void products_add(struct products *products, const struct weight *weight, uint32_t index,
                  const struct product_ends *ends);
/* Brings the feeds into form, unless they are ready, and multiplies. */
void products_run(struct products *products);

/* silu(gate) * up of the rows of `from`, put into `to` in the forms that its weights want. */
struct gate_part {
    const struct weight *weight; /* matrix `index` of it: gate, then up */
    uint32_t index;
    const float *bias; /* [out_count] or NULL */
    struct feed *from, *to;
    uint32_t group_outputs, n_groups, beside, n_items, first_item; /* gates_add, gates_run */
};

struct gates {
    struct device *device;
    struct gate_part *parts; /* [n_parts] */
    uint32_t n_parts, n_items;
};

/* What `from` wants is added; `to` knows what it wants already. */
void gates_add(struct gates *gates, const struct gate_part *part);
/* The feeds `from` are ready; the feeds `to` are then. */
void gates_run(struct gates *gates);
/* Bytes of a thread's scratch that gates of so many rows take. */
size_t cpu_gate_item_bytes(uint32_t n_rows);

/* One row of matrix 0, as f32: [in_count]. */
void cpu_weight_row(const struct weight *weight, uint32_t row, float *ret_values);

enum status cpu_weight_pack(struct device *device, const struct weight_source *source,
                            struct weight **ret_weight, struct error *error);
void cpu_weight_free(struct device *device, struct weight *weight);
size_t cpu_weight_bytes(const struct weight *weight);
/* The panels of one segment of a matrix. */
const void *cpu_weight_panels(const struct weight *weight, uint32_t index, uint32_t segment);

size_t cpu_kv_block_bytes(const struct kv_shape *shape);
enum status cpu_kv_open(struct device *device, const struct kv_shape *shape, struct kv **ret_kv,
                        struct error *error);
void cpu_kv_close(struct device *device, struct kv *kv);
void cpu_kv_table_set(struct device *device, struct kv *kv, uint32_t slot, uint32_t first,
                      const uint32_t *host_blocks, uint32_t n);
void cpu_kv_copy(struct device *device, struct kv *kv, const uint32_t *host_from,
                 const uint32_t *host_to, uint32_t n);
/* Where a layer's head begins inside block 0 of the pool. */
char *cpu_kv_head(const struct kv *kv, uint32_t layer, uint32_t kv_head);
/* The block table of a slot, with the blocks of positions first..last checked. */
const uint32_t *cpu_kv_blocks(const struct kv *kv, uint32_t slot, uint32_t first, uint32_t last);

void cpu_tokens_gather(struct device *device, const struct tokens_gather_args *args);
void cpu_embed(struct device *device, const struct embed_args *args);
void cpu_linear(struct device *device, const struct linear_args *args);
void cpu_rope_kv(struct device *device, const struct rope_kv_args *args);
void cpu_attention(struct device *device, const struct attention_args *args);
void cpu_mlp(struct device *device, const struct mlp_args *args);
void cpu_moe(struct device *device, const struct moe_args *args);
void cpu_rows_gather(struct device *device, const struct rows_gather_args *args);
void cpu_sample(struct device *device, const struct sample_args *args);

/* Bytes that the ops need, for reserve. */
size_t cpu_attention_bytes(const struct device *device, const struct op_limits *limits);
size_t cpu_attention_thread_bytes(uint32_t head_dim);
size_t cpu_angles_key_bytes(uint32_t n_rows, uint32_t half);
size_t cpu_bests_bytes(const struct device *device, uint32_t n_rows);
size_t cpu_sample_work_bytes(uint32_t vocab);
bool cpu_moe_reserve(struct device *device, const struct op_limits *limits);
