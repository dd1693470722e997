/* courtesies: what clients of Redis ask beside their work, and what needs no actor to be answered.
 *
 * HELLO, AUTH, CLIENT, COMMAND, CONFIG GET, INFO, PING, ECHO, SELECT, QUIT, and the frame of a transaction: MULTI and
 * DISCARD; EXEC is the door's. Each has Redis's own answer, or error, where redis-cli, redis-benchmark and redis-py look
 * at it, and is as short as they allow elsewhere.
 */
#ifndef CFFI_CDEF
#pragma once
#include "door.h"

struct gate;
/* Answer, and change of the visitor what the request says of it. */
void courtesy_answer(struct gate *gate, struct visitor *visitor, uint32_t courtesy, struct text *answer);
/* Case does not count. */
int word_is(const struct resp_word *word, const char *text);
/* The bytes of a client in an error: line breaks become blanks. */
void text_quote(struct text *text, const uint8_t *bytes, uint32_t length, uint32_t length_max, int lower);
void wrong_arity(struct text *answer, const struct resp_word *name);
#endif
