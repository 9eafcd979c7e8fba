#include "text/chat_form.h"

/*
 * ChatML: every turn is <|im_start|>ROLE, a line feed, the content, <|im_end|> and a line feed, in
 * any order of roles. Some templates put a system turn first when the conversation has none.
 */
#define LOOP "{% for message in messages %}"
#define TURN                                                                                       \
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"   \
    "{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define FIRST_SYSTEM                                                                               \
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '?system' }}{% endif %}"
#define DEFAULT_PROMPT                                                                             \
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% "      \
    "endif %}"

#define SYSTEM_OPEN "<|im_start|>system\n"
#define CLOSE "<|im_end|>\n"

/* Exactly one system turn, with nothing in it that would begin or end another. */
static bool system_turn_good(struct span turn)
{
    size_t open = strlen(SYSTEM_OPEN), close = strlen(CLOSE);
    if (turn.size_bytes < open + close || memcmp(turn.data, SYSTEM_OPEN, open) != 0 ||
        memcmp(turn.data + turn.size_bytes - close, CLOSE, close) != 0)
        return false;
    return !memmem(turn.data + open, turn.size_bytes - open - close, "<|im_", 5);
}

static bool chatml_recognise(const struct template_tokens *tokens, struct arena *arena,
                             struct chat_words *words)
{
    struct template_tokens *shape = arena_alloc(arena, sizeof *shape);
    struct template_holes holes;
    if (!shape)
        return false;
    chat_shape_read(DEFAULT_PROMPT, arena, shape);
    uint32_t first = template_begins(tokens, shape) ? shape->count : 0;
    chat_shape_read(LOOP TURN PROMPT, arena, shape);
    if (template_matches(tokens, first, shape, &holes))
        return true;
    chat_shape_read(LOOP FIRST_SYSTEM TURN PROMPT, arena, shape);
    if (!template_matches(tokens, first, shape, &holes))
        return false;
    words->first_system = template_hole(&holes, "system");
    return system_turn_good(words->first_system);
}

static enum status chatml_check(const struct chat_words *words, const struct chat_message *messages,
                                size_t n_messages, struct error *error)
{
    return STATUS_OK;
}

static void chatml_write(struct chat_writer *writer, const struct chat_message *messages,
                         size_t n_messages)
{
    static const char *const opens[] = {[CHAT_ROLE_SYSTEM] = SYSTEM_OPEN,
                                        [CHAT_ROLE_USER] = "<|im_start|>user\n",
                                        [CHAT_ROLE_ASSISTANT] = "<|im_start|>assistant\n"};
    if (messages[0].role != CHAT_ROLE_SYSTEM)
        chat_write_template(writer, writer->words->first_system);
    for (size_t i = 0; i < n_messages; i++) {
        chat_write_template(writer, span_of(opens[messages[i].role]));
        chat_write_content(writer, messages[i].content);
        chat_write_template(writer, span_of(CLOSE));
    }
    chat_write_template(writer, span_of(opens[CHAT_ROLE_ASSISTANT]));
}

const struct chat_form chat_form_chatml = {"chatml", chatml_recognise, chatml_check, chatml_write};
