/* config.json: what is accepted keeps every rule that the rest of the model relies on. */
#include <math.h>

#include "model/arch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static void packing_check(const struct packing *p)
{
    CHECK(p->kind <= PACKING_AWQ && p->zero_offset <= 1);
    CHECK((p->block_rows == 0) == (p->block_columns == 0) && p->block_columns % 128 == 0);
    CHECK(p->group_columns % 32 == 0);
    if (p->kind != PACKING_F8)
        CHECK(p->block_rows == 0);
    if (p->kind != PACKING_GPTQ)
        CHECK(!p->symmetric && p->zero_offset == 0);
}

static void arch_check(const struct arch *a)
{
    static float inv_freq[ARCH_HEAD_DIM_MAX / 2];
    CHECK(a->n_layers >= 1 && a->n_layers <= ARCH_LAYERS_MAX);
    CHECK(a->hidden >= 1 && a->hidden <= ARCH_HIDDEN_MAX);
    CHECK(a->n_heads >= 1 && a->n_heads <= ARCH_HEADS_MAX);
    CHECK(a->n_kv_heads >= 1 && a->n_heads % a->n_kv_heads == 0);
    CHECK(a->head_dim >= 2 && a->head_dim % 2 == 0 && a->head_dim <= ARCH_HEAD_DIM_MAX);
    CHECK(a->intermediate >= 1 && a->intermediate <= ARCH_INTERMEDIATE_MAX);
    CHECK(a->vocab >= 1 && a->vocab <= ARCH_VOCAB_MAX);
    CHECK(a->context_tokens >= 1 && a->context_tokens <= ARCH_CONTEXT_MAX);
    CHECK(a->rms_eps > 0 && a->rms_eps <= 1);
    CHECK(memchr(a->name, 0, sizeof a->name));
    if (a->kind == MODEL_MIXTRAL)
        CHECK(a->n_experts >= 1 && a->n_experts <= ARCH_EXPERTS_MAX && a->top_k >= 1 &&
              a->top_k <= a->n_experts && a->top_k <= MOE_TOP_K_MAX);
    else
        CHECK(a->n_experts == 0 && a->top_k == 0);
    packing_check(&a->packing);
    arch_inv_freq(a, inv_freq);
    for (uint32_t i = 0; i < a->head_dim / 2; i++)
        CHECK(isfinite(inv_freq[i]) && inv_freq[i] >= 0 && inv_freq[i] <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    const struct json_limits limits = {.max_bytes = 1 << 20, .values_max = 65536};
    struct error error = {.text = ""};
    struct arch arch;
    json_t *root = NULL;
    if (json_read_text((struct span){(const char *)data, size_bytes}, "f", &limits, &root,
                       &error)) {
        CHECK(strncmp(error.text, "f: ", 3) == 0);
        return 0;
    }
    if (arch_from_json(root, "f", &arch, &error) == STATUS_OK)
        arch_check(&arch);
    else
        CHECK(strncmp(error.text, "f: ", 3) == 0);
    json_decref(root);
    return 0;
}
