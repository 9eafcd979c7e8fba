/*
 * chat_form: a family of chat templates: how it is recognised and how it is written.
 *
 * Private to the room. A form looks at the tokens of a model's template and says whether it is one
 * of its shapes; what differs among the shapes it keeps in `struct chat_words`. Rendering uses
 * these words alone. Immutable; any thread.
 */
#pragma once

#include "text/chat.h"
#include "text/chat_template.h"

struct chat_words {
    struct span bos, eos;      /* as text */
    struct span first_system;  /* put first when the conversation has no system turn */
    struct span before_answer; /* around what the assistant said before */
    struct span after_answer;
    bool alternates; /* the template refuses two turns of one side in a row */
};

/* Pieces under way. */
struct chat_writer {
    const struct chat_words *words;
    struct text_piece *pieces; /* [pieces_max] */
    size_t pieces_count;
    size_t pieces_max;
};

/* Appends text of the template, where special tokens are meant; nothing when it is empty. */
void chat_write_template(struct chat_writer *writer, struct span text);
/* Appends what somebody wrote. */
void chat_write_content(struct chat_writer *writer, struct span text);

struct chat_form {
    const char *name;
    /* Does the template have one of the form's shapes? Words may be borrowed from `arena`. */
    bool (*recognise)(const struct template_tokens *tokens, struct arena *arena,
                      struct chat_words *words);
    /* Refuses an order of roles that the template does not allow, naming the message. */
    enum status (*check)(const struct chat_words *words, const struct chat_message *messages,
                         size_t n_messages, struct error *error);
    /* At most CHAT_PIECES_EACH pieces for each message and CHAT_PIECES_MORE beside. */
    void (*write)(struct chat_writer *writer, const struct chat_message *messages,
                  size_t n_messages);
};

#define CHAT_PIECES_EACH 3
#define CHAT_PIECES_MORE 2

extern const struct chat_form chat_form_chatml;
extern const struct chat_form chat_form_llama3;
extern const struct chat_form chat_form_mistral;

/* As chat_open, of a template's text (empty: there is none). */
enum status chat_open_text(struct span text, const struct tokenizer *tokenizer,
                           struct chat **ret_chat, struct error *error);

/* Reads the text of a shape; it must be readable. */
void chat_shape_read(const char *text, struct arena *arena, struct template_tokens *ret_shape);

/* "system", "user", "assistant"; NULL for another role. */
const char *chat_role_name(enum chat_role role);
