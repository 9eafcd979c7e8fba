/*
 * chat: from messages to the pieces of a prompt, by the model's own template.
 *
 * Templates are recognised, not interpreted: chat_open reads the template text in the model's files
 * (chat_template.jinja, else tokenizer_config.json; GGUF: tokenizer.chat_template), cuts it into
 * the tokens of its language and compares them with those of known templates. Spaces within tags,
 * kinds of quotes and the like do not count; anything else does (text/chat_template.h). Known are:
 *
 *   chatml    the plain loop over turns, with or without a default system turn, whose text is taken
 *             from the template (SmolLM2, Qwen 1.5 and 2; later Qwen templates with tools are not)
 *   llama3    Llama 3's headers and <|eot_id|>, as Llama-3-8B-Instruct came (the longer templates
 * of 3.1 and later, with tools and dates, are not) mistral   [INST] turns without a system turn, as
 * Mistral-7B-Instruct and Mixtral-8x7B-Instruct first came, and the demo's
 *
 * Any other template, however similar, gives a chat that refuses to render, by name, and never
 * renders wrongly; text and ids prompts still work.
 *
 * Immutable after chat_open; any thread.
 */
#pragma once

#include "base/arena.h"
#include "text/tokenizer.h"

struct chat;

enum chat_role { CHAT_ROLE_UNSPECIFIED = 0, CHAT_ROLE_SYSTEM, CHAT_ROLE_USER, CHAT_ROLE_ASSISTANT };

struct chat_message {
    enum chat_role role;
    struct span content; /* valid UTF-8 */
};

/* Succeeds also when there is no template or it is unknown (see chat_name); fails only for
 * unreadable files. `path` as in tokenizer_open. */
enum status chat_open(const char *path, const struct tokenizer *tokenizer, struct chat **ret_chat,
                      struct error *error);
void chat_close(struct chat *chat);

/* "chatml", "llama3", "mistral", or "none", "unknown". */
const char *chat_name(const struct chat *chat);

/*
 * The prompt for the assistant's next turn, as pieces out of `arena` (which must outlive them).
 * It holds the BOS token's text if the template puts one. INVALID for an empty list, roles in an
 * order that the template does not allow, an empty role; UNSUPPORTED if the template is unknown or
 * absent; EXHAUSTED if the arena is full.
 */
enum status chat_render(const struct chat *chat, const struct chat_message *messages,
                        size_t n_messages, struct arena *arena,
                        const struct text_piece **ret_pieces, size_t *ret_n_pieces,
                        struct error *error);
