/* carrier: see carrier.h. What passes here must be what raft_messages.py lets pass, or less. */
#include "carrier.h"

#include "wire.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { HEAD_BYTES = 8, ENTRY_BYTES = 40, ENTRY = 32 };
enum { TARGET, SOURCE, TERM, PREV_INDEX };

static const uint64_t NUMBER_MAX = (UINT64_C(1) << 62) - 1;

struct carrier *carrier_new(uint64_t frame_bytes_max, uint64_t read_bytes_max)
{
    struct carrier *carrier = calloc(1, sizeof *carrier);
    if (!carrier)
        return NULL;
    carrier->frame_bytes_max = frame_bytes_max;
    carrier->read_bytes_max = read_bytes_max;
    carrier->input = malloc(frame_bytes_max + read_bytes_max);
    carrier->unsent = malloc(frame_bytes_max);
    if (!carrier->input || !carrier->unsent) {
        carrier_free(carrier);
        return NULL;
    }
    return carrier;
}

void carrier_free(struct carrier *carrier)
{
    free(carrier->input);
    free(carrier->unsent);
    free(carrier);
}

/* Each follows the one before, and no byte is set that means nothing. */
static int entries_pass(const uint8_t *run, uint64_t bytes, uint64_t index)
{
    for (uint64_t at = 0, end; at < bytes; at = end) {
        const uint8_t *entry = run + at;
        if (bytes - at < ENTRY_BYTES)
            return 0;
        uint64_t length = wire_u32(entry);
        end = at + ((length + 7) & ~UINT64_C(7));
        if (wire_u16(entry + 4) != ENTRY || length < ENTRY_BYTES || end > bytes)
            return 0;
        if (wire_u64(entry + 8) != ++index || wire_u64(entry + 16) > NUMBER_MAX)
            return 0;
        if (wire_u16(entry + 6) || wire_u16(entry + 34) || wire_u32(entry + 36))
            return 0;
        for (uint64_t padding = at + length; padding < end; padding++)
            if (run[padding])
                return 0;
    }
    return 1;
}

int carrier_passes(const struct carrier_layout *layouts, const uint8_t *slot, uint64_t bytes,
                   uint64_t source, uint64_t target)
{
    if (bytes < HEAD_BYTES || wire_length(slot) != bytes || wire_type(slot) != WIRE_RAFT_MESSAGE)
        return 0;
    uint16_t tag = wire_u16(slot + 6);
    if (tag >= CARRIER_TAGS || !layouts[tag].numbers)
        return 0;
    const struct carrier_layout *layout = &layouts[tag];
    const uint8_t *numbers = slot + HEAD_BYTES;
    uint64_t fixed = HEAD_BYTES + 8 * (uint64_t)layout->numbers;
    if (bytes < fixed || (bytes > fixed && layout->tail == CARRIER_NO_TAIL))
        return 0;
    for (uint32_t at = 0; at < layout->numbers; at++) {
        uint64_t maximum = at + layout->flags >= layout->numbers ? 1 : NUMBER_MAX;
        if (wire_u64(numbers + 8 * at) > maximum)
            return 0;
    }
    if (wire_u64(numbers + 8 * SOURCE) != source || wire_u64(numbers + 8 * TARGET) != target)
        return 0;
    return layout->tail != CARRIER_ENTRIES ||
           entries_pass(slot + fixed, bytes - fixed, wire_u64(numbers + 8 * PREV_INDEX));
}

void carrier_receive(struct carrier *carrier, const struct carrier_layout *layouts,
                     const struct shm_calls *calls, struct ring_end *ring, uint64_t now_ns)
{
    if (carrier->asks)
        return; /* Python has not looked yet */
    ssize_t got = recv(carrier->fd, carrier->input + carrier->input_bytes, carrier->read_bytes_max,
                       MSG_DONTWAIT);
    if (got <= 0) {
        carrier->lost = got == 0 || (errno != EAGAIN && errno != EINTR);
        carrier->asks = carrier->lost;
        return;
    }
    carrier->heard_ns = now_ns;
    carrier->input_bytes += (uint64_t)got;
    uint64_t at = 0, left;
    uint32_t messages = 0;
    while ((left = carrier->input_bytes - at) >= HEAD_BYTES) {
        const uint8_t *slot = carrier->input + at;
        uint32_t length = wire_length(slot);
        if (length < HEAD_BYTES || length > carrier->frame_bytes_max) {
            carrier->asks = 1;
            break;
        }
        if (wire_padded(length) > left)
            break;
        if (!carrier_passes(layouts, slot, length, carrier->peer, carrier->own)) {
            carrier->asks = 1;
            break;
        }
        at += wire_padded(length);
        messages++;
    }
    if (at && calls->write(ring, carrier->input, at) != 1) {
        carrier->asks = 1; /* no room: Python drops what has none, and counts it */
        return;
    }
    carrier->messages_in += messages;
    carrier->input_bytes -= at;
    memmove(carrier->input, carrier->input + at, carrier->input_bytes);
}

uint64_t carrier_send(struct carrier *carrier, const uint8_t *run, uint64_t bytes, uint64_t now_ns)
{
    uint64_t size = 0;
    uint32_t messages = 0;
    if (carrier->held || carrier->asks)
        return 0;
    while (bytes - size >= HEAD_BYTES + 8 && size < carrier->read_bytes_max) {
        const uint8_t *slot = run + size;
        uint64_t following = size + wire_padded(wire_length(slot));
        if (wire_type(slot) != WIRE_RAFT_MESSAGE || wire_u64(slot + HEAD_BYTES) != carrier->peer)
            break;
        if (following > carrier->frame_bytes_max)
            break; /* `unsent` takes no more */
        size = following;
        messages++;
    }
    if (!size)
        return 0;
    ssize_t sent = send(carrier->fd, run, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        sent = 0; /* Python finds out why when it tries */
    carrier->said_ns = now_ns;
    carrier->messages_out += messages;
    carrier->unsent_bytes = size - (uint64_t)sent;
    if (carrier->unsent_bytes) {
        memcpy(carrier->unsent, run + sent, carrier->unsent_bytes);
        carrier->held = carrier->asks = 1;
    }
    return size;
}
