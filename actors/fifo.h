/* fifo: slots in one piece of memory, first in, first out. Each slot says its own length in its first word
 * and is padded to 8 bytes, so nothing is kept beside them.
 *
 *   bytes:  ........ [slot][slot][slot] ........
 *                    start            end         capacity
 *
 * Room at the front is won back by moving everything down, once it is more than half: each byte is moved
 * at most once for each byte that goes through. Nothing here knows Python; nothing allocates but fifo_room.
 */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/* Where the next `size` bytes go; NULL: no memory. They count only after fifo_grow. */
static inline uint8_t *fifo_room(struct fifo *fifo, size_t size)
{
    if (fifo->capacity - fifo->end >= size)
        return fifo->bytes + fifo->end;
    size_t used = fifo_bytes(fifo);
    if (fifo->start > fifo->capacity / 2 && fifo->capacity - used >= size) {
        memmove(fifo->bytes, fifo->bytes + fifo->start, used);
    } else {
        size_t capacity = fifo->capacity ? fifo->capacity : 256;
        while (capacity < 2 * used + size)
            capacity *= 2;
        uint8_t *bytes = malloc(capacity);
        if (!bytes)
            return NULL;
        if (used)
            memcpy(bytes, fifo->bytes + fifo->start, used);
        free(fifo->bytes);
        fifo->bytes = bytes;
        fifo->capacity = capacity;
    }
    fifo->start = 0;
    fifo->end = used;
    return fifo->bytes + used;
}

/* What lies in the room now is one slot more. */
static inline void fifo_grow(struct fifo *fifo, size_t size)
{
    fifo->end += size;
    fifo->count++;
}

static inline void fifo_drop_first(struct fifo *fifo)
{
    fifo->start += slot_padded(slot_length(fifo->bytes + fifo->start));
    fifo->count--;
    if (!fifo->count)
        fifo->start = fifo->end = 0;
}

static inline void fifo_free(struct fifo *fifo)
{
    free(fifo->bytes);
    memset(fifo, 0, sizeof *fifo);
}
