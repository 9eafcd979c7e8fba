#include <math.h>

#include "kernels/ref/ref.h"

/* softmax(q k^T * scale) v of one head over positions first..last; `probabilities` is scratch. */
static void head_attend(const struct attention_args *args, uint32_t row, uint32_t head,
                        double *probabilities)
{
    uint32_t last = args->host_positions[row], slot = args->host_slots[row];
    uint32_t window = args->window_tokens;
    uint32_t first = window > 0 && last >= window ? last - window + 1 : 0;
    uint32_t kv_head = head / (args->n_heads / args->n_kv_heads), n = args->head_dim;
    size_t row_count = (size_t)(args->n_heads + 2 * args->n_kv_heads) * n;
    const float *q = args->qkv + row * row_count + (size_t)head * n;
    float *out = args->out + ((size_t)row * args->n_heads + head) * n;

    double most = -INFINITY, sum = 0;
    for (uint32_t t = first; t <= last; t++) {
        const float *k = ref_kv_at(args->kv, args->layer, slot, t, 0) + (size_t)kv_head * n;
        probabilities[t - first] = ref_dot(q, k, n) * (double)args->scale;
        most = fmax(most, probabilities[t - first]);
    }
    for (uint32_t t = first; t <= last; t++) {
        probabilities[t - first] = exp(probabilities[t - first] - most);
        sum += probabilities[t - first];
    }
    for (uint32_t i = 0; i < n; i++) {
        double value = 0;
        for (uint32_t t = first; t <= last; t++)
            value += probabilities[t - first] *
                     (double)ref_kv_at(args->kv, args->layer, slot, t, 1)[(size_t)kv_head * n + i];
        out[i] = (float)(value / sum);
    }
}

void ref_attention(struct device *device, const struct attention_args *args)
{
    CHECK(args->n_kv_heads > 0 && args->n_heads % args->n_kv_heads == 0);
    CHECK(args->n_kv_heads == args->kv->shape.n_kv_heads);
    CHECK(args->head_dim == args->kv->shape.head_dim);
    uint32_t last = 0;
    for (uint32_t r = 0; r < args->n_rows; r++)
        last = u32_max(last, args->host_positions[r]);
    double *probabilities = ref_work(device, ((size_t)last + 1) * sizeof(double));
    if (!probabilities)
        return;
    for (uint32_t r = 0; r < args->n_rows; r++)
        for (uint32_t h = 0; h < args->n_heads; h++)
            head_attend(args, r, h, probabilities);
}
