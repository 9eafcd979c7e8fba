#include "text/chat_form.h"

/*
 * Mistral's instruction format: the BOS once, then [INST] around what the user wrote, and what the
 * assistant wrote with the EOS behind it. There is no system turn. The shapes differ in the spaces
 * around an answer and in whether the template insists that the sides take turns.
 */
#define START "{{ bos_token }}{% for message in messages %}"
#define TURNS                                                                                      \
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"                               \
    "{{ raise_exception('?turns') }}{% endif %}"
#define USER                                                                                       \
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"          \
    "{% elif message['role'] == 'assistant' %}"
#define END "{% else %}{{ raise_exception('?roles') }}{% endif %}{% endfor %}"

static const struct {
    const char *shape;
    const char *before, *behind; /* an answer; the EOS comes first in what is behind */
    bool alternates;
} shapes[] = {
    {START TURNS USER "{{ message['content'] + eos_token }}" END, "", "", true},
    {START TURNS USER "{{ message['content'] + eos_token + ' ' }}" END, "", " ", true},
    {START TURNS USER "{{ ' ' + message['content'] + eos_token }}" END, " ", "", true},
    {START USER "{{ message['content'] + eos_token }}" END, "", "", false},
    {START USER "{{ message['content'] + eos_token + ' ' }}" END, "", " ", false},
    {START USER "{{ ' ' + message['content'] + eos_token }}" END, " ", "", false},
};

static bool mistral_recognise(const struct template_tokens *tokens, struct arena *arena,
                              struct chat_words *words)
{
    struct template_tokens *shape = arena_alloc(arena, sizeof *shape);
    struct template_holes holes;
    if (!shape || words->bos.size_bytes == 0 || words->eos.size_bytes == 0)
        return false;
    for (size_t i = 0; i < array_count(shapes); i++) {
        chat_shape_read(shapes[i].shape, arena, shape);
        if (!template_matches(tokens, 0, shape, &holes))
            continue;
        size_t behind = strlen(shapes[i].behind);
        char *after = arena_alloc(arena, words->eos.size_bytes + behind);
        if (!after)
            return false;
        memcpy(after, words->eos.data, words->eos.size_bytes);
        memcpy(after + words->eos.size_bytes, shapes[i].behind, behind);
        words->after_answer = (struct span){after, words->eos.size_bytes + behind};
        words->before_answer = span_of(shapes[i].before);
        words->alternates = shapes[i].alternates;
        return true;
    }
    return false;
}

static enum status mistral_check(const struct chat_words *words,
                                 const struct chat_message *messages, size_t n_messages,
                                 struct error *error)
{
    char field[64];
    for (size_t i = 0; i < n_messages; i++) {
        enum chat_role role = messages[i].role,
                       wanted = i % 2 ? CHAT_ROLE_ASSISTANT : CHAT_ROLE_USER;
        snprintf(field, sizeof field, "messages[%zu].role", i);
        if (role == CHAT_ROLE_SYSTEM)
            return error_field(error, field,
                               "this model's chat template has no system turn, expected user or "
                               "assistant");
        if (words->alternates && role != wanted)
            return error_field(error, field,
                               "this model's chat template lets user and assistant take turns, "
                               "expected %s, got %s",
                               chat_role_name(wanted), chat_role_name(role));
    }
    snprintf(field, sizeof field, "messages[%zu].role", n_messages - 1);
    if (messages[n_messages - 1].role != CHAT_ROLE_USER)
        return error_field(error, field,
                           "the last message must be the user's for the assistant to answer");
    return STATUS_OK;
}

static void mistral_write(struct chat_writer *writer, const struct chat_message *messages,
                          size_t n_messages)
{
    const struct chat_words *words = writer->words;
    chat_write_template(writer, words->bos);
    for (size_t i = 0; i < n_messages; i++) {
        bool user = messages[i].role == CHAT_ROLE_USER;
        chat_write_template(writer, user ? span_of("[INST] ") : words->before_answer);
        chat_write_content(writer, messages[i].content);
        chat_write_template(writer, user ? span_of(" [/INST]") : words->after_answer);
    }
}

const struct chat_form chat_form_mistral = {"mistral", mistral_recognise, mistral_check,
                                            mistral_write};
