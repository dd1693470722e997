/* passage: what logic does around a usual entry, in two calls: take it from `apply`, and give what it put out to `egress` and
 * how far logic is to `applied`.
 *
 * Usual is a run of one entry with commands, that is not replayed: as nearly all are. Any other run is left to Python as it
 * lies, and so is what a ring has no room for. What an entry does is none of it: that is the machine's.
 */
#ifndef CFFI_CDEF
#pragma once
#include "calls.h"
#include <stdint.h>
#endif

struct passage {
    /* given once */
    const struct shm_calls *calls;
    struct ring_end *apply, *egress, *applied;
    uint64_t run_bytes_max, egress_bytes_max;             /* of a look; of a run that is written whole */
    uint64_t *apply_ns;                                   /* a histogram; NULL: nobody counts */
    uint64_t *entries, *applied_index, *apply_used_bytes; /* words, counted with it */
    /* found, by passage_take */
    uint64_t index;
    int64_t time_ns;
    uint32_t silent;
    uint64_t slot_bytes, body_bytes;
    const uint8_t *body;
    int64_t started_ns;
};

/* 1: it is there. 0: nothing is, or another run. */
int passage_take(struct passage *passage);

enum passage_rest { PASSAGE_DONE = 0, PASSAGE_EGRESS = 1, PASSAGE_APPLIED = 2, PASSAGE_BROKEN = -1 };

/* What the entry put out goes first, then the entry is released, then it is told. PASSAGE_EGRESS: there is no room, and
 * nothing was done; once it is written, call again without it. PASSAGE_APPLIED: only that is still to be written. */
int passage_give(struct passage *passage, const uint8_t *egress, uint64_t egress_bytes, const uint8_t *applied,
                 uint64_t applied_bytes);
