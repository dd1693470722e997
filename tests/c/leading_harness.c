/* A leader's turns in C under the address and undefined-behaviour sanitizers.
 *
 * usage: leading_harness SEED ROUNDS. Prints one line of totals; a sanitizer, or the first broken promise, ends it otherwise.
 * Rings are real; their other ends are here too, in one thread, and do at each round what the seed says: what is plain, and
 * slots of any type, length and number; rings that stay full. When a stay ends, the next begins with what is in flight, as
 * Python would have it; what is not plain is taken away. */
#include "leading.h"
#include "doorbell.h"
#include "histogram.h"
#include "ring.h"
#include "chance.h"
#include <stdio.h>
#include <stdlib.h>

enum { RING_BYTES = 1 << 13, SLOTS_BYTES = 1 << 14, QUERIES_BYTES = 512, DIGESTS_BYTES = 256 };
enum { INGRESS, PERSISTED, APPLIED, RECEIVE, READ, PERSIST, APPLY, SEND, RINGS };

static struct ring_end *ours[RINGS], *others[RINGS];
static struct leading *lead;
static struct shm_calls calls;
static int64_t now_ns = 1000;
static uint64_t words[4], trail[3 * 16], histograms[3][HISTOGRAM_HEADER_WORDS + HISTOGRAM_BUCKETS];
static uint64_t taken_bytes, durable, applied, turns, entries, messages, stays, odd;

static int64_t clock_ns(void) { return now_ns; }

static int wait(struct doorbell *bell, int64_t spin_ns, int64_t timeout_ns)
{
    (void)bell, (void)spin_ns;
    need(timeout_ns >= 0, "a wait has an end");
    return DOORBELL_INTERRUPTED;
}

static void open_ring(int ring)
{
    uint64_t *memory = calloc(1, RING_HEADER_BYTES + RING_BYTES);
    need(ring_format(memory, RING_HEADER_BYTES + RING_BYTES, RING_BYTES, 0) == 0, "ring_format");
    int role = ring < PERSIST ? RING_CONSUMER : RING_PRODUCER;
    ours[ring] = ring_open(memory, RING_HEADER_BYTES + RING_BYTES, role, NULL);
    others[ring] = ring_open(memory, RING_HEADER_BYTES + RING_BYTES, RING_CONSUMER + RING_PRODUCER - role, NULL);
    need(ours[ring] && others[ring], "ring_open");
}

static void put(int ring, const uint64_t *numbers, int count, uint16_t type, uint16_t tag)
{
    uint8_t slot[1024] = {0};
    uint32_t length = 8 + 8 * (uint32_t)count;
    wire_header(slot, length, type, tag);
    memcpy(slot + 8, numbers, length - 8);
    if (draw(60) == 0) { /* no slot of ours */
        odd++;
        slot[draw(2) ? 4 : 8 + draw(length - 8)] ^= (uint8_t)(1 + draw(255));
        if (draw(2))
            wire_header(slot, length - 8 * (uint32_t)draw(2), type, tag);
    }
    ring_write(others[ring], slot, wire_padded(wire_length(slot)));
}

static void client(void)
{
    uint8_t slot[700] = {0};
    uint32_t length = WIRE_COMMAND_BYTES + (uint32_t)draw(600);
    wire_header(slot, length, draw(12) ? WIRE_COMMAND : draw(40) ? WIRE_QUERY : WIRE_CONTROL, 1);
    ring_write(others[INGRESS], slot, wire_padded(length));
}

static void journal(void)
{
    uint64_t found = ring_peek_upto(others[PERSIST], 1 + draw(2000)), bytes = (uint32_t)found;
    const uint8_t *run = ring_data(others[PERSIST]) + (found >> 32);
    uint64_t last = durable;
    for (uint64_t at = 0; at < bytes; at += wire_padded(wire_length(run + at))) {
        if (wire_type(run + at) == WIRE_ENTRY) {
            need(wire_u64(run + at + 8) == last + 1, "entries are persisted in order");
            last++;
        } else {
            need(wire_u64(run + at + 24) <= durable, "I6");
        }
    }
    if (!bytes)
        return;
    ring_release(others[PERSIST], bytes);
    taken_bytes += bytes;
    durable = last;
    put(PERSISTED, (uint64_t[]){lead->term, durable, taken_bytes}, 3, 34, 0);
}

static void logic(void)
{
    uint64_t found = ring_peek_upto(others[APPLY], 1 + draw(2000)), bytes = (uint32_t)found;
    const uint8_t *run = ring_data(others[APPLY]) + (found >> 32);
    for (uint64_t at = 0; at < bytes; at += wire_padded(wire_length(run + at))) {
        if (wire_type(run + at) != WIRE_ENTRY)
            continue;
        need(wire_u64(run + at + 8) == ++applied, "I5");
        need(applied <= durable, "I4");
        if (draw(2))
            put(APPLIED, (uint64_t[]){applied, draw(9)}, 2, 62, 0);
    }
    if (bytes)
        ring_release(others[APPLY], bytes);
    uint64_t deadline = draw(20) ? UINT64_MAX : draw(2) ? draw(5000) : draw(UINT64_MAX);
    put(APPLIED, (uint64_t[]){applied, 7, deadline}, 3, 37, 0);
}

static void peer(uint64_t id)
{
    uint64_t found = ring_peek_upto(others[SEND], 4096), bytes = (uint32_t)found;
    messages += bytes != 0;
    if (bytes && draw(4))
        ring_release(others[SEND], bytes);
    uint64_t index = lead->last ? draw(lead->last + 1 + (draw(50) == 0)) : 0;
    if (draw(2))
        put(RECEIVE, (uint64_t[]){1, id, lead->term, index, 0, 0, draw(40) != 0, draw(40) == 0}, 8, 41, 4);
    else if (draw(3))
        put(RECEIVE, (uint64_t[]){1, id, lead->term - (draw(40) == 0), draw(9)}, 4, 41, 6);
    else
        put(RECEIVE, (uint64_t[]){1, id, lead->term, index, 5}, 5, 41, 10);
}

/* What was not plain goes away; what is in flight begins the next stay. */
static void begin(void)
{
    stays++;
    turns += lead->turns;
    for (int ring = INGRESS; ring <= READ; ring++) {
        uint64_t found = ring_peek(ours[ring]);
        if (!found || draw(3))
            continue;
        if (ring == PERSISTED || ring == APPLIED) { /* Python would take what is right in it. */
            lead->applied = ring == APPLIED && applied <= lead->applying ? applied : lead->applied;
        }
        ring_release(ours[ring], (uint32_t)found);
    }
    uint64_t first = lead->applied + 1, bytes = 0;
    entries += lead->last + 1 - lead->first;
    lead->unapplied_bytes = lead->undurable_count = lead->reached_count = 0;
    lead->undurable = lead->last + 1;
    for (uint64_t index = first; index <= lead->last; index++) {
        struct leading_entry *from = &lead->entries[index - lead->first], *to = &lead->entries[index - first];
        uint64_t size = 40 + wire_padded(from->body_bytes), at = from->at;
        memmove(lead->slots + bytes, lead->slots + at, size);
        *to = *from;
        to->at = bytes;
        bytes += size;
        lead->unapplied_bytes += from->body_bytes;
    }
    lead->first = first;
    lead->slots_bytes = bytes;
    lead->given_bytes = lead->reads = lead->turns = lead->digests_bytes = lead->told_bytes = 0;
    lead->deadline_ns = -1;
    lead->timer_due_ns = INT64_MAX;
    for (uint64_t at = 0; at < lead->peers_count; at++) { /* the answers of one who fell behind are Python's */
        struct leading_peer *peer = &lead->peers[at];
        if (draw(2) && peer->next != lead->last + 1) {
            peer->next = lead->last + 1;
            peer->flight_count = peer->flight_bytes = 0;
        }
    }
}

int main(int argc, char **argv)
{
    need(argc == 3, "usage: leading_harness SEED ROUNDS");
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
    uint64_t rounds = strtoull(argv[2], NULL, 10);
    calls = *shm_calls();
    calls.monotonic_ns = clock_ns;
    calls.wait = wait;
    for (int ring = 0; ring < RINGS; ring++)
        open_ring(ring);
    lead = calloc(1, sizeof *lead);
    struct ring_end *inputs[] = {ours[READ], ours[PERSISTED], ours[APPLIED], ours[RECEIVE], ours[READ], ours[INGRESS]};
    memcpy(lead->inputs, inputs, sizeof inputs);
    lead->calls = &calls;
    lead->persist = ours[PERSIST], lead->apply = ours[APPLY], lead->send = ours[SEND];
    lead->persist_bytes = lead->apply_bytes = RING_BYTES;
    lead->frame_bytes_max = 700, lead->entry_bytes_max = 900, lead->entry_count_max = 20;
    lead->in_flight_max = 64, lead->unapplied_max = 64, lead->unapplied_bytes_max = 1 << 14;
    lead->slots = malloc(lead->slots_bytes_max = SLOTS_BYTES);
    lead->queries = malloc(lead->queries_bytes_max = QUERIES_BYTES);
    lead->digests = malloc(lead->digests_bytes_max = DIGESTS_BYTES);
    lead->told = malloc(lead->told_bytes_max = DIGESTS_BYTES);
    lead->commands_count = words, lead->entries_count = words + 1;
    lead->commit_count = words + 2, lead->applied_count = words + 3;
    lead->entry_bytes = histograms[0], lead->durable_ns = histograms[1], lead->applied_ns = histograms[2];
    lead->durable_trail = lead->applied_trail = trail, lead->trail_rows = 16;
    lead->id = 1, lead->term = 3, lead->first = 1, lead->undurable = 1;
    lead->flights_max = 4, lead->flight_bytes_max = 1 << 12;
    lead->repeats = (uint32_t)draw(2);
    lead->peers_count = draw(2) ? 2 : 0;
    lead->majority = lead->peers_count ? 2 : 1;
    for (uint64_t at = 0; at < lead->peers_count; at++)
        lead->peers[at] = (struct leading_peer){.id = 2 + at, .votes = 1, .keeps_up = 1, .next = 1};
    begin();
    for (uint64_t round = 0; round < rounds; round++) {
        now_ns += (int64_t)draw(50);
        switch (draw(5)) {
        case 0: journal(); break;
        case 1: logic(); break;
        case 2: if (lead->peers_count) peer(2 + draw(2)); else journal(); break;
        default: client();
        }
        int reason = leading_run(lead, now_ns + (draw(50) ? 1000 : 0), 0);
        need(lead->fed <= lead->applying && lead->applying <= lead->commit, "I6 in memory");
        need(lead->applying <= lead->durable && lead->durable <= lead->last, "I6 of what is durable");
        if (reason != LEADING_SIGNAL) {
            if (lead->unwritten_bytes) { /* Python writes it when there is room */
                while (ring_write(ours[PERSIST], lead->slots + lead->unwritten_at, lead->unwritten_bytes) == 0)
                    journal();
                lead->unwritten_bytes = 0;
            }
            begin();
        }
    }
    printf("turns %lu entries %lu messages %lu stays %lu odd %lu\n", turns + lead->turns, entries,
           messages + !lead->peers_count, stays, odd);
    return 0;
}
