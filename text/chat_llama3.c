#include "text/chat_form.h"

#include "text/added.h"

/*
 * Llama 3's format: the BOS once, then every turn as a header with its role, two line feeds, the
 * content without white space around it, and <|eot_id|>, in any order of roles. The shapes differ
 * in whether the prompt of the answer depends on add_generation_prompt. The longer templates of
 * Llama 3.1 and later (tools, dates) are others and not known here.
 */
#define START                                                                                      \
    "{% set loop_messages = messages %}{% for message in loop_messages %}"                         \
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "      \
    "message['content'] | trim + '<|eot_id|>' %}"                                                  \
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"                  \
    "{{ content }}{% endfor %}"
#define ANSWER "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"

static const char *const shapes[] = {
    START "{% if add_generation_prompt %}" ANSWER "{% endif %}",
    START ANSWER,
};

static bool llama3_recognise(const struct template_tokens *tokens, struct arena *arena,
                             struct chat_words *words)
{
    struct template_tokens *shape = arena_alloc(arena, sizeof *shape);
    struct template_holes holes;
    if (!shape || words->bos.size_bytes == 0)
        return false;
    for (size_t i = 0; i < array_count(shapes); i++) {
        chat_shape_read(shapes[i], arena, shape);
        if (template_matches(tokens, 0, shape, &holes))
            return true;
    }
    return false;
}

static enum status llama3_check(const struct chat_words *words, const struct chat_message *messages,
                                size_t n_messages, struct error *error)
{
    return STATUS_OK;
}

/* Python's str.strip, which Jinja's trim is: white space and the four information separators. */
static struct span trimmed(struct span text)
{
    size_t start = 0, end = text.size_bytes, before;
    do {
        before = start;
        start = white_space_end(text.data, start, end);
        if (start < end && text.data[start] >= 0x1c && text.data[start] <= 0x1f)
            start++;
    } while (start != before);
    do {
        before = end;
        end = white_space_start(text.data, start, end);
        if (end > start && text.data[end - 1] >= 0x1c && text.data[end - 1] <= 0x1f)
            end--;
    } while (end != before);
    return (struct span){text.data + start, end - start};
}

static void llama3_write(struct chat_writer *writer, const struct chat_message *messages,
                         size_t n_messages)
{
    static const char *const opens[] = {
        [CHAT_ROLE_SYSTEM] = "<|start_header_id|>system<|end_header_id|>\n\n",
        [CHAT_ROLE_USER] = "<|start_header_id|>user<|end_header_id|>\n\n",
        [CHAT_ROLE_ASSISTANT] = "<|start_header_id|>assistant<|end_header_id|>\n\n"};
    chat_write_template(writer, writer->words->bos);
    for (size_t i = 0; i < n_messages; i++) {
        chat_write_template(writer, span_of(opens[messages[i].role]));
        chat_write_content(writer, trimmed(messages[i].content));
        chat_write_template(writer, span_of("<|eot_id|>"));
    }
    chat_write_template(writer, span_of(opens[CHAT_ROLE_ASSISTANT]));
}

const struct chat_form chat_form_llama3 = {"llama3", llama3_recognise, llama3_check, llama3_write};
