/* The gate under the address and undefined-behaviour sanitizers: hostile bytes in, hostile timing out.
 *
 * usage: gate_harness SEED ROUNDS. Prints one line of totals; a sanitizer ends it otherwise.
 * Connections have no sockets. Everything is drawn from the seed: frames good and broken, cuts, rooms too small,
 * replies to sessions that are there and not, events, subscriptions, clocks that jump, outputs that nobody reads. */
#include "gate.h"
#include "chance.h"
#include <stdio.h>
#include <stdlib.h>

static uint64_t peers_slots;

static uint32_t make_frame(uint8_t *at)
{
    static const uint16_t types[] = {2, 3, 3, 3, 4, 5, 6, 6, 7, 8, 50};
    uint16_t type = draw(300) ? types[draw(sizeof types / sizeof *types)] : 1;
    uint32_t key = type == 6 && draw(2) ? 0 : (uint32_t)draw(40); /* no key: all events of the type */
    uint32_t length = type == 1 || type == 7 ? 32 : type == 8 ? 16 : type == 6 ? 56 + key
                      : type == 2 || type == 4 ? 40 : 40 + key + (uint32_t)draw(100);
    memset(at, 0, length);
    for (uint32_t i = 8; i < length; i++)
        at[i] = (uint8_t)draw(256);
    wire_header(at, length, type, 1);
    if (type == 1) {
        memset(at + 8, 0, 16);
        memcpy(at + 24, "leftfold", 8);
        length = draw(50) ? length : 32 + (uint32_t)draw(80);
        wire_header(at, length, type, 1);
    } else if (type != 8) {
        memset(at + 8, 0, 16);
        at[8] = (uint8_t)(1 + draw(160));
        at[24] = (uint8_t)draw(8);
        memset(at + 25, 0, 7);
    }
    uint16_t key_bytes = (uint16_t)key;
    if (type == 3 || type == 5 || type == 50)
        memcpy(at + 36, &key_bytes, 2);
    if (type == 6) {
        uint16_t actor = (uint16_t)draw(3);
        memcpy(at + 48, &actor, 2);
        memcpy(at + 50, &key_bytes, 2);
    }
    if (draw(400) == 0)
        at[draw(length < 56 ? length : 56)] = (uint8_t)draw(256);
    return length;
}

static uint64_t make_answer(uint8_t *at)
{
    static const uint16_t types[] = {17, 17, 17, 18, 19, 19, 20, 21, 22, 41, 54};
    uint16_t type = types[draw(sizeof types / sizeof *types)];
    uint32_t length = 48 + (uint32_t)draw(200);
    memset(at, 0, wire_padded(length));
    wire_header(at, length, type, (uint16_t)draw(2));
    if (type == 19) {
        uint16_t actor = (uint16_t)draw(3), key = (uint16_t)draw(9);
        memcpy(at + 24, &actor, 2);
        memcpy(at + 26, &key, 2);
    } else {
        at[8] = (uint8_t)(1 + draw(160));
        at[24] = (uint8_t)draw(8);
    }
    return wire_padded(length);
}

static void feed(struct gate *gate, uint32_t number, uint8_t *destination)
{
    static uint8_t bytes[16384];
    uint64_t length = 0;
    if (gate_state(gate, number) == GATE_GREETING && draw(20)) {
        uint32_t token = draw(20) ? gate->limits.tokens[0].length : (uint32_t)draw(80);
        memset(bytes, 't', 128);
        memset(bytes + 8, 0, 16);
        wire_header(bytes, 32 + token, WIRE_HELLO, 1);
        memcpy(bytes + 24, "leftfold", 8);
        length = 32 + token;
    }
    for (uint64_t frames = draw(12); frames > 0; frames--)
        length += make_frame(bytes + length);
    /* Each piece is a block of its own, so that reading a byte too many is seen. */
    for (uint64_t at = 0; at < length;) {
        uint64_t piece = 1 + draw(draw(2) ? 20 : 2000);
        piece = piece > length - at ? length - at : piece;
        uint8_t *copy = malloc(piece);
        memcpy(copy, bytes + at, piece);
        uint64_t room = draw(2) ? 65536 : draw(200) & ~UINT64_C(7);
        uint8_t *claim = room ? malloc(room) : destination;
        int64_t got = gate_feed(gate, number, copy, piece, claim, room, gate->now_ns);
        for (int tries = 0; got >= 0 && gate->report.blocked && tries < 3; tries++)
            gate_feed(gate, number, NULL, 0, destination, 65536, gate->now_ns);
        if (room)
            free(claim);
        free(copy);
        at += piece;
    }
}

int main(int argc, char **argv)
{
    struct gate_limits limits = {
        .connections_max = 20, .sessions_max = 155, .subscriptions_max = 60, .frame_bytes_max = 1024,
        .key_bytes_max = 32, .output_bytes_max = 8192, .hello_ns = 2000, .idle_ns = 9000, .linger_ns = 1000,
        .seed = {1, 2},
    };
    static uint8_t destination[65536];
    state = strtoull(argv[argc > 1 ? 1 : 0], NULL, 10) * 2654435761u + 88172645463325252u;
    limits.tokens_count = (uint32_t)draw(3);
    for (uint32_t at = 0; at < limits.tokens_count; at++) {
        limits.tokens[at].length = 1 + (uint32_t)draw(sizeof limits.tokens[at].bytes);
        memset(limits.tokens[at].bytes, 't', limits.tokens[at].length);
    }
    struct gate *gate = gate_new(&limits);
    wire_header(limits.welcome, 40, WIRE_WELCOME, 1);
    for (long round = 0; round < atol(argv[2]); round++) {
        uint64_t now_ns = gate->now_ns + draw(200);
        if (draw(3) == 0)
            gate_open(gate, -1, now_ns);
        if (gate->used && draw(4))
            feed(gate, (uint32_t)draw(gate->used), destination);
        if (draw(2)) {
            uint64_t bytes = 0, slots = draw(30);
            uint8_t *run = malloc(slots * 256 + 1);
            while (slots-- > 0)
                bytes += make_answer(run + bytes);
            for (uint64_t at = 0; at < bytes; at += wire_padded(wire_length(run + at))) {
                int64_t routed = gate_scatter(gate, run + at, bytes - at, now_ns);
                if (routed < 0)
                    break;
                at += (uint64_t)routed;
                if (at == bytes)
                    break;
                peers_slots++;
            }
            free(run);
        }
        if (gate->used && draw(4) == 0) {
            uint32_t number = (uint32_t)draw(gate->used);
            uint64_t waiting;
            gate_output(gate, number, &waiting);
            if (gate_state(gate, number) != GATE_FREE)
                gate_sent(gate, number, draw(2) ? waiting : draw(waiting + 1));
        }
        if (draw(5) == 0)
            gate_expire(gate, now_ns);
        if (draw(3) == 0)
            gate_flush(gate);
        if (draw(5000) == 0)
            gate_stop(gate, now_ns);
    }
    struct gate_report *report = gate_report(gate);
    printf("accepted %lu closed %lu errors %lu slow %lu in %lu out %lu events %lu peers %lu\n", report->accepted,
           report->closed, report->errors, report->slow_readers, report->frames_in, report->frames_out,
           report->events_out, peers_slots);
    gate_free(gate);
    return 0;
}
