/* ring: one producer, one consumer, slots of bytes in shared memory.
 *
 * The memory of a ring, drawn from its first byte. Lines are 128 bytes apart, so that neither a
 * cache line nor the adjacent-line prefetcher joins a word of the producer to a word of the
 * consumer.
 *
 *        0  magic u64 | layout u64 | capacity u64          written once, by ring_format
 *      128  tail u64                                       written by the producer only      (I1)
 *      256  head u64 | taken u64                           written by the consumer only
 *      384  producer_waits u32 | 0 u32 | stamp u64 | stamped_ns u64    by the producer only
 *      512  data[capacity]                                 capacity is a power of two
 *
 * tail and head are positions, not offsets: they only grow, `position & (capacity - 1)` is the
 * offset, and `tail - head` is the number of bytes in use, also when a position wraps past 2^64.
 *
 * A slot begins at an offset that divides by 8 and starts with 8 bytes:
 *
 *        0  length u32   bytes of the slot, header included, padding to 8 excluded
 *        4  type u16     0 = padding, which only the ring itself writes
 *        6  tag u16      means nothing here
 *
 * A run is one or more slots, each padded to 8, side by side. A run never crosses the end of the
 * data: where it does not fit before the end, one padding slot fills the rest and the run starts at
 * offset 0. The padding is published even if the run does not fit at the front yet; otherwise a
 * ring with enough space in two parts could refuse a run for ever.
 *
 * Guaranteed: a run becomes visible whole, by ONE store of tail. A producer that is killed before
 * that store leaves nothing visible, and one killed after it leaves the run whole, so that there is
 * nothing to repair; a new producer goes on at tail, a new consumer at head (what was peeked and
 * not released comes again). Two threads inside one end, or one end used in a child of fork, are
 * refused. A ring never blocks and never allocates: full and empty are answers.
 *
 * Either end may be told to record what passes it (ring_record). One run at a time is followed: the
 * producer stamps the next run it publishes once the consumer has taken the run stamped before. So
 * wait_ns is how old the oldest bytes were that a consumer found, not a mean over all runs; a run
 * counts as taken by the last peek before its first slot is released.
 *
 * Left to others: who may open which end (runtime/topology.py), sleeping (doorbell.h), the name and
 * the life of the memory (segment.py), and what the slots mean.
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>
/* Labels at the instants where a process could be killed, stopped or delayed. Nothing is there in a
 * normal build; the harness of the tests defines crash_point(). (Inner directives are indented,
 * since the glue cuts at the first plain one.) */
# ifdef LEFTFOLD_CRASH_POINTS
void crash_point(const char *label);
#  define CRASH_POINT(label) crash_point(label)
# else
#  define CRASH_POINT(label) ((void)0)
# endif
#endif

#define RING_HEADER_BYTES 512
#define RING_CAPACITY_MIN 64
#define RING_CAPACITY_MAX 1073741824

/* Answers below zero, or as the text below says. */
#define RING_BUSY 1    /* another thread is inside this end, or a claim is open */
#define RING_FORKED 2  /* the end was opened by the parent of this process */
#define RING_INVALID 3 /* the caller broke a rule: size, slot header, commit without claim */
#define RING_CORRUPT 4 /* the memory holds what no producer of ours writes */
#define RING_CLOSED 5  /* after ring_close */

#define RING_PRODUCER 1
#define RING_CONSUMER 2

struct ring_end;
struct doorbell;

/* A hash over every offset of the layout: two builds that disagree must not share a ring. */
uint64_t ring_layout(void);

/* Write a ring's header over `bytes` bytes. Both positions start at `position`, a multiple of 8.
 * 0, or -RING_INVALID. */
int ring_format(void *memory, uint64_t bytes, uint64_t capacity, uint64_t position);

/* Open one end; NULL if the memory holds no ring of this layout that fits into `bytes`, or if there
 * is no memory for it. `peer_bell` (may be NULL) is rung when the other side may be asleep. */
struct ring_end *ring_open(void *memory, uint64_t bytes, int role, struct doorbell *peer_bell);

/* Let go of the memory, which may be unmapped then: every call after it answers RING_CLOSED, and a
 * bell that watches the end finds nothing there. ring_free is for ends that no bell watches. */
void ring_close(struct ring_end *end);
void ring_free(struct ring_end *end);

uint64_t ring_capacity(struct ring_end *end);
uint64_t ring_position(struct ring_end *end); /* of this end: the tail or the head */
uint64_t ring_used(struct ring_end *end);     /* bytes now between head and tail */

/* Producer: copy a run and publish it. 1 written, 0 full and nothing written, < 0 an error. */
int ring_write(struct ring_end *end, const void *run, uint64_t size);

/* Producer: the address of `size` contiguous bytes, 0 if full, or an error (all below 16). The end
 * then belongs to this claim until ring_commit. */
uint64_t ring_claim(struct ring_end *end, uint64_t size);

/* Producer: as ring_claim, for as much as there is between minimum and maximum; see ring_claimed */
uint64_t ring_claim_upto(struct ring_end *end, uint64_t minimum, uint64_t maximum);
uint64_t ring_claimed(struct ring_end *end);

/* Producer: publish the first `size` bytes of the claim, which are a run; 0 gives it all back. */
int ring_commit(struct ring_end *end, uint64_t size);

/* Consumer: the longest contiguous run now, as offset << 32 | length; 0 if the ring is empty. An
 * error is error << 32 | UINT32_MAX. _upto stops before the slot that would pass `maximum`, but
 * gives one. */
uint64_t ring_peek(struct ring_end *end);
uint64_t ring_peek_upto(struct ring_end *end, uint64_t maximum);

/* Consumer: free the first `size` bytes of what was peeked, which are whole slots. 0 or error. */
int ring_release(struct ring_end *end, uint64_t size);

/* Histograms (histogram.h) that an end fills from now on; NULL: not that one. They cost a look at
 * the clock for each peek and release of a consumer, and for each stamp and claim of a producer. */
struct ring_figures {
    uint64_t *claim_ns;    /* producer: from a claim to its commit */
    uint64_t *wait_ns;     /* consumer: how long the oldest run was there before it was taken */
    uint64_t *service_ns;  /* consumer: from a peek to the release of what it showed */
    uint64_t *batch_bytes; /* consumer: what one release freed */
    uint64_t *fill_bytes;  /* consumer: what was there when it looked */
};
void ring_record(struct ring_end *end, const struct ring_figures *figures);

/* Which of these ends have something to do: bit i for ends[i], of at most 64. Each belongs to this
 * thread. One call instead of a peek at each. */
uint64_t ring_ready_of(struct ring_end **ends, uint32_t count);

#ifndef CFFI_CDEF
/* For C alone. ring_ready: is there something to do at this end? Only for the thread that owns the
 * end. A consumer is ready when there are bytes, a producer when it found the ring full and now
 * what it asked for fits. ring_served ends a producer's waiting: it is told once. */
const uint8_t *ring_data(const struct ring_end *end); /* offsets of ring_peek are from here */
int ring_ready(struct ring_end *end);
void ring_served(struct ring_end *end);

/* Grows in each child of fork; a handle made under another number is refused. */
extern unsigned fork_generation;
#endif
