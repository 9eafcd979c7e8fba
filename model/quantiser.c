#include "model/quantiser.h"

#include <stdarg.h>

#include "base/clock.h"
#include "model/quantise.h"

#define MIB (1024.0 * 1024.0)

static void note(const struct quantiser *q, bool is_warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void note(const struct quantiser *q, bool is_warning, const char *format, ...)
{
    char text[ERROR_TEXT_MAX_BYTES + 128];
    va_list arguments;
    if (!q->progress || !q->progress->note)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    q->progress->note(q->progress->context, is_warning, text);
}

/* ---- opening ---- */

static char *path_make(const struct quantiser_options *options, const struct binding *binding)
{
    char digest[2 * sizeof options->model_digest + 1], *path = NULL;
    for (size_t i = 0; i < sizeof options->model_digest; i++)
        snprintf(digest + 2 * i, 3, "%02x", options->model_digest[i]);
    const char *kind = binding->quantise_kind == DTYPE_Q8_0 ? "q8" : "q4";
    const char *head = binding->quantise_head ? "-head" : "";
    if (asprintf(&path, "%s/%s-%s%s.galerne", options->directory, digest, kind, head) < 0)
        return NULL;
    return path;
}

static void most_of(uint32_t *most, const struct matrix_binding *matrix)
{
    *most = u32_max(*most, matrix->n_quantised);
}

static bool memory_open(struct quantiser *q)
{
    const struct binding *b = q->binding;
    uint32_t most = 0;
    most_of(&most, &b->embed);
    most_of(&most, &b->head);
    for (uint32_t i = 0; i < b->n_layers; i++) {
        most_of(&most, &b->layers[i].qkv);
        most_of(&most, &b->layers[i].output);
        most_of(&most, &b->layers[i].gate_up);
        most_of(&most, &b->layers[i].down);
    }
    q->jobs = calloc(most, sizeof *q->jobs);
    q->pieces = calloc(most, sizeof *q->pieces);
    q->used = calloc(b->n_quantised, sizeof *q->used);
    return q->jobs && q->pieces && q->used;
}

static void file_open(struct quantiser *q)
{
    struct error error;
    enum status status =
        q->path ? quantise_file_open(q->path, &q->table, &q->file, &error) : STATUS_NOT_FOUND;
    double mib = (double)quantise_file_bytes(&q->table) / MIB;
    if (status == STATUS_OK)
        note(q, false, "%u quantised tensors, %.1f MiB, are mapped from %s", q->table.n_parts, mib,
             q->path);
    else if (status == STATUS_NOT_FOUND)
        note(q, false, "quantising %u tensors to %s, %.1f MiB", q->table.n_parts,
             dtype_name(q->table.kind), mib);
    else
        note(q, true, "%s: quantising %u tensors anew", error.text, q->table.n_parts);
}

enum status quantiser_open(const struct quantiser_options *options, const struct binding *binding,
                           struct quantiser *ret_quantiser, struct error *error)
{
    struct quantiser q = {
        .binding = binding,
        .progress = options->progress,
        .table = {.kind = binding->quantise_kind,
                  .parts = binding->quantised,
                  .n_parts = binding->n_quantised},
        .writer = {.fd = -1},
        .opened_ns = clock_now_ns(),
    };
    CHECK(binding->n_quantised > 0);
    memcpy(q.table.source, options->stamp, sizeof q.table.source);
    bool keeps = options->directory && options->directory[0];
    if (keeps)
        q.path = path_make(options, binding);
    enum status status = STATUS_OK;
    if ((keeps && !q.path) || !memory_open(&q))
        status = error_set(error, STATUS_EXHAUSTED, "weights: out of memory");
    uint32_t threads_count =
        options->threads_count ? options->threads_count : pool_threads_default();
    if (!status)
        status = pool_open(threads_count, &q.pool, error);
    if (status) {
        quantiser_close(&q);
        return status;
    }
    *ret_quantiser = q;
    file_open(ret_quantiser); /* it keeps the table's address */
    return STATUS_OK;
}

/* ---- the file to be ---- */

static void write_give_up(struct quantiser *q, const struct error *error)
{
    if (!q->gave_up_writing)
        note(q, true, "the quantised weights are not kept, the next start makes them again: %s",
             error->text);
    q->gave_up_writing = true;
    quantise_writer_close(&q->writer);
}

static void part_keep(struct quantiser *q, uint32_t part, const uint8_t *bytes,
                      const uint8_t *digest)
{
    struct error error;
    if (q->writer.fd >= 0 && quantise_writer_add(&q->writer, part, bytes, digest, &error))
        write_give_up(q, &error);
}

/* With it go the parts that were used already. */
static void writer_need(struct quantiser *q)
{
    struct error error;
    if (q->writer.fd >= 0 || q->gave_up_writing || !q->path)
        return;
    if (quantise_writer_open(q->path, &q->table, &q->writer, &error)) {
        write_give_up(q, &error);
        return;
    }
    for (uint32_t i = 0; i < q->table.n_parts; i++)
        if (q->used[i])
            part_keep(q, i, quantise_file_part(&q->file, i), quantise_file_digest(&q->file, i));
}

void quantiser_finish(struct quantiser *q)
{
    struct error error;
    if (!q->makes)
        return;
    double seconds = (double)(clock_now_ns() - q->opened_ns) / (double)NS_PER_S;
    if (q->writer.fd >= 0 && quantise_writer_commit(&q->writer, &error))
        write_give_up(q, &error);
    else if (q->path && !q->gave_up_writing)
        note(q, false, "quantised and packed in %.1f s; the next start maps %s", seconds, q->path);
}

void quantiser_close(struct quantiser *q)
{
    if (q->path || q->pool)
        quantise_writer_close(&q->writer);
    quantise_file_close(&q->file);
    pool_close(q->pool);
    free(q->path);
    free(q->used);
    free(q->blocks);
    free(q->wide);
    free(q->jobs);
    free(q->pieces);
    *q = (struct quantiser){0};
}

/* ---- one matrix ---- */

/* True when every part of it lies in the file with the digest that it should have. */
static bool parts_find(struct quantiser *q, const struct matrix_binding *matrix)
{
    struct error error;
    uint32_t first = matrix->first_quantised, n = matrix->n_quantised;
    if (!q->file.bytes)
        return false;
    for (uint32_t i = 0; i < n; i++)
        q->pieces[i] =
            (struct quantise_piece){.bytes = quantise_file_part(&q->file, first + i),
                                    .size_bytes = quantise_part_bytes(&q->table, first + i)};
    if (quantise_digests(q->pool, q->pieces, n, &error)) {
        note(q, true, "%s: %s", q->path, error.text);
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct quantise_part *part = &q->table.parts[first + i];
        if (memcmp(q->pieces[i].digest, quantise_file_digest(&q->file, first + i),
                   sizeof q->pieces[i].digest) == 0)
            continue;
        note(q, true, "%s: corrupt, the digest of tensor %.*s differs: quantising it anew", q->path,
             (int)part->name_bytes, part->name);
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        q->used[first + i] = true;
        part_keep(q, first + i, q->pieces[i].bytes, q->pieces[i].digest);
    }
    return true;
}

static enum status memory_need(uint8_t **memory, size_t *memory_bytes, size_t bytes,
                               struct error *error)
{
    if (bytes <= *memory_bytes)
        return STATUS_OK;
    free(*memory);
    *memory = malloc(bytes);
    *memory_bytes = *memory ? bytes : 0;
    return *memory ? STATUS_OK
                   : error_set(error, STATUS_EXHAUSTED,
                               "weights: no memory for %zu bytes of quantised blocks", bytes);
}

/* Where the values of each job are: in the model's file, or made here of what it holds. */
static enum status wide_make(struct quantiser *q, const struct matrix_binding *matrix,
                             struct error *error)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < matrix->n_quantised; i++) {
        const struct quantised_part *from =
            &q->binding->quantised_from[matrix->first_quantised + i];
        q->jobs[i].data = from->wide.data;
        bytes += from->wide.data ? 0 : packed_bytes(&from->packed);
    }
    enum status status = memory_need(&q->wide, &q->wide_bytes, bytes, error);
    uint8_t *at = q->wide;
    for (uint32_t i = 0; i < matrix->n_quantised && !status; i++) {
        const struct quantised_part *from =
            &q->binding->quantised_from[matrix->first_quantised + i];
        if (from->wide.data)
            continue;
        status = packed_make(q->pool, &from->packed, q->binding->path, at, error);
        q->jobs[i].data = at;
        at += packed_bytes(&from->packed);
    }
    return status;
}

static enum status jobs_check(const struct quantiser *q, const struct matrix_binding *matrix,
                              struct error *error)
{
    for (uint32_t i = 0; i < matrix->n_quantised; i++) {
        const struct quantise_job *job = &q->jobs[i];
        const struct tensor *tensor =
            q->binding->quantised_from[matrix->first_quantised + i].tensor;
        size_t before = (size_t)q->table.parts[matrix->first_quantised + i].index * job->count;
        if (job->not_finite < job->count)
            return tensor_not_finite(tensor, q->binding->path, before + job->not_finite, error);
        if (job->too_large < job->count)
            return error_set(error, STATUS_INVALID,
                             "%s: tensor %.*s: of the values from %zu on, one is too large for %s, "
                             "whose scales end at 65504: serve the model without quantize",
                             q->binding->path, (int)tensor->name.size_bytes, tensor->name.data,
                             before + job->too_large, dtype_name(q->table.kind));
    }
    return STATUS_OK;
}

static enum status parts_make(struct quantiser *q, const struct matrix_binding *matrix,
                              struct error *error)
{
    uint32_t first = matrix->first_quantised, n = matrix->n_quantised;
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += quantise_part_bytes(&q->table, first + i);
    enum status status = memory_need(&q->blocks, &q->blocks_bytes, bytes, error);
    if (!status)
        status = wide_make(q, matrix, error);
    if (status)
        return status;
    uint8_t *blocks = q->blocks;
    for (uint32_t i = 0; i < n; i++) {
        const struct weight_part *wide = &q->binding->quantised_from[first + i].wide;
        size_t size = quantise_part_bytes(&q->table, first + i);
        q->jobs[i] =
            (struct quantise_job){.from = wide->dtype,
                                  .data = q->jobs[i].data,
                                  .count = (size_t)wide->out_count * matrix->source.in_count,
                                  .blocks = blocks};
        q->pieces[i] = (struct quantise_piece){.bytes = blocks, .size_bytes = size};
        blocks += size;
    }
    q->makes = true;
    quantise_run(q->pool, q->table.kind, q->jobs, n);
    status = jobs_check(q, matrix, error);
    if (!status)
        writer_need(q);
    if (status || q->writer.fd < 0)
        return status;
    status = quantise_digests(q->pool, q->pieces, n, error);
    for (uint32_t i = 0; i < n && !status; i++)
        part_keep(q, first + i, q->pieces[i].bytes, q->pieces[i].digest);
    return status;
}

enum status quantiser_parts(struct quantiser *q, const struct matrix_binding *matrix,
                            struct weight_part *ret_parts, struct error *error)
{
    uint32_t n_parts = matrix->source.stack_count * matrix->source.n_parts, at = 0;
    enum status status = parts_find(q, matrix) ? STATUS_OK : parts_make(q, matrix, error);
    if (status)
        return status;
    for (uint32_t i = 0; i < n_parts; i++)
        if (!ret_parts[i].data)
            ret_parts[i].data = q->pieces[at++].bytes;
    CHECK(at == matrix->n_quantised);
    return STATUS_OK;
}
