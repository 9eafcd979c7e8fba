/*
 * quantiser: the quantised parts of a model while it loads, from the file that an earlier start
 * kept, or made now and kept for the next.
 *
 * weights.c asks matrix by matrix. Where the file of the cache directory is there and says that it
 * is of this model, the bytes of the matrix are checked by their SHA-256 (all threads, about the
 * time of reading them) and used where they are mapped; the model's own file is not read then. A
 * file that is stale, cut or of another version is refused when it is opened, a corrupt one at the
 * matrix whose digest differs; what is missing is made from the model and a new file takes the
 * place of the old. No file at all, no right to write or no room is no error: parts are made and
 * kept in memory. `model_progress.note` hears of each such thing once.
 *
 * Beside the packed weights it holds the quantised blocks of one matrix (of a mixture: of all
 * experts of a layer), and where the model's file has it in 8 bits (model/packed.h), those. One
 * thread; it starts threads of its own and ends them.
 */
#pragma once

#include "model/binding.h"
#include "model/model.h"

struct quantiser_options {
    const char *directory;                 /* of the cache; NULL or "": none */
    uint8_t model_digest[32];              /* what the file is named by */
    uint8_t stamp[32];                     /* weights_file_stamp: what it must be made of */
    uint32_t threads_count;                /* 0: all that the process may use */
    const struct model_progress *progress; /* or NULL */
};

struct quantiser {
    const struct binding *binding;
    const struct model_progress *progress;
    struct quantise_table table;
    struct pool *pool;
    char *path;                    /* of the file; NULL: none is to be kept */
    struct quantise_file file;     /* closed: there is no good one */
    struct quantise_writer writer; /* closed: nothing is written (yet, or any more) */
    bool *used;                    /* [n_parts] from the file, with a good digest */
    bool makes;                    /* some part was not there */
    bool gave_up_writing;
    uint64_t opened_ns;
    uint8_t *blocks, *wide; /* of one matrix, made now; what is wide of it and is no file's */
    size_t blocks_bytes, wide_bytes;
    struct quantise_job *jobs;     /* [most quantised parts of a matrix] */
    struct quantise_piece *pieces; /* the same */
};

/* `binding` must outlive it and have parts to be quantised; it stays where it is. EXHAUSTED,
 * INTERNAL. */
enum status quantiser_open(const struct quantiser_options *options, const struct binding *binding,
                           struct quantiser *ret_quantiser, struct error *error);

/* Puts the data of those parts of a matrix in place that have none: [stack_count][n_parts], good
 * until the next call. INVALID names a tensor with a value that is not finite or too large. */
enum status quantiser_parts(struct quantiser *quantiser, const struct matrix_binding *matrix,
                            struct weight_part *ret_parts, struct error *error);

/* Every matrix was asked for: a new file gets its name. */
void quantiser_finish(struct quantiser *quantiser);

/* A closed object (zeroed) may be closed again. */
void quantiser_close(struct quantiser *quantiser);
