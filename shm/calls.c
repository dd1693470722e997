/* calls: see calls.h. */
#include "calls.h"

#include "doorbell.h"
#include "histogram.h"
#include "ring.h"

const struct shm_calls *shm_calls(void) {
    static const struct shm_calls calls = {
        .table_bytes = sizeof calls,
        .claim_upto = ring_claim_upto,
        .claimed = ring_claimed,
        .commit = ring_commit,
        .write = ring_write,
        .peek_upto = ring_peek_upto,
        .release = ring_release,
        .data = ring_data,
        .ready_of = ring_ready_of,
        .arm = doorbell_arm,
        .disarm = doorbell_disarm,
        .monotonic_ns = monotonic_ns,
        .record = histogram_record,
        .wait = doorbell_wait,
        .used = ring_used,
    };
    return &calls;
}
