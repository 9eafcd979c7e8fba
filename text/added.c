#include "text/added.h"

#include "text/utf8.h"

#define NO_TOKEN UINT32_MAX

static enum status room_make(void **items, uint32_t count, uint32_t *capacity, size_t item_bytes,
                             struct error *error)
{
    if (count < *capacity)
        return STATUS_OK;
    uint32_t wanted = u32_max(64, 2 * *capacity);
    void *grown = realloc(*items, wanted * item_bytes);
    if (!grown)
        return error_set(error, STATUS_EXHAUSTED, "no memory for %u added tokens", wanted);
    *items = grown;
    *capacity = wanted;
    return STATUS_OK;
}

static enum status node_new(struct added_set *set, char byte, uint32_t *ret_node,
                            struct error *error)
{
    if (set->nodes_count >= ADDED_NODES_MAX)
        return error_set(error, STATUS_INVALID, "added tokens of more than %u bytes",
                         ADDED_NODES_MAX);
    enum status status = room_make((void **)&set->nodes, set->nodes_count, &set->nodes_capacity,
                                   sizeof *set->nodes, error);
    if (status)
        return status;
    set->nodes[set->nodes_count] = (struct added_node){.token = NO_TOKEN, .byte = byte};
    *ret_node = set->nodes_count++;
    return STATUS_OK;
}

static uint32_t child_find(const struct added_set *set, uint32_t node, char byte)
{
    uint32_t child = set->nodes[node].child;
    while (child && set->nodes[child].byte != byte)
        child = set->nodes[child].sibling;
    return child;
}

static enum status path_make(struct added_set *set, struct span text, uint32_t *ret_node,
                             struct error *error)
{
    uint32_t node = 0;
    if (set->nodes_count == 0) {
        enum status status = node_new(set, 0, &node, error);
        if (status)
            return status;
    }
    for (size_t i = 0; i < text.size_bytes; i++) {
        uint32_t child = child_find(set, node, text.data[i]);
        if (!child) {
            enum status status = node_new(set, text.data[i], &child, error);
            if (status)
                return status;
            set->nodes[child].sibling = set->nodes[node].child;
            set->nodes[node].child = child;
        }
        node = child;
    }
    *ret_node = node;
    return STATUS_OK;
}

enum status added_insert(struct added_set *set, const struct added_token *token,
                         struct error *error)
{
    size_t size_bytes = token->text.size_bytes;
    if (size_bytes == 0 || size_bytes > ADDED_TOKEN_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "added token id %u has %zu bytes, expected 1 to %d",
                         token->id, size_bytes, ADDED_TOKEN_MAX_BYTES);
    /* In valid text, valid text is found at the borders of characters only. */
    if (utf8_invalid_offset(token->text.data, size_bytes) < size_bytes)
        return error_set(error, STATUS_INVALID, "added token id %u is not valid UTF-8", token->id);
    uint32_t node = 0;
    enum status status = path_make(set, token->text, &node, error);
    if (!status)
        status = room_make((void **)&set->tokens, set->tokens_count, &set->tokens_capacity,
                           sizeof *set->tokens, error);
    if (status)
        return status;
    if (set->nodes[node].token != NO_TOKEN)
        return error_set(error, STATUS_INVALID, "added token ids %u and %u have the same content",
                         set->tokens[set->nodes[node].token].id, token->id);
    set->nodes[node].token = set->tokens_count;
    set->tokens[set->tokens_count] = *token;
    set->tokens[set->tokens_count++].text = (struct span){0};
    set->starts[token->class][(uint8_t)token->text.data[0]] = true;
    return STATUS_OK;
}

void added_free(struct added_set *set)
{
    free(set->nodes);
    free(set->tokens);
    memset(set, 0, sizeof *set);
}

/* The longest token of `class` that starts at text[0]; 0 bytes: none. */
static size_t longest_match(const struct added_set *set, enum added_class class, const char *text,
                            size_t size_bytes, const struct added_token **ret_token)
{
    size_t longest_bytes = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < size_bytes; i++) {
        node = child_find(set, node, text[i]);
        if (!node)
            break;
        uint32_t token = set->nodes[node].token;
        if (token != NO_TOKEN && set->tokens[token].class == class) {
            longest_bytes = i + 1;
            *ret_token = &set->tokens[token];
        }
    }
    return longest_bytes;
}

bool added_find(const struct added_set *set, enum added_class class, const char *text, size_t start,
                size_t end, struct added_match *ret_match)
{
    const bool *starts = set->starts[class];
    for (size_t at = start; at < end; at++) {
        if (!starts[(uint8_t)text[at]])
            continue;
        const struct added_token *token = NULL;
        size_t size_bytes = longest_match(set, class, text + at, end - at, &token);
        if (size_bytes) {
            *ret_match = (struct added_match){token, at, at + size_bytes};
            return true;
        }
    }
    return false;
}

const struct added_token *added_exact(const struct added_set *set, struct span text)
{
    if (set->nodes_count == 0 || text.size_bytes == 0)
        return NULL;
    uint32_t node = 0;
    for (size_t i = 0; i < text.size_bytes; i++) {
        node = child_find(set, node, text.data[i]);
        if (!node)
            return NULL;
    }
    uint32_t token = set->nodes[node].token;
    return token == NO_TOKEN ? NULL : &set->tokens[token];
}

/* Unicode's White_Space; the text is a whole character. */
static bool is_white_space(const char *text, int length)
{
    const uint8_t *c = (const uint8_t *)text;
    if (length == 1)
        return c[0] == ' ' || (c[0] >= '\t' && c[0] <= '\r');
    if (length == 2)
        return c[0] == 0xc2 && (c[1] == 0x85 || c[1] == 0xa0);
    if (length != 3)
        return false;
    uint32_t code = (uint32_t)(c[0] & 0x0f) << 12 | (uint32_t)(c[1] & 0x3f) << 6 | (c[2] & 0x3f);
    return code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

size_t white_space_end(const char *text, size_t start, size_t max)
{
    while (start < max) {
        int length = utf8_next(text + start, max - start, NULL);
        if (length < 1 || !is_white_space(text + start, length))
            break;
        start += (size_t)length;
    }
    return start;
}

size_t white_space_start(const char *text, size_t min, size_t end)
{
    while (end > min) {
        size_t at = end - 1;
        while (at > min && ((uint8_t)text[at] & 0xc0) == 0x80)
            at--;
        if (!is_white_space(text + at, (int)size_min(end - at, 5)))
            break;
        end = at;
    }
    return end;
}
