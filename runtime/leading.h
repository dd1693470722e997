/* leading: the plainly usual turns of a leader, from wake-up to wake-up without Python.
 *
 * While nothing changes in its term, what a leader does with a batch is arithmetic: commands from `ingress` become an entry
 * that goes to `send`, once for each peer that has all before it, and to `persist`; what the journal says on `persisted`, and
 * peers on `receive`, moves the commit index, by majority; what is committed and durable goes to `apply`; what logic says on
 * `applied` ends it. Queries of one that leads alone go to `apply` at once while logic has all that was ever proposed.
 * This struct holds the numbers of that arithmetic. One owner at a time: Python gives them all (leading.py, `enter`), C turns
 * and waits, Python takes them back (`leave`) and is where it would be had it done every turn itself.
 *
 * Guarantees: a turn is C's from its beginning to its end, or it is not begun: every ring is looked at first, and what is not
 * plain (a slot of another type, a full ring, a number out of its place, a tick or a timer that is due) is left to Python as
 * it lies. What is written to the rings are the bytes that Python writes. Nothing is given to `apply` that is not committed and
 * durable (I4, I5), no commit index to `persist` that passes what is durable (I6), and no ring is waited on (I12).
 *
 * Left to Python: everything else, and what is due at a tick.
 */
#ifndef CFFI_CDEF
#pragma once
#include "calls.h"
#include "wire.h"
#endif

enum {
    LEADING_ENTRIES = 4096,    /* of one stay */
    LEADING_WRITES = 1024,     /* not known to be durable */
    LEADING_REACHED = 1024,
    LEADING_INPUTS = 6,
    LEADING_PEERS = 8,
    LEADING_FLIGHTS = 64       /* messages to one peer that are not answered */
};

/* Of the inputs, in this order: bits of what may be there. */
enum leading_input {
    LEADING_READ = 1, LEADING_PERSISTED = 2, LEADING_APPLIED = 4,
    LEADING_RECEIVE = 8, LEADING_BULK_RECEIVE = 16, LEADING_INGRESS = 32
};

/* Why a stay ended. */
enum leading_reason {
    LEADING_DUE = 1,           /* the time that was given */
    LEADING_OTHER = 2,         /* something that is not plain */
    LEADING_FULL = 3,          /* no room, in a ring or here */
    LEADING_SIGNAL = 4,
    LEADING_BROKEN = 5         /* a ring or the bell refused in the midst of it */
};

/* An entry of this stay, or one that was in flight at its beginning. */
struct leading_entry {
    uint64_t since_ns;         /* when it was put into the log */
    uint64_t at;               /* its ENTRY slot in `slots` */
    uint32_t body_bytes;
    uint32_t count;            /* of the commands in it; 0: it is none of a client's */
};

/* A write that the journal has not confirmed, with the log's end and the commit index that it brings. */
struct leading_write { uint64_t handed_bytes, sequence, last, commit; };

/* What became durable, and when; noted in the figures with the next that is applied. */
struct leading_reached { uint64_t through, now_ns; };

struct leading_flight { uint64_t last, bytes; };

/* Another replica, as progress.py sees it. One that does not keep up is sent nothing and only counts with what it has. */
struct leading_peer {
    uint64_t id;
    uint32_t votes;
    uint32_t keeps_up;         /* when the stay began it had been sent all, on the ordinary flow */
    uint32_t spoke;            /* in this stay */
    uint32_t unused;
    uint64_t match, next, round;
    uint64_t flight_first, flight_count, flight_bytes;
    struct leading_flight flights[64]; /* LEADING_FLIGHTS, from flight_first on */
};

struct leading {
    /* given once */
    const struct shm_calls *calls;
    struct doorbell *bell;
    struct ring_end *inputs[6];            /* LEADING_INPUTS */
    struct ring_end *persist, *apply, *send;
    uint64_t persist_bytes, apply_bytes;   /* what the two rings hold */
    uint64_t frame_bytes_max;              /* the least room for an entry, and for queries */
    uint64_t entry_bytes_max, entry_count_max;
    uint64_t in_flight_max, unapplied_max, unapplied_bytes_max;
    uint64_t slots_bytes_max, queries_bytes_max, digests_bytes_max, told_bytes_max;
    uint8_t *slots, *queries, *digests, *told;
    uint64_t *commands_count, *entries_count, *commit_count, *applied_count; /* counters */
    uint64_t *entry_bytes, *durable_ns, *applied_ns;                         /* histograms */
    uint64_t *durable_trail, *applied_trail;                                 /* of trail.py; NULL: none is left */
    uint64_t trail_rows;
    /* given and taken back */
    uint64_t id, term;
    int64_t log_ns, monotonic_ns;          /* where log time began */
    uint64_t first, last;                  /* of `entries`: the first that was not applied when the stay began */
    int64_t last_time_ns;
    uint64_t durable, commit, applying, applied, fed;
    uint64_t durable_commit, given_commit; /* commit index on disk, and in what was given to it */
    uint64_t sequence, persisted;          /* of writes: the last that was given, and the last that is durable */
    uint64_t handed_bytes;
    uint64_t unfed_bytes, unapplied_bytes;
    uint64_t undurable, undurable_count;   /* the first entry not noted as durable; how many of clients there are */
    uint64_t write_first, write_count, reached_count;
    uint64_t digest;                       /* logic's last */
    int64_t deadline_ns, timer_due_ns;     /* log time that logic waits for, or -1; and when that is */
    uint64_t time_entry;
    uint32_t repeats;                      /* each write says the hard state */
    uint32_t heard;                        /* subscriptions change nothing any more */
    uint64_t flights_max, flight_bytes_max; /* to one peer */
    uint64_t peers_count, majority;        /* of the voters, this replica among them */
    /* of one stay */
    uint64_t slots_bytes;
    uint64_t unwritten_at, unwritten_bytes; /* in `slots`: what `persist` had no room for */
    uint64_t given_bytes;                  /* what logic was given, as snapshot_points.py counts */
    uint64_t reads;                        /* runs of queries */
    uint64_t digests_first, digests_bytes;
    uint64_t told_bytes;                   /* in `told`: the peers' digests, slot by slot */
    uint64_t dropped;                      /* messages that `send` had no room for */
    uint64_t turns;
    struct leading_peer peers[8];          /* LEADING_PEERS */
    struct leading_entry entries[4096];    /* LEADING_ENTRIES, by index - first */
    struct leading_write writes[1024];     /* LEADING_WRITES, from write_first on */
    struct leading_reached reached[1024];  /* LEADING_REACHED */
};

/* Turn and wait until something is there that is not plain, or `until_ns` has come. Returns a leading_reason. */
int leading_run(struct leading *leading, int64_t until_ns, int64_t spin_ns);

#ifndef CFFI_CDEF
static inline struct leading_entry *leading_entry(struct leading *leading, uint64_t index)
{
    return &leading->entries[index - leading->first];
}

/* The peers' part of a turn, in leading_peers.c. Whether all messages of a run are plain; */
int leading_messages_are_plain(struct leading *leading, const uint8_t *run, uint64_t bytes);
/* what follows from them: whether something was sent; */
int leading_take_messages(struct leading *leading, const uint8_t *run, uint64_t bytes);
/* the entry just proposed, to each that has all before it; */
void leading_replicate(struct leading *leading);
/* and what a majority of the voters has, this disk among them (`_advance_commit` of raft/core.py). */
void leading_advance_commit(struct leading *leading);
#endif
