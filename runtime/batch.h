/* batch: the journal's usual batch, from `persist` to the disk and to `persisted`, in one call.
 *
 * It is a short run that goes on where the log ends (wire_fold), and fits the segment. Any other is
 * left to Python as it lies. What is written is the record of runtime/records.py byte for byte,
 * header and body by one write, then one sync; only then is the run released, and what is durable
 * told (I4). A write or a sync that fails is not tried again: the caller ends the process.
 *
 * Left to the caller: the journal's state, which is given and taken back with each call; and a
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
    uint64_t bytes_max;                                /* a longer run is another one */
    uint64_t *write_ns, *fsync_ns, *batch_bytes;       /* histograms; NULL: nobody counts */
    uint64_t *batches, *bytes, *syncs, *durable_index; /* words, counted with them */
    /* found, for a batch that was taken */
    uint64_t last;
    int64_t last_time_ns;
    uint64_t hard_states;             /* if any, the next three are those of the last */
    uint64_t term, voted_for, commit;
    uint64_t synced_at_ns;
    uint32_t told;                    /* PERSISTED is in its ring */
    uint32_t failed_sync;             /* of an errno: the sync it was, not the write */
};

/* The bytes that were taken of `persist`; 0: nothing is there, or another batch than the usual; a
 * negative errno; BATCH_BROKEN if a ring refused.
 *
 * The segment: its file and seed, where the next record goes, and up to where one may go: its end,
 * and the offset at which the journal notes a place. The log: its last index and term, and what is
 * committed. `persist_bytes`: all that was taken before. */
int64_t batch_take(struct batch *batch, int file, uint32_t seed, uint64_t offset, uint64_t end,
                   uint64_t place_at, uint64_t last, uint64_t last_term, uint64_t commit,
                   uint64_t persist_bytes);

enum batch_error { BATCH_BROKEN = -1000000 };

/* zlib's crc32: for tests. */
uint32_t batch_crc(uint32_t crc, const uint8_t *bytes, uint64_t size);
