/* leading_peers: what a leader hears of its peers and sends them; see leading.h. */
#include "leading.h"

enum {
    ENTRY_BYTES = 40,
    APPEND_BYTES = 64 /* of AppendEntries, before its entries (raft_messages.py) */
};
enum tag { APPEND = 3, APPEND_REPLY = 4, HEARTBEAT_REPLY = 6, TOLD_DIGESTS = 10 };
static const uint64_t NUMBER_MAX = (UINT64_C(1) << 62) - 1;

static void put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

static struct leading_peer *peer_of(struct leading *l, uint64_t id)
{
    for (uint64_t at = 0; at < l->peers_count; at++)
        if (l->peers[at].id == id)
            return &l->peers[at];
    return NULL;
}

/* The numbers of a message: target, source, term, then its own. */
static uint64_t number(const uint8_t *slot, int at) { return wire_u64(slot + 8 + 8 * at); }

static int numbers_are_plain(const uint8_t *slot, int count)
{
    for (int at = 0; at < count; at++)
        if (number(slot, at) > NUMBER_MAX)
            return 0;
    return 1;
}

static int reply_is_plain(struct leading *l, const uint8_t *slot)
{
    struct leading_peer *peer = peer_of(l, number(slot, 1));
    return peer && peer->keeps_up && peer->next == l->last + 1 && number(slot, 0) == l->id &&
           number(slot, 2) == l->term;
}

static int message_is_plain(struct leading *l, const uint8_t *slot, uint64_t *told_bytes)
{
    uint32_t length = wire_length(slot);
    switch (wire_u16(slot + 6)) {
    case APPEND_REPLY: /* index | hint index | hint term | success | repairing */
        return length == 72 && numbers_are_plain(slot, 6) && reply_is_plain(l, slot) &&
               number(slot, 3) <= l->last && number(slot, 6) == 1 && number(slot, 7) == 0;
    case HEARTBEAT_REPLY: /* round */
        return length == 40 && numbers_are_plain(slot, 4) && reply_is_plain(l, slot);
    case TOLD_DIGESTS: /* first, and then they */
        *told_bytes += wire_padded(length);
        return length >= 40 && numbers_are_plain(slot, 4) && *told_bytes <= l->told_bytes_max;
    default:
        return 0;
    }
}

int leading_messages_are_plain(struct leading *l, const uint8_t *run, uint64_t bytes)
{
    uint64_t told_bytes = l->told_bytes;
    for (uint64_t at = 0, size; at < bytes; at += size) {
        const uint8_t *slot = run + at;
        size = wire_slot_bytes(slot, bytes - at);
        if (!size || wire_type(slot) != WIRE_RAFT_MESSAGE || !message_is_plain(l, slot, &told_bytes))
            return 0;
    }
    return 1;
}

void leading_advance_commit(struct leading *l)
{
    uint64_t index = 0;
    for (uint64_t at = 0; at <= l->peers_count; at++) {
        if (at < l->peers_count && !l->peers[at].votes)
            continue;
        uint64_t match = at < l->peers_count ? l->peers[at].match : l->durable, have = match <= l->durable;
        for (uint64_t other = 0; other < l->peers_count; other++)
            have += l->peers[other].votes && l->peers[other].match >= match;
        if (have >= l->majority && match > index)
            index = match;
    }
    if (index > l->commit)
        l->commit = index;
}

static int may_send(const struct leading *l, const struct leading_peer *peer)
{
    return peer->flight_count < l->flights_max && peer->flight_bytes < l->flight_bytes_max;
}

static void land(struct leading_peer *peer)
{
    peer->flight_bytes -= peer->flights[peer->flight_first].bytes;
    peer->flight_first = (peer->flight_first + 1) % LEADING_FLIGHTS;
    peer->flight_count--;
}

/* AppendEntries with the last entry, or with none. One that finds no room is lost, as Raft allows. */
static void send_append(struct leading *l, struct leading_peer *peer, int with_entry)
{
    uint8_t head[APPEND_BYTES], *slot = head;
    uint64_t bytes = APPEND_BYTES;
    const struct leading_entry *entry = NULL;
    if (with_entry) {
        entry = leading_entry(l, l->last);
        bytes += ENTRY_BYTES + wire_padded(entry->body_bytes);
        uint64_t address = l->calls->claim_upto(l->send, bytes, bytes);
        slot = address < 16 ? NULL : (uint8_t *)address;
    }
    if (slot) {
        wire_header(slot, (uint32_t)bytes, WIRE_RAFT_MESSAGE, APPEND);
        put_u64(slot + 8, peer->id);
        put_u64(slot + 16, l->id);
        put_u64(slot + 24, l->term);
        put_u64(slot + 32, peer->next - 1);
        put_u64(slot + 40, l->term); /* the term of what lies before it: see `enter` */
        put_u64(slot + 48, l->commit);
        put_u64(slot + 56, 0);
    }
    if (with_entry && slot) {
        memcpy(slot + APPEND_BYTES, l->slots + entry->at, bytes - APPEND_BYTES);
        l->dropped += l->calls->commit(l->send, bytes) != 0;
    } else if (with_entry || l->calls->write(l->send, slot, bytes) != 1) {
        l->dropped++;
    }
    if (!with_entry)
        return;
    peer->next = l->last + 1;
    peer->flights[(peer->flight_first + peer->flight_count++) % LEADING_FLIGHTS] =
        (struct leading_flight){l->last, entry->body_bytes};
    peer->flight_bytes += entry->body_bytes;
}

static void take_append_reply(struct leading *l, struct leading_peer *peer, uint64_t index)
{
    while (peer->flight_count && peer->flights[peer->flight_first].last <= index)
        land(peer);
    if (index <= peer->match)
        return;
    peer->match = index;
    leading_advance_commit(l);
}

/* Whether something was sent. */
static int take_heartbeat_reply(struct leading *l, struct leading_peer *peer, uint64_t round)
{
    if (peer->flight_count)
        land(peer);
    if (round > peer->round)
        peer->round = round;
    if (peer->match + 1 >= peer->next || !may_send(l, peer))
        return 0;
    send_append(l, peer, 0); /* What has been sent was not all answered: where does it stand? */
    return 1;
}

int leading_take_messages(struct leading *l, const uint8_t *run, uint64_t bytes)
{
    int sent = 0;
    for (uint64_t at = 0; at < bytes; at += wire_padded(wire_length(run + at))) {
        const uint8_t *slot = run + at;
        uint16_t tag = wire_u16(slot + 6);
        if (tag == TOLD_DIGESTS) {
            uint64_t size = wire_padded(wire_length(slot));
            memcpy(l->told + l->told_bytes, slot, size);
            l->told_bytes += size;
            continue;
        }
        struct leading_peer *peer = peer_of(l, number(slot, 1));
        peer->spoke = 1;
        if (tag == APPEND_REPLY)
            take_append_reply(l, peer, number(slot, 3));
        else
            sent |= take_heartbeat_reply(l, peer, number(slot, 3));
    }
    return sent;
}

void leading_replicate(struct leading *l)
{
    for (uint64_t at = 0; at < l->peers_count; at++) {
        struct leading_peer *peer = &l->peers[at];
        if (peer->keeps_up && peer->next == l->last && may_send(l, peer))
            send_append(l, peer, 1);
    }
}
