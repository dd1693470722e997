/* passage: see passage.h. */
#include "passage.h"

#include "wire.h"

enum { ENTRY_BYTES = 40, COMMANDS = 0, SILENT = 2 };

int passage_take(struct passage *p)
{
    uint64_t found = p->calls->peek_upto(p->apply, p->run_bytes_max);
    uint64_t bytes = (uint32_t)found; /* UINT32_MAX if the ring refused */
    if (bytes < ENTRY_BYTES || bytes == UINT32_MAX)
        return 0;
    const uint8_t *slot = p->calls->data(p->apply) + (found >> 32);
    uint32_t length = wire_length(slot);
    uint16_t tag = wire_u16(slot + 6);
    if (wire_type(slot) != WIRE_ENTRY || length < ENTRY_BYTES || wire_padded(length) != bytes ||
        wire_u16(slot + 32) != COMMANDS || (tag & ~SILENT))
        return 0;
    p->started_ns = p->calls->monotonic_ns();
    p->index = wire_u64(slot + 8);
    p->time_ns = (int64_t)wire_u64(slot + 24);
    p->silent = tag;
    p->slot_bytes = length;
    p->body = slot + ENTRY_BYTES;
    p->body_bytes = length - ENTRY_BYTES;
    return 1;
}

/* Relaxed: readers want no order between words, only whole ones (shm/histogram.h). */
static void set(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }

int passage_give(struct passage *p, const uint8_t *egress, uint64_t egress_bytes, const uint8_t *applied,
                 uint64_t applied_bytes)
{
    if (egress_bytes) {
        int written = egress_bytes > p->egress_bytes_max ? 0 : p->calls->write(p->egress, egress, egress_bytes);
        if (written != 1)
            return written < 0 ? PASSAGE_BROKEN : PASSAGE_EGRESS;
    }
    if (p->calls->release(p->apply, wire_padded((uint32_t)p->slot_bytes)) < 0)
        return PASSAGE_BROKEN;
    if (p->apply_ns) {
        p->calls->record(p->apply_ns, (uint64_t)(p->calls->monotonic_ns() - p->started_ns));
        set(p->entries, *p->entries + 1);
        set(p->applied_index, p->index);
        set(p->apply_used_bytes, p->calls->used(p->apply));
    }
    int written = p->calls->write(p->applied, applied, applied_bytes);
    return written < 0 ? PASSAGE_BROKEN : written ? PASSAGE_DONE : PASSAGE_APPLIED;
}
