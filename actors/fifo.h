/* fifo: slots in one piece of memory, first in, first out. Each slot says its own length in its first word
 * and is padded to 8 bytes, so nothing is kept beside them.
 *
 *   bytes:  ........ [slot][slot][slot] ........
 *                    start            end         capacity
 *
 * Room at the front is won back by moving everything down, once that frees at least half of the memory; so a
 * byte is moved at most once for each byte that goes through, and the capacity is at most twice the most that
 * ever lay in it at one time. What a burst took is given back by fifo_trim, which its owner calls after it has
 * dropped slots. Nothing here knows Python. A fifo begins as zeros, and holds no memory then.
 */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIFO_LEAST_BYTES = 256, FIFO_SMALL_BYTES = 4096 };

struct fifo {
    uint8_t *bytes;
    size_t start, end, capacity;
    size_t count; /* of slots */
};

static inline size_t slot_padded(size_t length) { return (length + 7) & ~(size_t)7; }

static inline uint32_t slot_length(const uint8_t *slot)
{
    uint32_t length;
    memcpy(&length, slot, sizeof length);
    return length;
}

static inline size_t fifo_bytes(const struct fifo *fifo) { return fifo->end - fifo->start; }

/* The oldest slot; there must be one. */
static inline const uint8_t *fifo_first(const struct fifo *fifo) { return fifo->bytes + fifo->start; }

/* Go on in another piece of memory, which has room for what is there; 0: no memory, nothing changed. */
static inline int fifo_move(struct fifo *fifo, size_t capacity)
{
    size_t used = fifo_bytes(fifo);
    uint8_t *bytes = malloc(capacity);
    if (!bytes)
        return 0;
    if (used)
        memcpy(bytes, fifo_first(fifo), used);
    free(fifo->bytes);
    fifo->bytes = bytes;
    fifo->capacity = capacity;
    fifo->start = 0;
    fifo->end = used;
    return 1;
}

static inline size_t fifo_capacity_for(size_t bytes) { return bytes < FIFO_LEAST_BYTES / 2 ? FIFO_LEAST_BYTES : 2 * bytes; }

/* Where the next `size` bytes, one slot, go; NULL: no memory. They count only after fifo_grow. */
static inline uint8_t *fifo_room(struct fifo *fifo, size_t size)
{
    size_t used = fifo_bytes(fifo);
    if (fifo->capacity - fifo->end < size) {
        if (used + size <= fifo->capacity / 2) {
            memmove(fifo->bytes, fifo_first(fifo), used);
            fifo->start = 0;
            fifo->end = used;
        } else if (!fifo_move(fifo, fifo_capacity_for(used + size))) {
            return NULL;
        }
    }
    return fifo->bytes + fifo->end;
}

/* What lies in the room now is one slot more. */
static inline void fifo_grow(struct fifo *fifo, size_t size)
{
    fifo->end += size;
    fifo->count++;
}

static inline void fifo_drop_first(struct fifo *fifo)
{
    fifo->start += slot_padded(slot_length(fifo_first(fifo)));
    fifo->count--;
    if (!fifo->count)
        fifo->start = fifo->end = 0;
}

/* Keep no more memory than eight times what is there, unless it is little. Without memory for the smaller piece
 * the larger one stays. */
static inline void fifo_trim(struct fifo *fifo)
{
    size_t used = fifo_bytes(fifo);
    if (fifo->capacity > FIFO_SMALL_BYTES && used < fifo->capacity / 8)
        (void)fifo_move(fifo, fifo_capacity_for(used));
}

static inline void fifo_free(struct fifo *fifo)
{
    free(fifo->bytes);
    memset(fifo, 0, sizeof *fifo);
}
