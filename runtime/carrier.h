/* carrier: the fast road of one message link between replicas, in C: what is plainly fine goes straight from the socket to
 * `receive`, and from `send` to the socket.
 *
 * A link belongs to Python (peers.py), which makes it, greets, judges, speaks TLS, and ends it. Once it is OPEN and speaks
 * plain bytes, Python attaches a carrier. From then on Python is asked (`asks`) only for what is not plainly fine: the
 * connection ended or broke, bytes that are no message this carrier knows well, a message for which `receive` has no room, a
 * socket that does not take all. The bytes in question are handed over as they came, and Python deals with them as it does
 * without a carrier: so nothing is refused here, and there is one place that says why.
 *
 * Guarantees: a message that is carried would have passed raft_messages.check, from the replica at the other end to this one;
 * order is kept on both roads, since a carrier that is `held` (Python has something to send first) sends nothing, and what
 * was received stays here until it has gone one of the two ways. Memory is bounded: one frame of the greatest length and one
 * read behind it. Nothing blocks. One thread only.
 */
#ifndef CFFI_CDEF
#pragma once
#include "calls.h"
#include <stdint.h>
#endif

/* How a kind of message lies in its slot; by tag. `numbers` 0: there is none of this tag. */
struct carrier_layout { uint8_t numbers, flags, tail; };
enum carrier_tail { CARRIER_NO_TAIL = 0, CARRIER_ENTRIES = 1, CARRIER_BYTES = 2 };

struct carrier {
    int fd;
    uint32_t asks;          /* Python is wanted */
    uint32_t lost;          /* ... since nothing more can be read */
    uint32_t held;          /* Python sends first */
    uint64_t peer, own;     /* the replicas at the ends */
    uint64_t frame_bytes_max, read_bytes_max;
    uint64_t heard_ns, said_ns;
    uint64_t messages_in, messages_out; /* totals */
    uint64_t input_bytes;   /* received and not carried yet */
    uint64_t unsent_bytes;  /* of the last message: Python sends them */
    uint8_t *input;
    uint8_t *unsent;
};

enum { CARRIER_TAGS = 16 };

struct carrier *carrier_new(uint64_t frame_bytes_max, uint64_t read_bytes_max);
void carrier_free(struct carrier *carrier);

/* Whether a slot, without its padding, is a message from `source` to `target` that is plainly fine. */
int carrier_passes(const struct carrier_layout *layouts, const uint8_t *slot, uint64_t bytes,
                   uint64_t source, uint64_t target);

#ifndef CFFI_CDEF
/* Read once, and carry what came to the ring. */
void carrier_receive(struct carrier *carrier, const struct carrier_layout *layouts,
                     const struct shm_calls *calls, struct ring_end *ring, uint64_t now_ns);
/* Send the RAFT_MESSAGE slots to this peer that the run begins with. Returns their bytes; 0: it cannot now. */
uint64_t carrier_send(struct carrier *carrier, const uint8_t *run, uint64_t bytes, uint64_t now_ns);
#endif
