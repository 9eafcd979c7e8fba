/*
 * chat_template: is this template one of those that we know, whatever its spelling?
 *
 * Templates are programs in Jinja. We do not run them: we cut a template into tokens, do the same
 * with the text of a known one (a "shape"), and compare. What does not change the meaning does not
 * count: spaces within tags, kinds of quotes, 'a' + 'b' for 'ab', message.role for message['role'],
 * comments, and the white space around tags that Jinja removes as chat templates are run
 * (trim_blocks, lstrip_blocks, "-" marks). Everything else counts, so that a template that does
 * anything more or anything else than a shape is not it.
 *
 * In a shape, a string literal '?NAME' stands for any one string literal, which is kept.
 *
 * Pure functions, any thread.
 */
#pragma once

#include "base/arena.h"
#include "base/status.h"

#define TEMPLATE_TOKENS_MAX 1024
#define TEMPLATE_MAX_BYTES (64u << 10)
#define TEMPLATE_HOLES_MAX 4

enum template_kind {
    TEMPLATE_TAG,    /* {{ }} {% %} */
    TEMPLATE_WORD,   /* a name, a number, an operator */
    TEMPLATE_STRING, /* a literal, unescaped */
    TEMPLATE_TEXT,   /* between tags: put out as it is */
};

struct template_token {
    enum template_kind kind;
    struct span text;
};

struct template_tokens {
    uint32_t count;
    struct template_token tokens[TEMPLATE_TOKENS_MAX]; /* [count] */
};

struct template_holes {
    uint32_t count;
    struct span name[TEMPLATE_HOLES_MAX]; /* [count], without the "?" */
    struct span text[TEMPLATE_HOLES_MAX]; /* [count] */
};

/*
 * Cuts `text` into tokens; literals that need unescaping are copied into `arena`. False when the
 * text is no template that we can read (too long, an unknown escape, an open tag), so that it is
 * nothing that we know.
 */
bool template_read(struct span text, struct arena *arena, struct template_tokens *ret_tokens);

/* Does tokens[first..] have this shape? Fills the holes if so. */
bool template_matches(const struct template_tokens *tokens, uint32_t first,
                      const struct template_tokens *shape, struct template_holes *ret_holes);

/* Do the tokens begin with those of `start`? */
bool template_begins(const struct template_tokens *tokens, const struct template_tokens *start);

/* The text of a hole; it must be there. */
struct span template_hole(const struct template_holes *holes, const char *name);
