/* gate: the gateway's connections. Bytes in, slots out; slots in, bytes out.
 *
 * In: what a connection sent is checked frame by frame (wire_check), answered here where the gateway
 * itself answers (HELLO, PING, UNSUBSCRIBE), and copied as padded slots into a destination: the
 * claimed part of a ring. A frame that does not fit stays in the connection's leftover and the
 * connection is not read again before it went in: that is how a full ring reaches the client.
 * Out: each slot of a run goes, unpadded, to the connection that last spoke for its session; an
 * EVENT goes once to every connection with a live subscription that matches.
 *
 * Guarantees: no bytes of a client crash it or make it grow beyond its limits (I10); whoever breaks
 * a rule or does not read gets the bytes already queued, an ERROR frame with the reason, and is
 * closed after a bounded linger. Nothing blocks.
 *
 * gate.c does no I/O and reads no clock, and is tested with connections that have no socket
 * (fd -1, gate_feed, gate_output). sockets.c adds epoll, accept, recv and send.
 * One thread only.
 *
 * A connection that speaks RESP2 instead of frames is a visitor: accepted elsewhere, OPEN at once, and
 * what it sends and is sent goes through door.h.
 *
 *   state     from -> to
 *   GREETING  accepted -> OPEN at HELLO
 *   OPEN      -> CLOSING when it breaks a rule, -> DONE when the peer hangs up
 *   CLOSING   output with its ERROR is flushed, then the write side shut; input is discarded
 *   DONE      released (socket closed, memory freed) at the next gate_flush
 */
#ifndef CFFI_CDEF
#pragma once
#include "door.h"
#include "routes.h"
#include "subscriptions.h"
#include "wire.h"
#endif

typedef struct gate gate;

struct gate_token { uint32_t length; uint8_t bytes[64]; };

struct gate_limits {
    uint32_t connections_max;
    uint32_t sessions_max;
    uint32_t subscriptions_max;
    uint32_t frame_bytes_max;
    uint32_t key_bytes_max;
    uint32_t output_bytes_max;   /* waiting for one connection; an ERROR still fits behind it */
    uint64_t hello_ns;           /* from accept to HELLO */
    uint64_t idle_ns;            /* without a byte from the client; 0: for ever */
    uint64_t linger_ns;          /* from ERROR to the close */
    uint8_t welcome[40];         /* the WELCOME frame */
    uint64_t seed[2];            /* of the hashes */
    uint32_t tokens_count;       /* 0: anybody is welcome; else HELLO must carry one of these */
    struct gate_token tokens[8];
};

/* What the caller may read between calls. */
struct gate_report {
    /* now */
    uint64_t listening;      /* a connection may wait to be accepted */
    uint64_t visitors;       /* ... a visitor */
    uint64_t bell;           /* the doorbell's descriptor is readable */
    uint64_t foreign;        /* the descriptor of what Python watches itself is readable */
    uint64_t links;          /* bit i: GATE_LINK + i is readable */
    uint64_t ready;          /* connections with something to receive */
    uint64_t closes;         /* sessions of visitors that have gone, to be closed when there is room */
    uint64_t dirty;          /* connections with something to flush, close or forget */
    uint64_t blocked;        /* gate_receive stopped for want of room */
    uint64_t drained;        /* a DRAIN slot came */
    uint64_t connections;    /* GREETING or OPEN */
    uint64_t closing;        /* CLOSING or DONE */
    uint64_t sessions;
    uint64_t subscriptions;
    uint64_t output_bytes;   /* waiting in all connections */
    /* totals */
    uint64_t accepted;
    uint64_t closed;
    uint64_t errors;         /* ERROR frames, of which: */
    uint64_t slow_readers;
    uint64_t turned_away;
    uint64_t frames_in;
    uint64_t bytes_in;
    uint64_t frames_out;
    uint64_t bytes_out;
    uint64_t events_out;
    uint64_t unrouted;       /* answers whose session has no connection any more */
    /* latencies from COMMAND in to REPLY out, one in flight per connection; the caller empties them */
    uint64_t samples;
    uint64_t sample_ns[1024];
};

gate *gate_new(const struct gate_limits *limits);
void gate_free(gate *gate);
struct gate_report *gate_report(gate *gate);

/* gate.c: no I/O */

/* Take over a connected non-blocking socket, or -1 for none. Returns its number; -1: not taken. */
int64_t gate_open(gate *gate, int fd, uint64_t now_ns);
/* The same for a visitor. */
int64_t gate_open_visitor(gate *gate, int fd, uint64_t now_ns);
/* Receive these bytes as if from the socket; returns the bytes of slots written to destination. */
int64_t gate_feed(gate *gate, uint32_t number, const uint8_t *bytes, uint64_t length,
                  uint8_t *destination, uint64_t room, uint64_t now_ns);
/* Route a run of whole slots. Returns the bytes routed: all, or up to a slot that is for the peers'
 * links (RAFT_MESSAGE, PEERS) and so for the caller. -1: malformed, our bug. */
int64_t gate_scatter(gate *gate, const uint8_t *run, uint64_t bytes, uint64_t now_ns);
/* Close who is late with HELLO, silent for too long, or has lingered. */
void gate_expire(gate *gate, uint64_t now_ns);
/* Close everyone with the reason that the replica stops. */
void gate_stop(gate *gate, uint64_t now_ns);
/* The unsent bytes of a connection, and taking some away: for connections without a socket. */
const uint8_t *gate_output(gate *gate, uint32_t number, uint64_t *length);
void gate_sent(gate *gate, uint32_t number, uint64_t length);
int gate_state(gate *gate, uint32_t number);

/* sockets.c */

enum gate_role { GATE_LISTENER = 0, GATE_BELL = 1, GATE_FOREIGN = 2, GATE_VISITORS = 3,
                 GATE_LINK = 16 /* to 16 + 63 */ };
/* Watch a descriptor; reported in gate_report.listening, .visitors (edge), .bell, .foreign or .links (level).
 * 0 or -errno. */
int gate_watch(gate *gate, int fd, int role);
int gate_unwatch(gate *gate, int fd);
/* Sleep until something is ready: milliseconds, -1 for ever. Returns events seen, or -errno. */
int gate_wait(gate *gate, int timeout_ms);
/* Accept up to `count` connections. Returns how many, or -errno when the system refused. */
int gate_accept(gate *gate, int listener, int count, uint64_t now_ns);
int gate_accept_visitors(gate *gate, int listener, int count, uint64_t now_ns);
/* Take over a connected non-blocking socket of any kind and watch it. Returns its number, or -1:
 * it is still the caller's. */
int64_t gate_adopt(gate *gate, int fd, uint64_t now_ns);
/* Receive once from every ready connection; returns the bytes of slots written. */
int64_t gate_receive(gate *gate, uint8_t *destination, uint64_t room, uint64_t now_ns);
/* Send what waits, finish closing. */
void gate_flush(gate *gate);

#ifndef CFFI_CDEF
/* GATE_SPARE connections beyond the limit may be told that they are too many. */
enum { GATE_RECEIVE_BYTES = 128 * 1024, GATE_SPARE = 64 };
enum gate_connection_state { GATE_FREE = 0, GATE_GREETING, GATE_OPEN, GATE_CLOSING, GATE_DONE };

struct connection {
    int fd;
    uint32_t generation;     /* distinguishes users of one number in stale epoll events */
    uint8_t state;
    uint8_t readable, writable, hangup;      /* as the last edges said */
    uint8_t in_ready, in_dirty, stalled, forget, shut;
    uint32_t leftover_bytes;
    uint8_t *leftover;
    uint8_t *output;
    uint32_t output_start, output_end, output_capacity;
    uint64_t since_ns;       /* accepted; while CLOSING: when that began */
    uint64_t heard_ns;
    uint64_t event_serial;   /* the last event that went out here */
    uint64_t sample_request, sample_ns;
    uint8_t sample_session[16];
    struct visitor *visitor; /* NULL: it speaks frames */
};

struct queue { uint32_t *numbers; uint32_t head, count, capacity; };

struct gate {
    struct gate_limits limits;
    struct gate_report report;
    struct connection *connections;
    uint32_t capacity;       /* connections_max and GATE_SPARE */
    uint32_t used;           /* numbers ever used */
    struct queue freed, ready, dirty;
    struct routes routes;
    struct subscriptions subscriptions;
    struct door *door;       /* NULL: no visitors */
    uint8_t *scratch;        /* leftover and what came behind it */
    uint64_t event_serial;
    uint64_t now_ns;
    uint64_t retained_bytes; /* of the events that belong to one subscriber, still to come */
    uint32_t retained_number, retained_generation;
    int epoll;
};

/* Where split slots go. */
struct destination { uint8_t *at; uint64_t room, bytes; };

void queue_push(struct queue *queue, uint32_t number);
void queue_push_front(struct queue *queue, uint32_t number);
uint32_t queue_pop(struct queue *queue);
void gate_make_ready(struct gate *gate, struct connection *connection);
void gate_make_dirty(struct gate *gate, struct connection *connection);
void gate_fail(struct gate *gate, struct connection *connection, int error);
void gate_done(struct gate *gate, struct connection *connection);
void gate_take(struct gate *gate, struct connection *connection, uint64_t bytes,
               struct destination *to);
void gate_send_some(struct gate *gate, struct connection *connection);
/* Whether its socket holds something that nobody has looked at yet. */
int gate_has_unread(struct gate *gate, struct connection *connection);
void gate_consume_output(struct gate *gate, struct connection *connection, uint64_t bytes);
void gate_release(struct gate *gate, struct connection *connection);
/* Queue these bytes for it, or close it as a slow reader. */
void gate_deliver(struct gate *gate, struct connection *connection, const uint8_t *bytes, uint32_t length);
/* Close it when what waits was sent. */
void gate_hang_up(struct gate *gate, struct connection *connection);
void gate_sample_start(struct gate *gate, struct connection *connection, const uint8_t *frame);
int gate_has_token(const struct gate *gate, const uint8_t *given, uint32_t length);
#endif
