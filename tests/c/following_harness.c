/* A follower's turns in C under the address and undefined-behaviour sanitizers.
 *
 * usage: following_harness SEED ROUNDS. Prints one line of totals; a sanitizer, or the first broken promise, ends it otherwise.
 * Rings and bell are real; the leader, the journal, logic and the gateway are here too, in one thread, and do at each round what
 * the seed says: messages that go on, that do not, and that are broken, acknowledgements early and late, rings that stay full. What
 * C leaves lying is taken away, as Python would; the numbers are handed over anew now and then. */
#include "following.h"
#include "doorbell.h"
#include "ring.h"
#include "chance.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { RING_BYTES = 1 << 14, SLOTS_BYTES = 1 << 14, OWN = 1, LEADER = 2, TERM_OF_ALL = 3 };
enum { ENTRY_BYTES = 40, ENTRY_MAX = 700 };

static uint64_t counts[2];
static uint64_t left, full, entered, appended, acknowledged, fed, beats;
static struct following *f;
static struct ring_end *to[FOLLOWING_INPUTS], *persist, *apply, *send;
static uint64_t handed, told, durable, log_end, ends[1 << 16], lasts[1 << 16], count_of_ends, told_ends;

static void put(uint8_t *at, uint64_t value) { memcpy(at, &value, 8); }

static struct ring_end *end_of(uint64_t *memory, int role, struct doorbell *bell)
{
    struct ring_end *end = ring_open(memory, RING_HEADER_BYTES + RING_BYTES, role, bell);
    need(end != NULL, "ring_open");
    return end;
}

static uint64_t *new_ring(void)
{
    uint64_t *memory = calloc(1, RING_HEADER_BYTES + RING_BYTES);
    need(ring_format(memory, RING_HEADER_BYTES + RING_BYTES, RING_BYTES, UINT64_MAX - 4095) == 0, "ring_format");
    return memory;
}

/* One byte may be another one, so that all sorts of broken slots come; never its length, which the ring itself looks at. */
static void give(struct ring_end *end, uint8_t *slot, uint64_t bytes)
{
    if (draw(40) == 0)
        slot[4 + draw(bytes - 4)] ^= (uint8_t)(1 + draw(255));
    if (slot[4] || slot[5])
        need(ring_write(end, slot, bytes) >= 0, "ring_write");
}

static void lead(void)
{
    uint8_t slot[2048] = {0};
    uint64_t previous = f->now.last + (draw(12) == 0 ? draw(3) : 0) - (draw(12) == 0);
    put(slot + 8, OWN);
    put(slot + 16, draw(30) ? LEADER : 3);
    put(slot + 24, draw(30) ? TERM_OF_ALL : draw(5));
    if (draw(4) == 0) {
        put(slot + 32, draw(previous + 3));
        wire_header(slot, 48, WIRE_RAFT_MESSAGE, 5);
        give(to[3], slot, 48);
        return;
    }
    uint64_t bytes = 64;
    put(slot + 32, previous);
    put(slot + 40, draw(30) ? TERM_OF_ALL : draw(5));
    put(slot + 48, draw(previous + 3));
    for (uint64_t entries = draw(3); entries > 0; entries--) {
        uint32_t length = ENTRY_BYTES + (uint32_t)draw(ENTRY_MAX);
        uint8_t *entry = slot + bytes;
        wire_header(entry, length, WIRE_ENTRY, 0);
        put(entry + 8, ++previous);
        put(entry + 16, draw(60) ? TERM_OF_ALL : draw(5));
        entry[32] = (uint8_t)(draw(30) ? 0 : draw(6));
        for (uint32_t at = ENTRY_BYTES; at < length; at++)
            entry[at] = (uint8_t)previous;
        bytes += wire_padded(length);
    }
    wire_header(slot, (uint32_t)bytes, WIRE_RAFT_MESSAGE, 3);
    give(to[3], slot, bytes);
}

/* The journal: what was handed over, and where each write ended. */
static void sync_log(void)
{
    uint64_t found = ring_peek_upto(persist, 1 + draw(4096));
    const uint8_t *run = ring_data(persist) + (found >> 32);
    for (uint64_t at = 0; at < (uint32_t)found; at += wire_padded(wire_length(run + at))) {
        handed += wire_padded(wire_length(run + at));
        if (wire_type(run + at) == WIRE_ENTRY) {
            need(wire_u64(run + at + 8) == log_end + 1, "an entry that does not go on");
            need(wire_u16(run + at + 6) == 0, "an entry with a tag for logic");
            log_end++;
            appended++;
        } else if (wire_type(run + at) == WIRE_HARD_STATE) {
            need(wire_u64(run + at + 24) <= durable, "a commit index that passes what is durable");
        }
        ends[count_of_ends] = handed;
        lasts[count_of_ends++ % (1 << 16)] = log_end;
        count_of_ends %= 1 << 16;
    }
    if (found)
        need(ring_release(persist, (uint32_t)found) == 0, "ring_release");
}

static void tell_durable(void)
{
    if (told_ends == count_of_ends)
        return;
    uint8_t slot[32] = {0};
    uint64_t ahead = (count_of_ends - told_ends) % (1 << 16);
    uint64_t at = (told_ends + draw(ahead)) % (1 << 16);
    wire_header(slot, 32, 34, 0);
    put(slot + 16, lasts[at]);
    put(slot + 24, ends[at]);
    if (ring_write(to[1], slot, 32) == 1) {
        told_ends = (at + 1) % (1 << 16);
        told = ends[at];
        durable = lasts[at];
    }
}

static void logic(void)
{
    static uint64_t applied;
    uint64_t found = ring_peek_upto(apply, 1 + draw(4096));
    const uint8_t *run = ring_data(apply) + (found >> 32);
    for (uint64_t at = 0; at < (uint32_t)found; at += wire_padded(wire_length(run + at))) {
        need(wire_u64(run + at + 8) == fed + 1, "logic was not given the next entry");
        need(++fed <= durable, "logic was given what is not durable");
        need(wire_u16(run + at + 6) == 2, "an entry that would answer");
    }
    if (found)
        need(ring_release(apply, (uint32_t)found) == 0, "ring_release");
    if (applied == fed)
        return;
    uint8_t slot[48] = {0};
    uint64_t index = applied + 1 + draw(fed - applied);
    wire_header(slot, 32, 37, 0);
    put(slot + 8, index);
    put(slot + 24, draw(3) ? UINT64_MAX : draw(1000));
    need(ring_write(to[2], slot, 32) >= 0, "ring_write");
    applied = index;
    if (draw(2)) {
        wire_header(slot, 20, 62, 0);
        put(slot + 8, index);
        give(to[2], slot, 24);
    }
}

static void hear(void)
{
    uint64_t found = ring_peek_upto(send, 1 + draw(4096));
    const uint8_t *run = ring_data(send) + (found >> 32);
    for (uint64_t at = 0; at < (uint32_t)found; at += wire_padded(wire_length(run + at))) {
        need(wire_u64(run + at + 8) == LEADER && wire_u64(run + at + 16) == OWN && wire_u64(run + at + 24) == TERM_OF_ALL,
             "a message with another address");
        if (wire_u16(run + at + 6) == 4) {
            need(wire_u64(run + at + 32) <= durable, "acknowledged before it is durable");
            acknowledged++;
        } else {
            beats++;
        }
    }
    if (found)
        need(ring_release(send, (uint32_t)found) == 0, "ring_release");
}

/* What Python does with what was left: here it goes. */
static void take_away(int input)
{
    uint64_t found = ring_peek_upto(f->inputs[input], UINT64_MAX);
    if (!found)
        return;
    const uint8_t *run = ring_data(f->inputs[input]) + (found >> 32);
    if (input == 1) { /* what the journal says stays true */
        for (uint64_t at = 0; at < (uint32_t)found; at += 32)
            while (f->now.write_count && f->writes[f->now.write_first].handed_bytes <= wire_u64(run + at + 24)) {
                f->now.persisted = f->writes[f->now.write_first].sequence;
                f->now.durable = f->writes[f->now.write_first].last;
                f->now.write_first = (f->now.write_first + 1) % FOLLOWING_WRITES;
                f->now.write_count--;
            }
    }
    need(ring_release(f->inputs[input], (uint32_t)found) == 0, "ring_release");
}

/* A new stay: only what logic lacks is taken along. */
static void enter_anew(void)
{
    struct following_numbers *now = &f->now;
    uint32_t kept = (uint32_t)(now->last - now->applying), first = now->entries - kept;
    uint32_t begin = f->begins[first], bytes = f->begins[now->entries] - begin;
    memmove(f->slots, f->slots + begin, bytes);
    for (uint32_t at = 0; at <= kept; at++)
        f->begins[at] = f->begins[first + at] - begin;
    for (uint32_t at = 0; at < bytes; at += (uint32_t)wire_padded(wire_length(f->slots + at)))
        wire_header(f->slots + at, wire_length(f->slots + at), WIRE_ENTRY, 0);
    f->first = now->applying + 1;
    now->entries = kept;
    now->digests_bytes = 0;
    entered++;
}

static void set_layouts(void)
{
    f->layouts[3] = (struct carrier_layout){7, 1, CARRIER_ENTRIES};
    f->layouts[4] = (struct carrier_layout){8, 2, CARRIER_NO_TAIL};
    f->layouts[5] = (struct carrier_layout){5, 0, CARRIER_NO_TAIL};
    f->layouts[6] = (struct carrier_layout){4, 0, CARRIER_NO_TAIL};
}

int main(int argc, char **argv)
{
    need(argc == 3, "usage: following_harness SEED ROUNDS");
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
    f = calloc(1, sizeof *f);
    int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t cell[DOORBELL_BYTES / 8] = {0}, *memory[FOLLOWING_INPUTS + 3];
    f->calls = shm_calls();
    f->bell = doorbell_open(cell, NULL, event_fd);
    struct doorbell *waker = doorbell_open(cell, NULL, event_fd);
    for (int at = 0; at < FOLLOWING_INPUTS + 3; at++)
        memory[at] = new_ring();
    for (int at = 0; at < FOLLOWING_INPUTS; at++) {
        to[at] = end_of(memory[at], RING_PRODUCER, waker);
        f->inputs[at] = end_of(memory[at], RING_CONSUMER, NULL);
    }
    f->persist = end_of(memory[6], RING_PRODUCER, NULL), persist = end_of(memory[6], RING_CONSUMER, waker);
    f->apply = end_of(memory[7], RING_PRODUCER, NULL), apply = end_of(memory[7], RING_CONSUMER, waker);
    f->send = end_of(memory[8], RING_PRODUCER, NULL), send = end_of(memory[8], RING_CONSUMER, waker);
    need(f->bell && waker && doorbell_watch(f->bell, f->inputs, FOLLOWING_INPUTS) == 0, "start");
    f->persist_bytes = f->apply_bytes = f->send_bytes = RING_BYTES;
    f->slot_bytes_max = RING_BYTES / 8;
    f->run_bytes_max = RING_BYTES;
    f->slots = malloc(SLOTS_BYTES);
    f->slots_bytes_max = SLOTS_BYTES;
    f->commit_count = &counts[0], f->applied_count = &counts[1];
    f->id = OWN, f->leader = LEADER, f->term = TERM_OF_ALL, f->vote = LEADER, f->tag = 2, f->first = 1;
    f->now.deadline_ns = -1;
    set_layouts();
    uint64_t lazy = 0;
    for (long round = atol(argv[2]); round > 0; round--) {
        if (draw(100) == 0)
            lazy = draw(200);
        lazy -= lazy > 0;
        for (uint64_t messages = draw(3); messages > 0; messages--)
            lead();
        if (!lazy) {
            sync_log();
            tell_durable();
            logic();
            hear();
        }
        if (draw(300) == 0)
            give(to[draw(2) ? 0 : 5], (uint8_t[]){8, 0, 0, 0, 38, 0, 0, 0}, 8);
        int reason = following_run(f, (int64_t)monotonic_ns() + (draw(20) ? 0 : 30000), draw(10) ? 0 : 1000);
        if (reason == FOLLOWING_DUE)
            reason = following_turn(f);
        need(reason != FOLLOWING_BROKEN, "a ring refused");
        need(counts[0] <= f->now.last && f->now.applying <= f->now.durable && f->now.applied <= f->now.applying, "I6");
        if (reason > FOLLOWING_DUE) {
            left += reason == FOLLOWING_OTHER;
            full += reason == FOLLOWING_FULL;
            enter_anew();
            if (reason == FOLLOWING_OTHER || draw(4) == 0)
                for (int at = 0; at < FOLLOWING_INPUTS; at++)
                    if (at != 2 || reason == FOLLOWING_OTHER)
                        take_away(at);
            for (int at = 0; at < 3; at++) {
                sync_log();
                hear();
            }
        }
    }
    printf("turns %lu left %lu full %lu entered %lu appended %lu acknowledged %lu fed %lu beats %lu\n", f->turns, left, full, entered,
           appended, acknowledged, fed, beats);
    doorbell_free(f->bell);
    for (int at = 0; at < FOLLOWING_INPUTS; at++) {
        ring_free(to[at]);
        ring_free(f->inputs[at]);
    }
    struct ring_end *others[] = {f->persist, persist, f->apply, apply, f->send, send};
    for (int at = 0; at < 6; at++)
        ring_free(others[at]);
    doorbell_free(waker);
    for (int at = 0; at < FOLLOWING_INPUTS + 3; at++)
        free(memory[at]);
    free(f->slots);
    free(f);
    close(event_fd);
    return 0;
}
