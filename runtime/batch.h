/* batch: the journal's usual batch, from `persist` to the disk and to `persisted`; and one after another, with the
 * sleep between them, for as long as there is nothing else.
 *
 * It is a short run that goes on where the log ends (wire_fold), and fits the segment. Any other is
 * left to Python as it lies. What is written is the record of runtime/records.py byte for byte,
 * header and body by one write, then one sync; only then is the run released, and what is durable
 * told (I4). A write or a sync that fails is not tried again: the caller ends the process.
 *
 * The journal's state is given before a call and taken back behind it (batches.py). Left to the caller as well: a
 * PERSISTED slot for which the ring had no room.
 */
#ifndef CFFI_CDEF
#pragma once
#include "calls.h"
#include "wire.h"
#endif

struct batch {
    /* given once */
    const struct shm_calls *calls;
    struct ring_end *persist, *persisted;
    struct doorbell *bell;                             /* that the process sleeps on */
    uint64_t bytes_max;                                /* a longer run is another one */
    uint64_t *write_ns, *fsync_ns, *batch_bytes;       /* histograms; NULL: nobody counts */
    uint64_t *batches, *bytes, *syncs, *durable_index; /* words, counted with them */
    /* the segment: its file and seed, where the next record goes, and up to where one may go: its end, and
     * the offset at which the journal notes a place */
    int file;
    uint32_t seed;
    uint64_t offset, end, place_at;
    /* the log, and all that was ever taken of `persist` */
    uint64_t last, last_term, term, voted_for, commit, persist_bytes;
    /* found: of the last batch that was taken */
    int64_t last_time_ns;             /* if it had entries */
    uint64_t synced_at_ns;
    uint32_t told;                    /* PERSISTED is in its ring */
    uint32_t failed_sync;             /* of an errno: the sync it was, not the write */
};

/* The bytes that were taken of `persist`; 0: nothing is there, or another batch than the usual; a
 * negative errno; BATCH_BROKEN if a ring refused. */
int64_t batch_take(struct batch *batch);

/* When batch_run is left behind a batch. */
struct batch_limits {
    uint64_t offset;                  /* from here on the journal prepares more of its files */
    uint64_t persist_bytes;           /* so much was taken: the journal looks at the disk */
    uint64_t until_ns;                /* the monotonic clock */
    int64_t quiet_ns;                 /* how long is slept behind a batch */
};

/* Sleep on the bell as doorbell_wait does, take what is usual, and go on like that. The answer of the last sleep,
 * which is DOORBELL_READY when there is something for the caller; a negative errno; BATCH_BROKEN; BATCH_BELL if the
 * bell refused. */
int64_t batch_run(struct batch *batch, const struct batch_limits *limits, int64_t spin_ns, int64_t timeout_ns);

enum batch_error { BATCH_BROKEN = -1000000, BATCH_BELL = -1000001 };

/* zlib's crc32: for tests. */
uint32_t batch_crc(uint32_t crc, const uint8_t *bytes, uint64_t size);
