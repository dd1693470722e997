/* calls: what C of another extension module calls of this one, as one table of addresses.
 *
 * Rings and bells have state that belongs to one copy of their code (the count of forks, the thread
 * that is inside an end). So another module does not compile ring.c in: it is given this table, and
 * the handles that Python holds, and follows the same rules as Python does.
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>
struct ring_end;
struct doorbell;
#endif

struct shm_calls {
    uint64_t table_bytes;
    uint64_t (*claim_upto)(struct ring_end *end, uint64_t minimum, uint64_t maximum);
    uint64_t (*claimed)(struct ring_end *end);
    int (*commit)(struct ring_end *end, uint64_t size);
    int (*write)(struct ring_end *end, const void *run, uint64_t size);
    uint64_t (*peek_upto)(struct ring_end *end, uint64_t maximum);
    int (*release)(struct ring_end *end, uint64_t size);
    const uint8_t *(*data)(const struct ring_end *end);
    uint64_t (*ready_of)(struct ring_end **ends, uint32_t count);
    int (*arm)(struct doorbell *bell);
    int (*disarm)(struct doorbell *bell, int rung);
    int64_t (*monotonic_ns)(void);
    void (*record)(uint64_t *histogram, uint64_t value);
    int (*wait)(struct doorbell *bell, int64_t spin_ns, int64_t timeout_ns); /* for what Python watches */
    uint64_t (*used)(struct ring_end *end);
};

const struct shm_calls *shm_calls(void);
