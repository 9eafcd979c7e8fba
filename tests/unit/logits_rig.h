/*
 * logits_rig: the logits that a model gives for every position of one fixed sequence of tokens, in
 * one step on block 5.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"

/* [n_rows][vocab] into ret_logits; the model's blocks have n_rows positions at least. */
static inline void logits_of_model(struct model *model, uint32_t n_rows, uint32_t vocab,
                                   float *ret_logits)
{
    struct step *step = calloc(1, step_bytes_max(model_limits(model)));
    struct step_result *result = calloc(1, step_result_bytes_max(model_limits(model)));
    assert_true(step && result);
    step_begin(step, model_limits(model), 3, 1);
    step->n_opens = step->n_blocks = 1;
    step->n_tokens = step->n_rows = n_rows;
    step_opens(step)[0] = (struct step_open){.n_tokens = n_rows, .n_blocks = 1};
    step_blocks(step)[0] = 5;
    for (uint32_t i = 0; i < n_rows; i++) {
        step_tokens(step)[i] = i * 7 % vocab;
        step_rows(step)[i] = (struct step_row){.first_position = i,
                                               .n_tokens = 1,
                                               .flags = STEP_ROW_SAMPLES,
                                               .mask_slot = STEP_MASK_NONE};
    }
    assert_int_equal(model_step(model, step, step->size_bytes, result), STATUS_OK);
    uint32_t n_got = 0;
    const float *logits = model_last_logits(model, &n_got);
    assert_int_equal(n_got, n_rows);
    memcpy(ret_logits, logits, (size_t)n_rows * vocab * sizeof *logits);
    free(step);
    free(result);
}
