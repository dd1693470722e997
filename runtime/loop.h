/* loop: the gateway's turns. Wait, scatter `egress` and `send`, receive into `ingress`, flush; again and again, until
 * there is something that Python does.
 *
 * So a batch costs no Python in the gateway at all. What Python does: links to other replicas, as far as they have no carrier
 * (carrier.h), and clients who speak TLS (descriptors that it watches itself, the ring `bulk_send`, slots of `send` that are
 * for peers), accepting, and looking after things every now and then. It calls again at once.
 *
 * Guarantees: it never waits on a ring (I12): `egress` and `send` are always drained, and while `ingress` is full clients
 * are not read. Between two looks at the sockets a bounded part of everything is done. A call ends soon after `due_ns`, at a
 * signal, and at the end of the turn in which `leave` was set.
 *
 * Rings and bell are entered through the table of calls.h, since their code is another module's.
 */
#ifndef CFFI_CDEF
#pragma once
#include "calls.h"
#include "carrier.h"
#include "gate.h"
#endif

#define LOOP_CARRIERS 16

struct loop {
    /* given once */
    const struct shm_calls *calls;
    struct doorbell *bell;
    struct ring_end *ingress, *egress, *send;
    struct ring_end *bulk;       /* NULL: there are no peers */
    struct ring_end *receive;    /* likewise */
    struct carrier_layout layouts[16]; /* CARRIER_TAGS */
    uint64_t *latency_ns;        /* a histogram for gate_report's samples; NULL: nobody counts them */
    uint64_t frame_bytes;        /* the least room for reading: the longest frame, padded */
    uint64_t claim_bytes_max, scatter_bytes_max;
    uint64_t spin_ns;            /* how long sockets and rings are polled after the last that came */
    /* given when a link has one: watched as GATE_LINK and its place here */
    struct carrier *carriers[LOOP_CARRIERS];
    /* given for each call */
    uint64_t due_ns;
    uint64_t accept_ns;          /* not before this are waiting connections reported; 0: at once */
    uint32_t reading;            /* clients are accepted and read */
    uint32_t watchful;           /* end after each turn */
    volatile uint32_t leave;     /* set by whoever wants Python to look; the caller clears it */
    /* found */
    uint32_t paused;             /* clients are not read: `ingress` is full */
    uint64_t now_ns;             /* of the last turn */
    uint64_t busy_ns;
    uint64_t turns, pauses;      /* totals */
};

/* Why a call ended: any of these, or'ed, or a negative errno of the system. */
enum loop_reason {
    LOOP_FOREIGN = 1,      /* the descriptors that Python watches */
    LOOP_BULK = 2,         /* `bulk_send` has something */
    LOOP_SEND = 4,         /* the first slot of `send` is for peers, or broken */
    LOOP_ACCEPT = 8,       /* a connection waits */
    LOOP_DUE = 16,
    LOOP_DRAINED = 32,
    LOOP_LEFT = 64,        /* a signal, `leave` or `watchful` */
    LOOP_BROKEN = 128,     /* a ring or the bell refused: looking at it from Python says why */
    LOOP_LINK = 512,       /* a carrier asks */
    LOOP_MALFORMED = 256   /* `egress` carried what logic must not write: our bug */
};

int64_t loop_run(gate *gate, struct loop *loop);
