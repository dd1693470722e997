/* The gateway's loop and the journal's fold under the address and undefined-behaviour sanitizers.
 *
 * usage: loop_harness SEED ROUNDS. Prints one line of totals; a sanitizer, or the first broken promise, ends it otherwise.
 * Sockets, rings and bell are real; the other ends of all are here too, in one thread, and do at each round what the seed
 * says: frames whole, cut and broken, clients that do not read or go away, rings that stay full. Runs that are folded lie in
 * blocks of their own, so that a byte too many is seen. */
#include "loop.h"
#include "doorbell.h"
#include "histogram.h"
#include "ring.h"
#include "chance.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 24, RING_BYTES = 1 << 15 };

static struct { int fd; uint64_t said; } clients[CLIENTS];
static uint64_t commands, folded, for_peers, words[4 + 4096];

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

static void talk(int number)
{
    uint8_t bytes[2048] = {0};
    uint32_t length = 0;
    if (!clients[number].said++) {
        wire_header(bytes, 32, WIRE_HELLO, WIRE_VERSION);
        memcpy(bytes + 24, "leftfold", 8);
        length = 32;
    }
    for (uint64_t frames = draw(6); frames > 0; frames--) {
        uint32_t size = 40 + (uint32_t)draw(200);
        uint8_t *at = bytes + length;
        wire_header(at, size, draw(5) ? WIRE_COMMAND : WIRE_QUERY, 1);
        at[8] = (uint8_t)(1 + draw(60));
        at[24] = (uint8_t)(1 + draw(8));
        if (draw(2000) == 0)
            at[draw(40)] = (uint8_t)draw(256);
        length += size;
    }
    for (uint32_t at = 0; at < length;) {
        uint32_t piece = 1 + (uint32_t)draw(length - at);
        ssize_t sent = send(clients[number].fd, bytes + at, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* full, or closed: what is left of a frame never comes, and what follows breaks a rule */
        at += (uint32_t)sent;
    }
}

static void move_clients(struct gate *gate, uint64_t now_ns)
{
    static uint8_t heard[65536];
    int number = (int)draw(CLIENTS), pair[2];
    if (clients[number].fd < 0) {
        need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){2048}, sizeof(int)); /* who does not read is soon found slow */
        if (gate_adopt(gate, pair[0], now_ns) < 0)
            close(pair[0]);
        clients[number].fd = pair[1];
        clients[number].said = 0;
    } else if (draw(60) == 0) {
        close(clients[number].fd);
        clients[number].fd = -1;
    } else if (draw(3)) {
        talk(number);
    } else if (draw(3) == 0) {
        if (recv(clients[number].fd, heard, draw(sizeof heard) + 1, MSG_DONTWAIT) == 0) {
            close(clients[number].fd);
            clients[number].fd = -1;
        }
    }
}

static void answer(struct ring_end *to, int for_send)
{
    static const uint16_t answers[] = {WIRE_REPLY, WIRE_REPLY, WIRE_ANSWER, WIRE_EVENT, WIRE_EVENTS_LOST};
    static const uint16_t sent[] = {WIRE_REFUSED, WIRE_RAFT_MESSAGE, WIRE_REFUSED, WIRE_PEERS, WIRE_REFUSED};
    uint8_t run[8192] = {0};
    uint64_t bytes = 0;
    for (uint64_t slots = 1 + draw(12); slots > 0; slots--) {
        uint32_t length = 48 + (uint32_t)draw(500);
        uint16_t type = (for_send ? sent : answers)[draw(5)];
        wire_header(run + bytes, length, type, 0);
        if (type != WIRE_EVENT) {
            run[bytes + 8] = (uint8_t)(1 + draw(60));
            run[bytes + 24] = (uint8_t)(1 + draw(8));
        }
        bytes += wire_padded(length);
    }
    need(ring_write(to, run, bytes) >= 0, "ring_write");
}

static void take(struct ring_end *from)
{
    uint64_t found = ring_peek_upto(from, 1 + draw(2048));
    if (!found)
        return;
    const uint8_t *run = ring_data(from) + (found >> 32);
    for (uint64_t at = 0; at < (uint32_t)found; at += wire_padded(wire_length(run + at)))
        commands++;
    need(ring_release(from, (uint32_t)found) == 0, "ring_release");
}

/* What Python does with LOOP_SEND. */
static void pass_on(struct gate *gate, struct ring_end *send, uint64_t now_ns)
{
    uint64_t found = ring_peek_upto(send, 4096), length = (uint32_t)found, at = 0;
    const uint8_t *run = ring_data(send) + (found >> 32);
    while (at < length) {
        int64_t routed = gate_scatter(gate, run + at, length - at, now_ns);
        need(routed >= 0, "a slot of send is malformed");
        at += (uint64_t)routed;
        if (at < length) {
            at += wire_padded(wire_length(run + at));
            for_peers++;
        }
    }
    need(ring_release(send, length) == 0, "ring_release");
}

static void fold(void)
{
    uint8_t made[1024] = {0};
    uint64_t bytes = 0, index = 1 + draw(3), last = draw(3);
    for (uint64_t slots = draw(5); slots > 0; slots--) {
        uint8_t *at = made + bytes;
        int entry = draw(4) != 0;
        uint32_t length = entry ? 40 + (uint32_t)draw(60) : 32;
        wire_header(at, length, entry ? WIRE_ENTRY : WIRE_HARD_STATE, 0);
        at[8] = (uint8_t)index;
        at[16] = (uint8_t)(draw(10) == 0);
        at[32] = (uint8_t)(entry && draw(20) == 0 ? draw(6) : 0);
        index += (uint64_t)entry;
        if (draw(15) == 0)
            at[draw(8)] = (uint8_t)draw(256);
        bytes += wire_padded(length);
    }
    uint64_t kept = draw(4) ? bytes : draw(bytes + 1);
    uint8_t *run = malloc(kept);
    memcpy(run, made, kept);
    struct wire_fold fold = {.run = run, .run_bytes = kept, .last = last};
    if (wire_fold(&fold)) {
        need(fold.first == 0 || (fold.first == last + 1 && fold.last >= fold.first), "a gap was folded");
        folded++;
    }
    free(run);
}

int main(int argc, char **argv)
{
    need(argc == 3, "usage: loop_harness SEED ROUNDS");
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
    struct gate_limits limits = {
        .connections_max = 20, .sessions_max = 50, .subscriptions_max = 60, .frame_bytes_max = 1024, .key_bytes_max = 32,
        .output_bytes_max = 4096, .hello_ns = 1u << 30, .idle_ns = 1u << 30, .linger_ns = 1u << 20, .seed = {1, 2},
    };
    wire_header(limits.welcome, 40, WIRE_WELCOME, 1);
    struct gate *gate = gate_new(&limits);
    int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t cell[DOORBELL_BYTES / 8] = {0};
    struct doorbell *bell = doorbell_open(cell, NULL, event_fd), *waker = doorbell_open(cell, NULL, event_fd);
    uint64_t *memory[] = {new_ring(), new_ring(), new_ring()};
    struct ring_end *ingress = end_of(memory[0], RING_CONSUMER, waker);
    struct ring_end *egress = end_of(memory[1], RING_PRODUCER, waker), *send = end_of(memory[2], RING_PRODUCER, waker);
    struct loop loop = {
        .calls = shm_calls(), .bell = bell, .ingress = end_of(memory[0], RING_PRODUCER, NULL),
        .egress = end_of(memory[1], RING_CONSUMER, NULL), .send = end_of(memory[2], RING_CONSUMER, NULL),
        .latency_ns = words, .frame_bytes = 1024, .claim_bytes_max = RING_BYTES / 2, .scatter_bytes_max = 4096,
    };
    struct ring_end *ends[] = {loop.egress, loop.send, loop.ingress};
    need(gate && bell && waker && doorbell_watch(bell, ends, 3) == 0 && gate_watch(gate, event_fd, GATE_BELL) == 0, "start");
    for (int number = 0; number < CLIENTS; number++)
        clients[number].fd = -1;
    for (long round = atol(argv[2]); round > 0; round--) {
        loop.now_ns = (uint64_t)monotonic_ns();
        for (uint64_t moves = draw(6); moves > 0; moves--)
            move_clients(gate, loop.now_ns);
        if (draw(2) == 0)
            answer(draw(3) ? egress : send, 0);
        if (draw(8) == 0)
            answer(send, 1);
        if (draw(8) == 0)
            take(ingress);
        fold();
        loop.reading = draw(20) != 0;
        loop.watchful = draw(2) == 0;
        loop.due_ns = draw(50) ? 1 : loop.now_ns + draw(200000);
        loop.spin_ns = draw(10) ? 0 : 1000;
        int64_t reasons = loop_run(gate, &loop);
        need(reasons > 0 && !(reasons & (LOOP_BROKEN | LOOP_MALFORMED)), "the loop ended for no good reason");
        if (reasons & LOOP_SEND)
            pass_on(gate, loop.send, loop.now_ns);
        if (draw(20) == 0)
            gate_expire(gate, loop.now_ns);
    }
    struct gate_report *report = gate_report(gate);
    struct doorbell_counts counts;
    doorbell_read_counts(bell, &counts);
    printf("turns %lu pauses %lu parks %lu commands %lu out %lu peers %lu errors %lu slow %lu closed %lu folded %lu\n", loop.turns,
           loop.pauses, counts.parks, commands, report->frames_out, for_peers, report->errors, report->slow_readers,
           report->closed, folded);
    gate_free(gate);
    for (int number = 0; number < CLIENTS; number++)
        if (clients[number].fd >= 0)
            close(clients[number].fd);
    struct ring_end *all[] = {loop.egress, loop.send, loop.ingress, ingress, egress, send};
    doorbell_free(bell);
    for (int at = 0; at < 6; at++)
        ring_free(all[at]);
    doorbell_free(waker);
    for (int at = 0; at < 3; at++)
        free(memory[at]);
    close(event_fd);
    return 0;
}
