/* The short roads of journal, peers and logic (batch, carrier, passage) under the address and undefined-behaviour sanitizers.
 *
 * usage: roads_harness SEED ROUNDS. Prints one line of totals; a sanitizer, or the first broken promise, ends it otherwise.
 * Rings, bell, file and sockets are real; the other ends are here too, in one thread, and do what the seed says: runs whole
 * and broken, files that refuse, rings that stay full, peers that send any bytes, cut anywhere. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "batch.h"
#include "carrier.h"
#include "doorbell.h"
#include "histogram.h"
#include "passage.h"
#include "ring.h"
#include "chance.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RING_BYTES = 1 << 13, FRAME_BYTES_MAX = 600, READ_BYTES_MAX = 900, SEGMENT_BYTES = 1 << 16, RECORD_BYTES = 56 };

static uint64_t batches, refused, passed, asked, sent, entries, words[4][4096];

struct pair { uint64_t *memory; struct ring_end *in, *out; };

static struct pair new_pair(void)
{
    struct pair pair = {.memory = calloc(1, RING_HEADER_BYTES + RING_BYTES)};
    need(pair.memory && ring_format(pair.memory, RING_HEADER_BYTES + RING_BYTES, RING_BYTES, 0) == 0, "ring_format");
    pair.in = ring_open(pair.memory, RING_HEADER_BYTES + RING_BYTES, RING_PRODUCER, NULL);
    pair.out = ring_open(pair.memory, RING_HEADER_BYTES + RING_BYTES, RING_CONSUMER, NULL);
    need(pair.in && pair.out, "ring_open");
    return pair;
}

static void free_pair(struct pair *pair)
{
    ring_free(pair->in);
    ring_free(pair->out);
    free(pair->memory);
}

/* All that is there, or nothing; its bytes. */
static uint64_t take_all(struct ring_end *from)
{
    uint64_t found, all = 0;
    while ((found = ring_peek_upto(from, UINT64_MAX))) {
        need((uint32_t)found != UINT32_MAX && ring_release(from, (uint32_t)found) == 0, "take");
        all += (uint32_t)found;
    }
    return all;
}

static void put_u16(uint8_t *at, uint16_t value) { memcpy(at, &value, sizeof value); }
static void put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* Slots as consensus writes them behind entry `last`, now and then with another byte in one. */
static uint64_t make_run(uint8_t *run, uint64_t last)
{
    uint64_t bytes = 0;
    for (uint64_t slots = 1 + draw(4); slots > 0; slots--) {
        uint8_t *at = run + bytes;
        int entry = draw(3) != 0;
        uint32_t length = entry ? 40 + (uint32_t)draw(200) : 32;
        memset(at, 0, wire_padded(length));
        wire_header(at, length, entry ? WIRE_ENTRY : WIRE_HARD_STATE, 0);
        put_u64(at + 8, entry ? ++last : 1);
        put_u64(at + 16, 1);
        if (entry)
            for (uint32_t body = 40; body < length; body++)
                at[body] = (uint8_t)draw(256);
        else
            put_u64(at + 24, draw(last + 1 + (draw(20) == 0)));
        if (draw(30) == 0)
            at[4 + draw(30)] ^= (uint8_t)(1 << draw(8));
        bytes += wire_padded(length);
    }
    return bytes;
}

static void move_journal(struct batch *batch, struct pair *persist, struct pair *persisted, int file)
{
    static uint8_t run[8192], found[8192 + RECORD_BYTES];
    uint64_t bytes = make_run(run, batch->last), offset = batch->offset, last = batch->last, taken_before = batch->persist_bytes;
    if (ring_write(persist->in, run, bytes) != 1)
        return; /* a slot that is none: the ring refuses it */
    batch->bytes_max = draw(10) ? 8192 : 100;
    batch->place_at = draw(20) ? UINT64_MAX : offset;
    batch->end = draw(20) ? SEGMENT_BYTES : offset + draw(200);
    int bad = draw(15) == 0 ? open(draw(2) ? "/dev/full" : "/dev/null", O_RDWR | O_CLOEXEC) : -1;
    batch->file = bad >= 0 ? bad : file;
    struct batch_limits limits = {.offset = draw(SEGMENT_BYTES), .persist_bytes = draw(1 << 20), .until_ns = draw(2) ? UINT64_MAX : 0};
    int64_t answer = draw(2) ? batch_take(batch) : batch_run(batch, &limits, 0, 0);
    uint64_t taken = batch->persist_bytes - taken_before;
    if (bad >= 0) {
        need(taken == 0 && answer <= DOORBELL_READY && batch->last == last && batch->offset == offset, "a refusal changed something");
        close(bad);
        refused++;
    } else if (taken) {
        need(taken == bytes && batch->offset == offset + RECORD_BYTES + bytes, "another batch was taken");
        need(pread(file, found, RECORD_BYTES + bytes, (off_t)offset) == (ssize_t)(RECORD_BYTES + bytes), "it is not in the file");
        need(memcmp(found + RECORD_BYTES, run, bytes) == 0 && wire_u32(found + 12) == batch_crc(0, run, bytes), "other bytes");
        need(batch->commit <= batch->last, "I6");
        batches++;
    } else {
        need(batch->last == last && batch->offset == offset, "nothing was taken, and something changed");
    }
    take_all(persist->out);
    if (draw(3))
        take_all(persisted->out);
    if (batch->offset > SEGMENT_BYTES - 1024)
        batch->offset = 4096;
}

static const struct carrier_layout layouts[CARRIER_TAGS] = {
    [1] = {4, 1, CARRIER_NO_TAIL}, [2] = {5, 0, CARRIER_ENTRIES}, [5] = {4, 0, CARRIER_BYTES},
};

/* A message from replica 2 to replica 1, nearly always as it should be. */
static uint64_t make_message(uint8_t *at, uint64_t target, uint64_t source)
{
    static const uint16_t tags[] = {1, 2, 5};
    uint16_t tag = tags[draw(3)];
    uint64_t fixed = 8 + 8 * layouts[tag].numbers, length = fixed;
    memset(at, 0, FRAME_BYTES_MAX + 64);
    put_u64(at + 8, target);
    put_u64(at + 16, source);
    put_u64(at + 24, draw(5));
    if (tag == 2) {
        uint64_t index = draw(9);
        put_u64(at + 32, index);
        for (uint64_t some = draw(4); some > 0 && length + 120 < FRAME_BYTES_MAX; some--) {
            uint32_t size = 40 + (uint32_t)draw(60);
            wire_header(at + length, size, WIRE_ENTRY, 0);
            put_u64(at + length + 8, ++index);
            length += wire_padded(size);
        }
    } else if (tag == 5) {
        length += draw(100);
    }
    wire_header(at, (uint32_t)length, WIRE_RAFT_MESSAGE, tag);
    if (draw(40) == 0)
        at[draw(length)] ^= (uint8_t)(1 << draw(8));
    if (draw(200) == 0)
        put_u16(at + 6, (uint16_t)draw(70));
    return wire_padded((uint32_t)length);
}

static void move_peer(struct carrier *carrier, int *peer, struct pair *receive)
{
    static uint8_t bytes[4 * FRAME_BYTES_MAX];
    int pair[2];
    if (*peer < 0) {
        need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){2048}, sizeof(int));
        carrier->fd = pair[0];
        *peer = pair[1];
        carrier->asks = carrier->lost = carrier->held = 0;
        carrier->input_bytes = carrier->unsent_bytes = 0;
    }
    uint64_t length = make_message(bytes, 1, 2);
    for (uint64_t at = 0; at < length;) {
        uint64_t piece = 1 + draw(length - at);
        ssize_t wrote = send(*peer, bytes + at, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (wrote <= 0)
            break;
        at += (uint64_t)wrote;
        if (draw(3) == 0)
            carrier_receive(carrier, layouts, shm_calls(), receive->in, 1);
    }
    carrier_receive(carrier, layouts, shm_calls(), receive->in, 1);
    uint64_t found;
    while (draw(4) && (found = ring_peek_upto(receive->out, 1))) {
        const uint8_t *slot = ring_data(receive->out) + (found >> 32);
        uint8_t *copy = malloc(wire_length(slot)); /* of its own length, so that a byte too many is seen */
        memcpy(copy, slot, wire_length(slot));
        need(carrier_passes(layouts, copy, wire_length(slot), 2, 1), "what does not pass was carried");
        free(copy);
        need(ring_release(receive->out, (uint32_t)found) == 0, "release");
        passed++;
    }
    need(carrier->input_bytes <= FRAME_BYTES_MAX + READ_BYTES_MAX, "more is held than may be");
    uint8_t *run = malloc(3 * (FRAME_BYTES_MAX + 64));
    uint64_t run_bytes = 0;
    for (uint64_t some = draw(3); some > 0; some--) {
        uint8_t message[FRAME_BYTES_MAX + 64];
        run_bytes += length = make_message(message, draw(8) ? 2 : 3, 1);
        wire_header(message, (uint32_t)length, draw(20) ? WIRE_RAFT_MESSAGE : WIRE_REFUSED, 1); /* ours are whole */
        memcpy(run + run_bytes - length, message, length);
    }
    uint8_t *exact = malloc(run_bytes ? run_bytes : 1);
    memcpy(exact, run, run_bytes);
    uint64_t gone = carrier_send(carrier, exact, run_bytes, 1);
    need(gone <= run_bytes && carrier->unsent_bytes <= FRAME_BYTES_MAX, "more was sent than there was");
    sent += gone > 0;
    free(exact);
    free(run);
    static uint8_t heard[4096];
    if (draw(3) && recv(*peer, heard, sizeof heard, MSG_DONTWAIT) == 0)
        need(0, "the carrier closed a socket");
    if (carrier->asks) { /* what Python does: it takes what is there, and goes on or ends the link */
        asked++;
        carrier->asks = carrier->held = 0;
        carrier->input_bytes = carrier->unsent_bytes = 0;
        if (carrier->lost || draw(2)) {
            close(carrier->fd);
            close(*peer);
            *peer = -1;
        }
    } else if (draw(50) == 0) {
        shutdown(*peer, SHUT_WR);
    }
}

static void move_logic(struct passage *passage, struct pair *apply, struct pair *egress, struct pair *applied)
{
    static uint8_t run[8192];
    uint64_t bytes = make_run(run, passage->index);
    if (draw(2)) {
        bytes = wire_padded(wire_length(run));
        if (bytes < 8 || bytes > 400)
            return;
    }
    if (ring_write(apply->in, run, bytes) != 1)
        return;
    if (passage_take(passage)) {
        need(passage->body_bytes + 40 == passage->slot_bytes && wire_padded((uint32_t)passage->slot_bytes) == bytes, "another entry");
        uint8_t *body = malloc(passage->body_bytes + 1);
        memcpy(body, passage->body, passage->body_bytes);
        free(body);
        uint8_t out[320] = {0};
        wire_header(out, 320, WIRE_REPLY, 0);
        int rest = passage_give(passage, out, draw(3) ? sizeof out : 0, run, 32);
        if (rest == PASSAGE_EGRESS) {
            take_all(egress->out);
            rest = passage_give(passage, out, 0, run, 32);
        }
        need(rest == PASSAGE_DONE || rest == PASSAGE_APPLIED || rest == PASSAGE_BROKEN, "it ended in no way that there is");
        entries++;
    }
    take_all(apply->out);
    if (draw(3) == 0)
        take_all(applied->out);
}

int main(int argc, char **argv)
{
    need(argc == 3, "usage: roads_harness SEED ROUNDS");
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
    int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), file = memfd_create("segment", MFD_CLOEXEC), peer = -1;
    uint64_t cell[DOORBELL_BYTES / 8] = {0};
    struct doorbell *bell = doorbell_open(cell, NULL, event_fd);
    struct pair persist = new_pair(), persisted = new_pair(), receive = new_pair(), apply = new_pair(), egress = new_pair(),
                applied = new_pair();
    struct batch batch = {
        .calls = shm_calls(), .persist = persist.out, .persisted = persisted.in, .bell = bell, .bytes_max = 8192,
        .write_ns = words[0], .fsync_ns = words[1], .batch_bytes = words[2], .batches = words[3], .bytes = words[3] + 1,
        .syncs = words[3] + 2, .durable_index = words[3] + 3, .seed = 7, .offset = 4096, .last = 5, .last_term = 1,
    };
    struct passage passage = {
        .calls = shm_calls(), .apply = apply.out, .egress = egress.in, .applied = applied.in, .run_bytes_max = 4096,
        .egress_bytes_max = 2048, .apply_ns = words[0], .entries = words[3] + 4, .applied_index = words[3] + 5,
        .apply_used_bytes = words[3] + 6,
    };
    struct carrier *carrier = carrier_new(FRAME_BYTES_MAX, READ_BYTES_MAX);
    need(bell && carrier && file >= 0 && doorbell_watch(bell, &persist.out, 1) == 0, "start");
    carrier->peer = 2;
    carrier->own = 1;
    for (long round = atol(argv[2]); round > 0; round--) {
        move_journal(&batch, &persist, &persisted, file);
        move_peer(carrier, &peer, &receive);
        move_logic(&passage, &apply, &egress, &applied);
    }
    printf("batches %lu refused %lu passed %lu asked %lu sent %lu entries %lu\n", batches, refused, passed, asked, sent, entries);
    if (peer >= 0) {
        close(peer);
        close(carrier->fd);
    }
    carrier_free(carrier);
    doorbell_free(bell);
    struct pair *all[] = {&persist, &persisted, &receive, &apply, &egress, &applied};
    for (int at = 0; at < 6; at++)
        free_pair(all[at]);
    close(event_fd);
    close(file);
    return 0;
}
