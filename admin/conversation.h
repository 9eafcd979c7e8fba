/*
 * conversation: the turns of a chat, as they are sent with each question and saved.
 *
 * A system turn, if there is one, stands before all others and stays when the rest is cleared. The
 * conversation owns copies of its texts. Nothing is ever left out: a conversation that has become
 * too long for the model is refused by the daemon, and its owner says so. One thread.
 */
#pragma once

#include "base/status.h"
#include "proto/inference.pb-c.h"

struct conversation;

struct conversation *conversation_new(void);        /* never NULL */
void conversation_free(struct conversation *turns); /* NULL is allowed */

/* NULL or "" takes the system turn away. */
void conversation_set_system(struct conversation *turns, const char *text);
void conversation_add(struct conversation *turns, Galerne__V1__Role role, const char *text);
void conversation_drop_last(struct conversation *turns); /* there must be one */
void conversation_clear(struct conversation *turns);     /* the system turn stays */

/* Without the system turn. */
size_t conversation_count(const struct conversation *turns);

/* Points *ret_prompt at the turns, until the next change. */
void conversation_prompt(struct conversation *turns, Galerne__V1__ChatPrompt *ret_prompt);

/* Writes a new file, readable by its owner: a JSON array of {"role", "content"}. INVALID: it is
 * there already; IO: it cannot be written. */
enum status conversation_save(const struct conversation *turns, const char *path,
                              struct error *error);
