#include "text/chat.h"

#include "base/gguf.h"
#include "text/chat_form.h"
#include "text/model_files.h"

#define ARENA_MAX_BYTES (1u << 20)
#define MESSAGES_MAX (1u << 16)

static const struct chat_form *const forms[] = {&chat_form_chatml, &chat_form_llama3,
                                                &chat_form_mistral};

struct chat {
    const struct chat_form *form; /* NULL: none or unknown */
    bool has_template;
    struct chat_words words;
    struct arena boot_arena; /* what the words point to */
};

const char *chat_role_name(enum chat_role role)
{
    static const char *const names[] = {NULL, "system", "user", "assistant"};
    return (unsigned)role < array_count(names) ? names[role] : NULL;
}

void chat_shape_read(const char *text, struct arena *arena, struct template_tokens *ret_shape)
{
    bool good = template_read(span_of(text), arena, ret_shape);
    CHECK(good || arena->overflowed);
    if (!good)
        ret_shape->count = TEMPLATE_TOKENS_MAX + 1; /* matches nothing */
}

/* The template among the files of a directory: a file of its own wins. */
static enum status directory_template(const char *directory, struct arena *arena,
                                      struct span *ret_text, struct error *error)
{
    char path[MODEL_PATH_MAX_BYTES + 32];
    struct map_file map = {0};
    snprintf(path, sizeof path, "%s/chat_template.jinja", directory);
    enum status status = map_file_open(path, TEMPLATE_MAX_BYTES, &map, error);
    if (!status) {
        struct span text = {(const char *)map.data, map.size_bytes};
        *ret_text = (struct span){arena_copy(arena, text), text.size_bytes};
        map_file_close(&map);
        return STATUS_OK;
    }
    if (status != STATUS_NOT_FOUND)
        return status;
    json_t *root = NULL;
    status = model_files_json(directory, "tokenizer_config.json", path, &root, error);
    const json_t *field = json_object_get(root, "chat_template");
    for (size_t i = 0; json_is_array(field) && i < json_array_size(field); i++) {
        const json_t *item = json_array_get(field, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0) {
            field = json_object_get(item, "template");
            break;
        }
    }
    if (!status && field && !json_is_null(field)) {
        struct span text = span_of(json_string_value(field));
        if (!text.data)
            status = error_set(error, STATUS_INVALID,
                               "%s: chat_template: expected a string, or a list with one named "
                               "default, got %s",
                               path, json_kind_text(field));
        else
            *ret_text = (struct span){arena_copy(arena, text), text.size_bytes};
    }
    json_decref(root);
    return status;
}

static enum status gguf_template(struct span bytes, const char *file, struct arena *arena,
                                 struct span *ret_text, struct error *error)
{
    struct gguf gguf = {0};
    struct span text;
    enum status status = gguf_open(bytes, file, &gguf, error);
    if (!status && gguf_key_find(&gguf, "tokenizer.chat_template")) {
        status = gguf_get_string(&gguf, "tokenizer.chat_template", &text, error);
        if (!status)
            *ret_text = (struct span){arena_copy(arena, text), text.size_bytes};
    }
    gguf_close(&gguf);
    return status;
}

static enum status template_find(const char *path, struct arena *arena, struct span *ret_text,
                                 struct error *error)
{
    struct model_files files;
    struct map_file map = {0};
    enum status status = model_files_resolve(path, &files, error);
    if (!status && !files.is_directory)
        status = map_file_open(files.main, SIZE_MAX, &map, error);
    if (status)
        return status;
    struct span bytes = {(const char *)map.data, map.size_bytes};
    status = gguf_magic(bytes) ? gguf_template(bytes, files.main, arena, ret_text, error)
                               : directory_template(files.directory, arena, ret_text, error);
    map_file_close(&map);
    return status;
}

/* A special token's text, in the arena; empty when the id is no special token. */
static struct span special_text(const struct tokenizer *tokenizer, uint32_t id, struct arena *arena)
{
    if (!tokenizer_token_is_special(tokenizer, id))
        return (struct span){0};
    struct span text = tokenizer_token_bytes(tokenizer, id, true);
    char *copy = arena_copy(arena, text);
    return (struct span){copy, copy ? text.size_bytes : 0};
}

/* The words that templates call bos_token and eos_token. */
static void token_words(const struct tokenizer *tokenizer, struct arena *arena,
                        struct chat_words *words)
{
    const struct tokenizer_info *info = tokenizer_info(tokenizer);
    words->bos = special_text(tokenizer, info->bos_id, arena);
    words->eos = special_text(tokenizer, info->n_eos ? info->eos_ids[0] : TOKEN_NONE, arena);
}

enum status chat_open_text(struct span text, const struct tokenizer *tokenizer,
                           struct chat **ret_chat, struct error *error)
{
    struct chat *chat = calloc(1, sizeof *chat);
    struct template_tokens *tokens = calloc(1, sizeof *tokens);
    if (!chat || !tokens) {
        free(chat);
        free(tokens);
        return error_set(error, STATUS_EXHAUSTED, "no memory for a chat template");
    }
    arena_init(&chat->boot_arena, ARENA_MAX_BYTES);
    chat->has_template = text.size_bytes > 0;
    if (chat->has_template && template_read(text, &chat->boot_arena, tokens)) {
        for (size_t i = 0; i < array_count(forms) && !chat->form; i++) {
            struct chat_words words = {0};
            token_words(tokenizer, &chat->boot_arena, &words);
            if (!forms[i]->recognise(tokens, &chat->boot_arena, &words))
                continue;
            chat->form = forms[i];
            chat->words = words;
        }
    }
    free(tokens);
    *ret_chat = chat;
    return STATUS_OK;
}

enum status chat_open(const char *path, const struct tokenizer *tokenizer, struct chat **ret_chat,
                      struct error *error)
{
    struct arena arena;
    struct span text = {0};
    arena_init(&arena, ARENA_MAX_BYTES);
    enum status status = template_find(path, &arena, &text, error);
    if (!status && text.size_bytes > 0 && !text.data)
        status =
            error_set(error, STATUS_INVALID, "%s: chat template of %zu bytes, expected at most %u",
                      path, text.size_bytes, TEMPLATE_MAX_BYTES);
    if (!status)
        status = chat_open_text(text, tokenizer, ret_chat, error);
    arena_free(&arena);
    return status;
}

void chat_close(struct chat *chat)
{
    if (!chat)
        return;
    arena_free(&chat->boot_arena);
    free(chat);
}

const char *chat_name(const struct chat *chat)
{
    if (chat->form)
        return chat->form->name;
    return chat->has_template ? "unknown" : "none";
}

static void piece_add(struct chat_writer *writer, struct span text, bool parse_special)
{
    if (text.size_bytes == 0)
        return;
    CHECK(writer->pieces_count < writer->pieces_max);
    writer->pieces[writer->pieces_count++] = (struct text_piece){text, parse_special};
}

void chat_write_template(struct chat_writer *writer, struct span text)
{
    piece_add(writer, text, true);
}

void chat_write_content(struct chat_writer *writer, struct span text)
{
    piece_add(writer, text, false);
}

static enum status messages_check(const struct chat_message *messages, size_t n_messages,
                                  struct error *error)
{
    if (n_messages == 0 || n_messages > MESSAGES_MAX)
        return error_field(error, "messages", "%zu messages, expected 1 to %u", n_messages,
                           MESSAGES_MAX);
    for (size_t i = 0; i < n_messages; i++)
        if (!chat_role_name(messages[i].role)) {
            char field[64];
            snprintf(field, sizeof field, "messages[%zu].role", i);
            return error_field(error, field, "no role, expected system, user or assistant");
        }
    return STATUS_OK;
}

enum status chat_render(const struct chat *chat, const struct chat_message *messages,
                        size_t n_messages, struct arena *arena,
                        const struct text_piece **ret_pieces, size_t *ret_n_pieces,
                        struct error *error)
{
    if (!chat->form)
        return error_set(error, STATUS_UNSUPPORTED,
                         chat->has_template
                             ? "the model's chat template is not one of those that are known "
                               "(ChatML, Llama 3, Mistral); send text or token ids instead"
                             : "the model has no chat template; send text or token ids instead");
    enum status status = messages_check(messages, n_messages, error);
    if (!status)
        status = chat->form->check(&chat->words, messages, n_messages, error);
    if (status)
        return status;
    struct chat_writer writer = {.words = &chat->words};
    writer.pieces_max = n_messages * CHAT_PIECES_EACH + CHAT_PIECES_MORE;
    writer.pieces = arena_alloc(arena, writer.pieces_max * sizeof *writer.pieces);
    if (!writer.pieces)
        return error_set(error, STATUS_EXHAUSTED, "no room to render %zu messages", n_messages);
    chat->form->write(&writer, messages, n_messages);
    *ret_pieces = writer.pieces;
    *ret_n_pieces = writer.pieces_count;
    return STATUS_OK;
}
