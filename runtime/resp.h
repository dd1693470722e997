/* resp: requests of RESP2 in, replies of RESP2 out, and the msgpack between them and the actors.
 *
 * Pure: bytes in, bytes out, no allocation but for the growth of a `text`, no system call. Client bytes are hostile: the
 * parser says READY, INCOMPLETE or BROKEN with the text that Redis has for it, and never looks past `available`. A request
 * has at most request_bytes_max bytes, and a place for each of its words is the caller's.
 *
 *   request  "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"  or inline, "GET k\r\n", with quotes as redis-cli has them
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>
#include <string.h>

struct resp_word { const uint8_t *at; uint32_t length; };

enum resp_state { RESP_INCOMPLETE = 0, RESP_READY = 1, RESP_BROKEN = -1 };

struct resp_request {
    struct resp_word *words;  /* in: words_max places */
    uint32_t words_max;
    uint8_t *arena;           /* in: request_bytes_max bytes, for the words of an inline request */
    uint32_t request_bytes_max;
    uint32_t count;           /* out: words; 0 for a request that says nothing */
    uint32_t bytes;           /* out: how long the request is */
    char error[80];           /* out: of a BROKEN one, without ERR and line break */
};

int resp_parse(struct resp_request *request, const uint8_t *bytes, uint64_t available);

/* A signed 64-bit numeral as Redis reads one: no sign but '-', no leading zero, no blank. 0, or -1. */
int resp_integer(const uint8_t *at, uint32_t length, int64_t *value);

/* Bytes that grow. `failed`: there was no memory; everything after that is dropped. */
struct text { uint8_t *at; uint32_t length, capacity; int failed; };

uint8_t *text_room(struct text *text, uint32_t bytes);
void text_add(struct text *text, const void *bytes, uint32_t length);
void text_print(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_bulk(struct text *text, const void *bytes, uint32_t length);
void text_free(struct text *text);

/* msgpack */
void pack_array(struct text *text, uint32_t count);
void pack_map(struct text *text, uint32_t count);
void pack_text(struct text *text, const void *bytes, uint32_t length);
void pack_binary(struct text *text, const void *bytes, uint32_t length);
void pack_integer(struct text *text, int64_t value);
void pack_real(struct text *text, double value);
/* One msgpack value as a RESP2 reply: a map is an array of its keys and values, and a map of one field is that field's
 * value. Returns the bytes that the value takes, or -1 if it is none. */
int64_t resp_reply(struct text *text, const uint8_t *at, uint64_t available);
/* One RESP2 reply as RESP3 has it: nil is another one, and with `maps` an array is a map. The bytes it takes, or -1. */
int64_t resp_lift(struct text *text, const uint8_t *at, uint64_t available, int maps);
/* The array or binary head at this place: 0, its count and its own bytes; or -1. */
int unpack_array(const uint8_t *at, uint64_t available, uint32_t *count, uint32_t *head);
int unpack_binary(const uint8_t *at, uint64_t available, uint32_t *length, uint32_t *head);
int unpack_unsigned(const uint8_t *at, uint64_t available, uint64_t *value, uint32_t *head);
#endif
