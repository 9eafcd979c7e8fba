#include "model/packing.h"

#include <inttypes.h>
#include <strings.h>

#include "base/json_read.h"

#define FIELD "quantization_config"
#define COLUMNS_MAX (1u << 20)
#define F8_COLUMNS 128 /* of a block of DTYPE_F8_E4M3 */
#define BITS_COLUMNS 32

static enum status refused(const struct json_at *at, const char *field, const char *value,
                           const char *expected, struct error *error)
{
    return error_set(error, STATUS_UNSUPPORTED,
                     "%s: %s.%s: \"%.64s\" is not supported, expected %s", at->file, at->parent,
                     field, value, expected);
}

static enum status number_refused(const struct json_at *at, const char *field, int64_t value,
                                  const char *expected, struct error *error)
{
    return error_set(error, STATUS_UNSUPPORTED,
                     "%s: %s.%s: %" PRId64 " is not supported, expected %s", at->file, at->parent,
                     field, value, expected);
}

static enum status text_of(const struct json_at *at, const char *field, const char *absent,
                           const char **ret_text, struct error *error)
{
    *ret_text = absent;
    return json_has(at, field) ? json_get_string(at, field, ret_text, error) : STATUS_OK;
}

static enum status flag_of(const struct json_at *at, const char *field, bool absent, bool *ret_flag,
                           struct error *error)
{
    *ret_flag = absent;
    return json_has(at, field) ? json_get_bool(at, field, ret_flag, error) : STATUS_OK;
}

/* ---- 8 bits ---- */

/* [rows, columns] of a scale. */
static enum status block_read(const struct json_at *at, const char *field, struct packing *packing,
                              struct error *error)
{
    const json_t *list = NULL;
    json_int_t sides[2];
    enum status status = json_get_array(at, field, &list, error);
    if (status)
        return status;
    for (size_t i = 0; i < 2; i++) {
        const json_t *side = json_array_get(list, i);
        sides[i] = json_integer_value(side);
        if (json_array_size(list) != 2 || !json_is_integer(side) || sides[i] < 1 ||
            sides[i] > COLUMNS_MAX)
            return error_set(error, STATUS_INVALID,
                             "%s: %s.%s: expected two numbers 1..%u: rows and columns", at->file,
                             at->parent, field, COLUMNS_MAX);
    }
    if (sides[1] % F8_COLUMNS)
        return number_refused(at, field, sides[1], "a multiple of 128 columns", error);
    packing->block_rows = (uint32_t)sides[0];
    packing->block_columns = (uint32_t)sides[1];
    return STATUS_OK;
}

static enum status f8_read(const struct json_at *at, struct packing *packing, struct error *error)
{
    packing->kind = PACKING_F8;
    return json_has(at, "weight_block_size") ? block_read(at, "weight_block_size", packing, error)
                                             : STATUS_OK;
}

/* What a group of compressed-tensors says of its weights. */
static enum status group_weights_read(const struct json_at *at, struct packing *packing,
                                      struct error *error)
{
    const char *type = NULL, *strategy = NULL;
    uint32_t bits = 0;
    enum status status = json_get_u32(at, "num_bits", (struct json_range_u64){1, 64}, &bits, error);
    if (!status)
        status = json_get_string(at, "type", &type, error);
    if (!status)
        status = json_get_string(at, "strategy", &strategy, error);
    if (status)
        return status;
    if (bits != 8)
        return number_refused(at, "num_bits", bits, "8", error);
    if (strcmp(type, "float") != 0)
        return refused(at, "type", type, "\"float\"", error);
    if (strcmp(strategy, "block") == 0)
        return block_read(at, "block_structure", packing, error);
    if (strcmp(strategy, "tensor") != 0 && strcmp(strategy, "channel") != 0)
        return refused(at, "strategy", strategy, "\"tensor\", \"channel\" or \"block\"", error);
    return STATUS_OK;
}

static enum status group_read(const struct json_at *groups, const char *name,
                              struct packing *packing, struct error *error)
{
    char in_group[160], in_weights[192];
    snprintf(in_group, sizeof in_group, "%s.%.64s", groups->parent, name);
    snprintf(in_weights, sizeof in_weights, "%s.weights", in_group);
    struct json_at group = {.file = groups->file, .parent = in_group};
    struct json_at weights = {.file = groups->file, .parent = in_weights};
    enum status status = json_get_object(groups, name, &group.object, error);
    if (!status)
        status = json_get_object(&group, "weights", &weights.object, error);
    return status ? status : group_weights_read(&weights, packing, error);
}

/* All groups must agree: which tensor is of which is a matter of patterns. */
static enum status compressed_read(const struct json_at *at, struct packing *packing,
                                   struct error *error)
{
    const char *format = NULL, *name;
    json_t *value;
    struct json_at groups = {.file = at->file, .parent = FIELD ".config_groups"};
    enum status status = json_get_string(at, "format", &format, error);
    if (!status && strcmp(format, "float-quantized") != 0 && strcmp(format, "naive-quantized") != 0)
        return refused(at, "format", format, "\"float-quantized\"", error);
    if (!status)
        status = json_get_object(at, "config_groups", &groups.object, error);
    if (status)
        return status;
    bool first = true;
    json_object_foreach ((json_t *)(uintptr_t)groups.object, name, value) {
        struct packing other = {.kind = PACKING_F8};
        status = group_read(&groups, name, &other, error);
        if (status)
            return status;
        if (!first && (other.block_rows != packing->block_rows ||
                       other.block_columns != packing->block_columns))
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %s: groups with blocks of several sizes are not supported",
                             at->file, groups.parent);
        *packing = other;
        first = false;
    }
    if (first)
        return error_set(error, STATUS_INVALID, "%s: %s: expected a group, got none", at->file,
                         groups.parent);
    return STATUS_OK;
}

/* ---- 4 bits ---- */

/* Two makers, two names for each field. */
static const char *named(const struct json_at *at, const char *name, const char *other)
{
    return json_has(at, name) || !json_has(at, other) ? name : other;
}

static enum status bits_read(const struct json_at *at, struct packing *packing, struct error *error)
{
    const char *field = named(at, "bits", "w_bit");
    uint32_t bits = 0;
    enum status status = json_get_u32(at, field, (struct json_range_u64){1, 64}, &bits, error);
    if (status)
        return status;
    if (bits != 4)
        return number_refused(at, field, bits, "4", error);
    field = named(at, "group_size", "q_group_size");
    const json_t *value = json_object_get(at->object, field);
    json_int_t group = json_integer_value(value);
    if (!json_is_integer(value))
        return error_set(error, STATUS_INVALID, "%s: %s.%s: expected an integer, got %s", at->file,
                         at->parent, field, value ? json_kind_text(value) : "nothing");
    if (group != -1 && (group < BITS_COLUMNS || group > COLUMNS_MAX || group % BITS_COLUMNS))
        return number_refused(at, field, group, "-1 or a multiple of 32", error);
    packing->group_columns = group == -1 ? 0 : (uint32_t)group;
    return STATUS_OK;
}

/* `desc_act` needs no look: whether columns are out of order is seen in g_idx. */
static enum status gptq_read(const struct json_at *at, struct packing *packing, struct error *error)
{
    const char *format = NULL, *field = named(at, "checkpoint_format", "format");
    packing->kind = PACKING_GPTQ;
    enum status status = bits_read(at, packing, error);
    if (!status)
        status = flag_of(at, "sym", false, &packing->symmetric, error);
    if (!status)
        status = text_of(at, field, "gptq", &format, error);
    if (status)
        return status;
    if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        return refused(at, field, format, "\"gptq\" or \"gptq_v2\"", error);
    packing->zero_offset = strcmp(format, "gptq") == 0;
    const json_t *exceptions = json_object_get(at->object, "dynamic");
    if (json_is_object(exceptions) && json_object_size(exceptions))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: %s.dynamic: settings for some tensors only are not supported, "
                         "expected null",
                         at->file, at->parent);
    return STATUS_OK;
}

static enum status awq_read(const struct json_at *at, struct packing *packing, struct error *error)
{
    const char *version = NULL, *field = named(at, "version", "format");
    bool zero_point = true;
    packing->kind = PACKING_AWQ;
    enum status status = bits_read(at, packing, error);
    if (!status)
        status = flag_of(at, "zero_point", true, &zero_point, error);
    if (!status)
        status = text_of(at, field, "gemm", &version, error);
    if (status)
        return status;
    if (strcasecmp(version, "gemm") != 0)
        return refused(at, field, version, "\"gemm\"", error);
    if (!zero_point)
        return refused(at, "zero_point", "false", "true", error);
    return STATUS_OK;
}

enum status packing_from_json(const struct json_at *root, struct packing *ret_packing,
                              struct error *error)
{
    static const struct {
        const char *method;
        enum status (*read)(const struct json_at *, struct packing *, struct error *);
    } known[] = {{"fp8", f8_read},
                 {"compressed-tensors", compressed_read},
                 {"gptq", gptq_read},
                 {"awq", awq_read}};
    struct json_at at = {.file = root->file, .parent = FIELD};
    struct packing packing = {.kind = PACKING_NONE};
    const char *method = NULL;
    if (!json_has(root, FIELD)) {
        *ret_packing = packing;
        return STATUS_OK;
    }
    enum status status = json_get_object(root, FIELD, &at.object, error);
    if (!status)
        status = json_get_string(&at, "quant_method", &method, error);
    if (status)
        return status;
    size_t k = 0;
    while (k < array_count(known) && strcmp(known[k].method, method) != 0)
        k++;
    if (k == array_count(known))
        return refused(&at, "quant_method", method,
                       "\"fp8\", \"compressed-tensors\", \"gptq\" or \"awq\"", error);
    status = known[k].read(&at, &packing, error);
    if (!status)
        *ret_packing = packing;
    return status;
}
