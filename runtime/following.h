/* following: the steady turns of a follower, from wake-up to wake-up without Python.
 *
 * While the leader of a term goes on where the log ends, what a follower does is arithmetic: entries on `receive` go to
 * `persist`, are acknowledged on `send` once they are durable, and go to `apply` once they are committed as well; heartbeats are
 * answered. These are the numbers of that arithmetic. One owner at a time: Python gives them (following.py, `enter`), C turns and
 * waits, Python takes them back (`leave`) and is where it would be had it done every turn itself.
 *
 * Guarantees: a turn is everything that lies in `persisted`, `applied` and `receive`, as one of Python's is, or it is not
 * begun: it is worked out on a copy of the numbers, with a look at the room for all that it puts out, before anything is taken or
 * written. Whatever is not plain is left to Python as it lies: another term, source or kind of message; entries that do not
 * begin where the log ends, or are of a kind that means something to Raft; a run that is long, a ring that is full. What is written
 * to the rings are the bytes that Python writes. An acknowledgement goes out when the write is durable that holds what it vouches
 * for, as raft/core.py counts writes (I4). No commit index goes to `persist` that passes what is durable, and nothing to `apply`
 * that is not committed and durable (I5, I6). No ring is waited on (I12).
 *
 * Left to Python: everything else, and what is due at a tick: so elections are Python's alone.
 */
#ifndef CFFI_CDEF
#pragma once
#include "carrier.h"
#include "wire.h"
#endif

#define FOLLOWING_INPUTS 6
#define FOLLOWING_ENTRIES 1024  /* of one stay */
#define FOLLOWING_WRITES 256    /* not known to be durable */
#define FOLLOWING_REPLIES 256   /* that wait for one */
#define FOLLOWING_DIGESTS_BYTES 4096
#define FOLLOWING_SAID_BYTES 16384 /* in one turn */

/* Of the inputs, in this order: bits of what may be there. */
enum following_input {
    FOLLOWING_READ = 1, FOLLOWING_PERSISTED = 2, FOLLOWING_APPLIED = 4,
    FOLLOWING_RECEIVE = 8, FOLLOWING_BULK_RECEIVE = 16, FOLLOWING_INGRESS = 32
};

/* Why a stay, or a turn, ended. */
enum following_reason {
    FOLLOWING_IDLE = 0,    /* of a turn: nothing is there */
    FOLLOWING_DONE = 1,    /* of a turn: all that was there is done */
    FOLLOWING_DUE = 2,     /* the time that was given */
    FOLLOWING_OTHER = 3,   /* something that is not plain */
    FOLLOWING_FULL = 4,    /* no room, in a ring or here */
    FOLLOWING_SIGNAL = 5,
    FOLLOWING_BROKEN = 6   /* a ring or the bell refused: looking at it from Python says why */
};

/* A write that the journal has not confirmed, with the log's end and the commit index that it brings. */
struct following_write { uint64_t handed_bytes, sequence, last, commit; };

/* An acknowledgement up to `index` that waits for the write `sequence`. */
struct following_reply { uint64_t sequence, index; };

/* What a turn changes; words as in raft/core.py. The last write that was given holds the whole log. */
struct following_numbers {
    uint64_t last, commit;
    uint64_t durable, durable_commit, persisted;
    uint64_t given_commit, sequence, handed_bytes;
    uint64_t applying, applied;
    uint64_t digest;               /* logic's last, like the next */
    int64_t deadline_ns;
    uint64_t given_bytes;          /* what logic was given, as snapshot_points.py counts */
    uint64_t digests_first;        /* the entry that the first of `digests` belongs to */
    uint32_t digests_bytes;
    uint32_t heard;                /* the leader has spoken */
    uint32_t entries;              /* in `slots` */
    uint32_t write_first, write_count, reply_first, reply_count; /* in their circles */
};

struct following {
    /* given once */
    const struct shm_calls *calls;
    struct doorbell *bell;
    struct ring_end *inputs[FOLLOWING_INPUTS];
    struct ring_end *persist, *apply, *send;
    uint64_t persist_bytes, apply_bytes, send_bytes; /* what the three rings hold */
    uint64_t run_bytes_max;                          /* of one input in one turn */
    uint64_t slot_bytes_max;                         /* what `persist` and `apply` take */
    uint64_t slots_bytes_max;
    struct carrier_layout layouts[16];               /* CARRIER_TAGS */
    uint64_t *commit_count, *applied_count;          /* counters */
    /* given and taken back */
    uint64_t id, leader, term, vote;
    uint32_t tag;                                    /* of entries to logic */
    uint64_t first;                                  /* the entry that `slots` begin with */
    struct following_numbers now;
    struct following_write writes[FOLLOWING_WRITES];
    struct following_reply replies[FOLLOWING_REPLIES];
    uint64_t turns;                                  /* of this stay, and those that did something */
    /* ENTRY slots side by side: what logic lacked when the stay began, and what came since. */
    uint8_t *slots;
    uint32_t begins[1025];                           /* FOLLOWING_ENTRIES, and where the next would lie */
    uint8_t digests[FOLLOWING_DIGESTS_BYTES];
    uint8_t said[FOLLOWING_SAID_BYTES];
};

/* One turn. */
int following_turn(struct following *following);

/* Turn and wait until something is there that is not plain, or `until_ns` has come. */
int following_run(struct following *following, int64_t until_ns, int64_t spin_ns);
