/* layout: the slots that the fold reads and writes, as they lie in memory; layout.py tells what they mean.
 *
 * All are little-endian, which the processors we run on are; slots are copied into these and never pointed at,
 * so where they lie does not matter. What follows the head of a slot (key, body) is not told here.
 */
#pragma once
#include <stdint.h>

enum {
    COMMAND_BYTES = 40,
    REPLY_BYTES = 48,
    EVENT_BYTES = 40,
    SESSION_ID_BYTES = 16,
    TYPE_COMMAND = 3,
    TYPE_REPLY = 17,
    TYPE_EVENT = 19,
};

enum status {
    STATUS_OK = 0,
    STATUS_OUT_OF_ORDER = 4,
    STATUS_SESSION_EXPIRED = 5,
    STATUS_BAD_REQUEST = 7,
    STATUS_WINDOW_EXCEEDED = 8,
    STATUS_ANSWER_FORGOTTEN = 11,
    STATUS_REPLY_TOO_LARGE = 12,
    STATUS_SKIPPED = 13,
    STATUSES = 16,
};

struct command {
    uint32_t length;
    uint16_t type, tag; /* tag: message id */
    uint8_t session[SESSION_ID_BYTES];
    uint64_t request;
    uint32_t unanswered;
    uint16_t key_length, version;
};

struct reply {
    uint32_t length;
    uint16_t type, tag;
    uint8_t session[SESSION_ID_BYTES];
    uint64_t request, index;
    uint32_t ordinal;
    uint16_t status, version; /* of the reply's message */
};

struct event {
    uint32_t length;
    uint16_t type, tag;
    uint64_t index;
    uint32_t ordinal, number;
    uint16_t actor_type, key_length;
    uint32_t version; /* of the event's message */
    int64_t time_ns;
};

_Static_assert(sizeof(struct command) == COMMAND_BYTES, "as in layout.py");
_Static_assert(sizeof(struct reply) == REPLY_BYTES, "as in layout.py");
_Static_assert(sizeof(struct event) == EVENT_BYTES, "as in layout.py");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slots are little-endian");
