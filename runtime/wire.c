/* wire: see wire.h. Nothing here keeps state, allocates or calls the system. */
#include "wire.h"

/* Fixed part of each frame a client may send; `exact` ones have nothing behind it. */
static const struct { uint16_t bytes; uint8_t exact; } CLIENT_FRAMES[WIRE_CONTROL + 1] = {
    [WIRE_HELLO] = {WIRE_HELLO_BYTES, 0},
    [WIRE_OPEN] = {WIRE_COMMAND_BYTES, 1},
    [WIRE_COMMAND] = {WIRE_COMMAND_BYTES, 0},
    [WIRE_CLOSE] = {WIRE_COMMAND_BYTES, 1},
    [WIRE_QUERY] = {WIRE_COMMAND_BYTES, 0},
    [WIRE_SUBSCRIBE] = {WIRE_SUBSCRIBE_BYTES, 0},
    [WIRE_UNSUBSCRIBE] = {WIRE_UNSUBSCRIBE_BYTES, 1},
    [WIRE_PING] = {WIRE_PING_BYTES, 1},
    [WIRE_CONTROL] = {WIRE_COMMAND_BYTES, 0},
};

static int has_command_layout(uint16_t type)
{
    return type == WIRE_COMMAND || type == WIRE_QUERY || type == WIRE_CONTROL;
}

int wire_check(const uint8_t *frame, uint64_t available, uint32_t frame_bytes_max,
               uint32_t key_bytes_max)
{
    if (available < WIRE_HEADER_BYTES)
        return WIRE_FINE;
    uint32_t length = wire_length(frame);
    uint16_t type = wire_type(frame);
    if (type > WIRE_CONTROL || CLIENT_FRAMES[type].bytes == 0)
        return WIRE_UNKNOWN_TYPE;
    uint32_t fixed = CLIENT_FRAMES[type].bytes;
    if (length < fixed || length > frame_bytes_max || (CLIENT_FRAMES[type].exact && length != fixed))
        return WIRE_BAD_LENGTH;
    if (type == WIRE_HELLO && length > WIRE_HELLO_BYTES + WIRE_TOKEN_BYTES_MAX)
        return WIRE_BAD_LENGTH;
    if (available < fixed || type == WIRE_HELLO || type == WIRE_PING)
        return WIRE_FINE;
    if ((wire_u64(frame + WIRE_SESSION_OFFSET) | wire_u64(frame + WIRE_SESSION_OFFSET + 8)) == 0)
        return WIRE_ZERO_SESSION;
    uint32_t key_bytes = 0;
    if (has_command_layout(type))
        key_bytes = wire_u16(frame + 36);
    else if (type == WIRE_SUBSCRIBE)
        key_bytes = wire_u16(frame + 50);
    return key_bytes > key_bytes_max || key_bytes > length - fixed ? WIRE_BAD_KEY : WIRE_FINE;
}

/* ENTRY: header, u64 index | u64 term | i64 time | u16 kind | u16 0 | u32 0 | body.
 * HARD_STATE: header, u64 term | u64 vote | u64 commit. (runtime/slots.py) */
enum { ENTRY_BYTES = 40, HARD_STATE_BYTES = 32, SKIP_KIND = 3, CONFIGURATION_KIND = 4 };

int wire_fold(struct wire_fold *f)
{
    f->first = f->hard_states = 0;
    for (uint64_t at = 0, size; at < f->run_bytes; at += size) {
        const uint8_t *slot = f->run + at;
        size = wire_slot_bytes(slot, f->run_bytes - at);
        if (size == 0)
            return 0;
        uint16_t kind = wire_type(slot);
        if (kind == WIRE_ENTRY && wire_length(slot) >= ENTRY_BYTES) {
            uint64_t index = wire_u64(slot + 8);
            uint16_t entry_kind = wire_u16(slot + 32);
            if (index != f->last + 1 || wire_u64(slot + 16) != f->last_term ||
                entry_kind == SKIP_KIND || entry_kind == CONFIGURATION_KIND)
                return 0;
            f->last = index;
            f->last_time_ns = (int64_t)wire_u64(slot + 24);
            if (!f->first)
                f->first = index;
        } else if (kind == WIRE_HARD_STATE && size == HARD_STATE_BYTES) {
            f->term = wire_u64(slot + 8);
            f->voted_for = wire_u64(slot + 16);
            f->commit = wire_u64(slot + 24);
            f->hard_states++;
        } else {
            return 0;
        }
    }
    return 1;
}

int wire_separate(struct wire_separation *s)
{
    s->consumed_bytes = s->body_bytes = s->body_count = 0;
    s->queries_bytes = s->queries_count = s->controls_bytes = s->drain = 0;
    while (s->consumed_bytes < s->run_bytes && !s->drain) {
        const uint8_t *slot = s->run + s->consumed_bytes;
        uint64_t size = wire_slot_bytes(slot, s->run_bytes - s->consumed_bytes);
        if (size == 0)
            return -1;
        switch (wire_type(slot)) {
        case WIRE_OPEN:
        case WIRE_COMMAND:
        case WIRE_CLOSE:
            if (size > s->body_bytes_max - s->body_bytes || s->body_count == s->body_count_max)
                return 0;
            memcpy(s->body + s->body_bytes, slot, size);
            s->body_bytes += size;
            s->body_count++;
            break;
        case WIRE_QUERY:
        case WIRE_SUBSCRIBE:
            if (size > s->queries_bytes_max - s->queries_bytes)
                return 0;
            memcpy(s->queries + s->queries_bytes, slot, size);
            s->queries_bytes += size;
            s->queries_count++;
            break;
        case WIRE_CONTROL:
            if (size > s->controls_bytes_max - s->controls_bytes)
                return 0;
            memcpy(s->controls + s->controls_bytes, slot, size);
            s->controls_bytes += size;
            break;
        case WIRE_DRAIN:
            s->drain = 1;
            break;
        case WIRE_PADDING:
            break;
        default:
            return -1;
        }
        s->consumed_bytes += size;
    }
    return 0;
}

static int can_be_refused(uint16_t type)
{
    return (type >= WIRE_OPEN && type <= WIRE_SUBSCRIBE) || type == WIRE_CONTROL;
}

int wire_refuse(struct wire_refusal *r)
{
    uint32_t length = WIRE_REFUSED_BYTES + (uint32_t)(r->text_bytes > 1024 ? 1024 : r->text_bytes);
    uint64_t padded = wire_padded(length);
    r->consumed_bytes = r->refused_bytes = r->refused_count = 0;
    while (r->consumed_bytes < r->run_bytes) {
        const uint8_t *slot = r->run + r->consumed_bytes;
        uint64_t size = wire_slot_bytes(slot, r->run_bytes - r->consumed_bytes);
        if (size == 0)
            return -1;
        uint16_t type = wire_type(slot);
        if (can_be_refused(type)) {
            if (padded > r->refused_bytes_max - r->refused_bytes)
                return 0;
            if (size < WIRE_REFUSED_BYTES)
                return -1;
            uint8_t *to = r->refused + r->refused_bytes;
            memset(to + padded - 8, 0, 8);
            wire_header(to, length, WIRE_REFUSED, (uint16_t)(r->reason & 0xff) | (uint16_t)(type << 8));
            memcpy(to + WIRE_SESSION_OFFSET, slot + WIRE_SESSION_OFFSET, 24);
            if (r->text_bytes)
                memcpy(to + WIRE_REFUSED_BYTES, r->text, length - WIRE_REFUSED_BYTES);
            r->refused_bytes += padded;
            r->refused_count++;
        } else if (type != WIRE_PADDING) {
            return -1;
        }
        r->consumed_bytes += size;
    }
    return 0;
}

int64_t wire_tally_frames(struct wire_tally *t, const uint8_t *frames, uint64_t bytes)
{
    uint64_t at = 0;
    while (bytes - at >= WIRE_HEADER_BYTES) {
        const uint8_t *frame = frames + at;
        uint64_t length = wire_length(frame);
        if (length < WIRE_HEADER_BYTES)
            return -1;
        if (length > bytes - at)
            break;
        uint16_t type = wire_type(frame);
        if (type == WIRE_REPLY && length >= WIRE_REPLY_BYTES) {
            uint64_t index = wire_u64(frame + WIRE_SESSION_OFFSET + 8);
            uint64_t request = wire_u64(frame + WIRE_REQUEST_OFFSET);
            if (index < t->sessions && request > t->highest[index])
                t->highest[index] = request;
            t->replies++;
            t->failures += wire_u16(frame + 44) != 0;
        } else if (type == WIRE_REFUSED) {
            t->refused++;
        } else {
            t->others++;
        }
        at += length;
    }
    return (int64_t)at;
}
