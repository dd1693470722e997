/* doorbell: how a process sleeps until a ring has something for it.
 *
 * One bell per sleeper, any number of wakers. The bell is one flag word in shared memory (the only
 * word with several writers, I1) and a kernel object that counts: a named semaphore, or an eventfd
 * for the process that must wait for sockets as well.
 *
 *   sleeper                                   waker
 *     flag := 1            seq_cst              publish tail or head           seq_cst
 *     look at every ring   seq_cst              if flag is 1                   seq_cst
 *     nothing there: park                          if exchange(flag, 0) was 1: post
 *
 * Whichever of the two goes second sees what the other wrote, so either the sleeper finds the bytes
 * or a waker finds the flag. One waker alone wins the exchange and posts. tests/models/doorbell.pml
 * proves it with several wakers, and that it fails when either barrier is taken away.
 *
 * Guaranteed: no wake-up is lost while wakers live. A waker killed between its exchange and its
 * post costs the sleeper one time-out, which is why every wait in a process is bounded. The
 * time-out is a probe as well: timeout_rescues counts the waits that ended by time-out although
 * bytes were there and no waker was on its way. It is 0 unless a waker was killed or stopped there.
 *
 * Tokens: a waker may post after the sleeper found the bytes by itself. Such a token is drained
 * before the next park, so that they do not pile up, or it causes one look too many.
 *
 * Left to others: creating and unlinking the semaphore (doorbell.py), inheriting the eventfd.
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>
#endif

#define DOORBELL_BYTES 128 /* of shared memory, aligned to 8 at least */

#define DOORBELL_TIMED_OUT 0
#define DOORBELL_READY 1
#define DOORBELL_INTERRUPTED 2 /* by a signal, so that the caller can run its handler */
#define DOORBELL_BUSY -1       /* another thread sleeps on it */
#define DOORBELL_FORKED -2
#define DOORBELL_INVALID -3
#define DOORBELL_FAILED -4     /* the kernel refused; errno says why */
#define DOORBELL_CLOSED -5

struct doorbell;
struct ring_end;

struct doorbell_counts {
    uint64_t waits;           /* calls of doorbell_wait */
    uint64_t parks;           /* times in the kernel */
    uint64_t timeouts;        /* waits that ended with nothing */
    uint64_t timeout_rescues; /* see above: must stay 0 */
    uint64_t spurious;        /* parks that ended with nothing, not by time-out */
    uint64_t rings;           /* posts by this handle */
    uint64_t spun;            /* waits that ended while spinning */
};
#define DOORBELL_COUNTS 7

/* Sleeper: keep DOORBELL_COUNTS words, in the order above, as they are at the end of each wait, and
 * histograms of the time from a park (or an arm) to its end, and from the end of a wait that parked
 * to the next park: what the process was awake for. Any may be NULL; the two histograms only
 * together. */
void doorbell_record(struct doorbell *bell, uint64_t *words, uint64_t *parked_ns,
                     uint64_t *awake_ns);

/* One of `semaphore` (a name for sem_open, not NULL) and `event_fd` (>= 0). NULL: errno. */
struct doorbell *doorbell_open(void *cell, const char *semaphore, int event_fd);

/* Let go of the cell and the semaphore; a closed bell is not waited on, and ringing it does
 * nothing. doorbell_free ends it; only when no ring end has it as its peer's. */
void doorbell_close(struct doorbell *bell);
void doorbell_free(struct doorbell *bell);

/* Waker: wake the sleeper if it sleeps. */
void doorbell_ring(struct doorbell *bell);

/* Sleeper: the ends to look at; the array is copied. 0, or DOORBELL_FAILED. */
int doorbell_watch(struct doorbell *bell, struct ring_end **ends, uint32_t count);

/* Sleeper: look, spin for spin_ns, park until a ring, a signal or timeout_ns (< 0: for ever). */
int doorbell_wait(struct doorbell *bell, int64_t spin_ns, int64_t timeout_ns);

/* Sleeper with an event loop: 1 = now safe to block in epoll on the eventfd, 0 = look first. Behind
 * the block, `rung` says whether the eventfd was readable: only then is it read, so that who is woken
 * by something else pays no system call for the bell. */
int doorbell_arm(struct doorbell *bell);
int doorbell_disarm(struct doorbell *bell, int rung);

int doorbell_armed(struct doorbell *bell);  /* the flag: is the sleeper asleep, or about to be? */
void doorbell_read_counts(struct doorbell *bell, struct doorbell_counts *counts);

int64_t monotonic_ns(void);

/* Have the kernel SIGKILL this process when the thread that started it ends. 0, or errno. */
int die_with_parent(void);
