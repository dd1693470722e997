/* wire: what a frame looks like, and the work on whole runs of slots that needs no connection.
 *
 * A frame on a socket, a slot in a ring and a record in an entry's body are the same bytes
 * (little-endian): u32 length, u16 type, u16 tag, then fields by type. On a socket frames follow
 * each other unpadded; in a run every slot is padded with zero bytes to a multiple of 8.
 *
 * Here: checking one client frame, separating an ingress run for consensus, refusing a run, folding
 * one for the journal, and counting replies for the load tools. All pure: bytes in, bytes out, no allocation, no system
 * call. Client bytes are hostile and are checked; run bytes were checked before they entered a
 * ring, so a malformed run is our bug and is reported as -1 for the caller to assert on.
 * What belongs to connections is in gate.h.
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>
#include <string.h>
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slots are little-endian");
#endif

enum wire_type {
    WIRE_PADDING = 0,
    WIRE_HELLO = 1,
    WIRE_OPEN = 2,
    WIRE_COMMAND = 3,
    WIRE_CLOSE = 4,
    WIRE_QUERY = 5,
    WIRE_SUBSCRIBE = 6,
    WIRE_UNSUBSCRIBE = 7,
    WIRE_PING = 8,
    WIRE_WELCOME = 16,
    WIRE_REPLY = 17,
    WIRE_ANSWER = 18,
    WIRE_EVENT = 19,
    WIRE_SUBSCRIBED = 20,
    WIRE_EVENTS_LOST = 21,
    WIRE_REFUSED = 22,
    WIRE_ERROR = 23,
    WIRE_PONG = 24,
    WIRE_DRAIN = 38,
    WIRE_ENTRY = 32,
    WIRE_HARD_STATE = 33,
    WIRE_RAFT_MESSAGE = 41,
    WIRE_CONTROL = 50,         /* an operator's request: COMMAND's layout, numbered like queries */
    WIRE_PEERS = 54
};

enum wire_error {
    WIRE_FINE = 0,
    WIRE_NO_HELLO = 1,
    WIRE_WRONG_VERSION = 2,
    WIRE_WRONG_CLUSTER = 3,
    WIRE_UNKNOWN_TYPE = 4,
    WIRE_BAD_LENGTH = 5,
    WIRE_ZERO_SESSION = 6,
    WIRE_BAD_KEY = 7,
    WIRE_TOO_MANY_SESSIONS = 8,
    WIRE_TOO_MANY_SUBSCRIPTIONS = 9,
    WIRE_SLOW_READER = 10,
    WIRE_IDLE = 11,
    WIRE_TOO_MANY_CONNECTIONS = 12,
    WIRE_STOPPING = 13,
    WIRE_OUT_OF_MEMORY = 14,
    WIRE_BAD_TOKEN = 15,
    WIRE_NO_ANSWER = 16        /* to visitors only */
};

enum {
    WIRE_HEADER_BYTES = 8,
    WIRE_SESSION_OFFSET = 8,
    WIRE_REQUEST_OFFSET = 24,
    WIRE_COMMAND_BYTES = 40,   /* fixed part of COMMAND, QUERY, CONTROL; all of OPEN, CLOSE */
    WIRE_REPLY_BYTES = 48,     /* fixed part of REPLY and ANSWER */
    WIRE_EVENT_BYTES = 40,
    WIRE_SUBSCRIBE_BYTES = 56,
    WIRE_SUBSCRIBED_BYTES = 48,
    WIRE_UNSUBSCRIBE_BYTES = 32,
    WIRE_REFUSED_BYTES = 32,
    WIRE_HELLO_BYTES = 32,     /* then the token, if the client has one */
    WIRE_TOKEN_BYTES_MAX = 64,
    WIRE_WELCOME_BYTES = 40,
    WIRE_PING_BYTES = 16,
    WIRE_VERSION = 1
};

/* Check what `available` bytes of a client's frame show so far: type, length, and, once the fixed
 * part is there, session and key. Returns a wire_error; fewer than 8 bytes are always fine. */
int wire_check(const uint8_t *frame, uint64_t available, uint32_t frame_bytes_max,
               uint32_t key_bytes_max);

/* Separate an ingress run into an entry's body and the rest, for the consensus process. */
struct wire_separation {
    const uint8_t *run;        /* in: whole padded slots, as peeked */
    uint64_t run_bytes;
    uint8_t *body;             /* in: where OPEN, COMMAND and CLOSE slots go, contiguous */
    uint64_t body_bytes_max;
    uint64_t body_count_max;
    uint8_t *queries;          /* in: where QUERY and SUBSCRIBE slots go */
    uint64_t queries_bytes_max;
    uint8_t *controls;         /* in: where CONTROL slots go */
    uint64_t controls_bytes_max;
    uint64_t consumed_bytes;   /* out: how much of the run was taken; the rest did not fit */
    uint64_t body_bytes;
    uint64_t body_count;
    uint64_t queries_bytes;
    uint64_t queries_count;
    uint64_t controls_bytes;
    uint64_t drain;            /* out: 1 if a DRAIN slot was consumed; nothing behind it was */
};

/* 0, or -1 for a malformed run (our bug). Stops at the first slot that does not fit. */
int wire_separate(struct wire_separation *separation);

/* What a run of ENTRY and HARD_STATE slots makes of a journal's contents, for the usual case: its
 * entries go on where the log ends, in the term of the last one, and none is of a kind that the
 * journal must read. */
struct wire_fold {
    const uint8_t *run;
    uint64_t run_bytes;
    uint64_t last;         /* in: the log's last index; out: after the run */
    uint64_t last_term;    /* in: the term of that index */
    uint64_t first;        /* out: the index of the run's first ENTRY, 0 without one */
    int64_t last_time_ns;  /* out: of the run's last ENTRY */
    uint64_t term;         /* out: of the run's last HARD_STATE, like the next two */
    uint64_t voted_for;
    uint64_t commit;
    uint64_t hard_states;  /* out: how many there are */
};

/* 1: done. 0: the run is not of that sort, or malformed; nothing of `out` means anything. */
int wire_fold(struct wire_fold *fold);

/* Turn a run of client slots into REFUSED slots, one for each, same order. */
struct wire_refusal {
    const uint8_t *run;        /* in */
    uint64_t run_bytes;
    uint8_t *refused;          /* in: where the REFUSED slots go */
    uint64_t refused_bytes_max;
    const uint8_t *text;       /* in: the hint, UTF-8, at most 1024 bytes */
    uint64_t text_bytes;
    uint64_t reason;           /* in: 1 not leader, 2 not ready, 3 disk full, 4 draining */
    uint64_t consumed_bytes;   /* out */
    uint64_t refused_bytes;
    uint64_t refused_count;
};

/* 0, or -1 for a malformed run. A REFUSED slot's tag is reason | type of the refused slot << 8, so
 * that a client can tell a refused query from a refused command of the same number. */
int wire_refuse(struct wire_refusal *refusal);

/* Count the frames a gateway sent, for the load tools: their sessions end in a u64 index. */
struct wire_tally {
    uint64_t *highest;         /* in: highest request replied to, per session index */
    uint64_t sessions;         /* in: length of `highest` */
    uint64_t replies;          /* running totals */
    uint64_t failures;         /* replies whose status is not 0 */
    uint64_t refused;
    uint64_t others;
};

/* Scan unpadded frames; returns the bytes of whole frames consumed, or -1 for an impossible length. */
int64_t wire_tally_frames(struct wire_tally *tally, const uint8_t *frames, uint64_t bytes);

#ifndef CFFI_CDEF
static inline uint16_t wire_u16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
static inline uint32_t wire_u32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static inline uint64_t wire_u64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }
static inline uint32_t wire_length(const uint8_t *slot) { return wire_u32(slot); }
static inline uint16_t wire_type(const uint8_t *slot) { return wire_u16(slot + 4); }
static inline uint64_t wire_padded(uint64_t length) { return (length + 7) & ~UINT64_C(7); }

static inline void wire_header(uint8_t *at, uint32_t length, uint16_t type, uint16_t tag)
{
    memcpy(at, &length, 4);
    memcpy(at + 4, &type, 2);
    memcpy(at + 6, &tag, 2);
}

/* Copy an unpadded frame to an aligned place as a padded slot; returns the padded size. */
static inline uint64_t wire_copy_padded(uint8_t *to, const uint8_t *frame, uint64_t length)
{
    uint64_t padded = wire_padded(length);
    memcpy(to, frame, length);
    memset(to + length, 0, padded - length);
    return padded;
}

/* The padded size of the slot at the start of a run, or 0 if the run is malformed there. */
static inline uint64_t wire_slot_bytes(const uint8_t *run, uint64_t bytes)
{
    if (bytes < WIRE_HEADER_BYTES)
        return 0;
    uint64_t length = wire_length(run);
    return length < WIRE_HEADER_BYTES || wire_padded(length) > bytes ? 0 : wire_padded(length);
}
#endif
