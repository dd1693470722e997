/* doorbell: see doorbell.h for the handshake.
 *
 * The wait is on CLOCK_MONOTONIC: posix_ipc's timed acquire follows the wall clock, which an
 * operator may set, so Python only creates and unlinks the semaphore.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "doorbell.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "ring.h"

#define SECOND_NS 1000000000LL
/* How long a time-out that found bytes waits for the waker that may be just about to post. */
#define GRACE_NS 10000000LL
#define SPINS_PER_LOOK_AT_CLOCK 16

struct doorbell_cell {
    _Atomic uint32_t flag;
    uint8_t pad[DOORBELL_BYTES - 4];
};
_Static_assert(sizeof(struct doorbell_cell) == DOORBELL_BYTES, "layout");
_Static_assert(sizeof(struct doorbell_counts) == DOORBELL_COUNTS * 8, "words of one size");

struct doorbell {
    struct doorbell_cell *cell;
    sem_t *semaphore;
    int event_fd;
    uint32_t count;
    int closed;
    unsigned generation;
    atomic_int inside;
    struct ring_end **ends;
    struct doorbell_counts counts;
    uint64_t *words, *parked_ns, *awake_ns; /* what others read, or NULL */
    int64_t parked_since_ns, awake_since_ns;
    _Atomic uint64_t rings; /* atomic: a test's threads may share a waker's handle */
};

int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

int die_with_parent(void) { return prctl(PR_SET_PDEATHSIG, SIGKILL) ? errno : 0; }

struct doorbell *doorbell_open(void *cell, const char *semaphore, int event_fd) {
    if ((uintptr_t)cell % 8 || (semaphore != NULL) == (event_fd >= 0)) {
        errno = EINVAL;
        return NULL;
    }
    struct doorbell *bell = calloc(1, sizeof *bell);
    if (!bell) return NULL;
    bell->cell = cell;
    bell->event_fd = event_fd;
    bell->generation = fork_generation;
    if (semaphore) {
        bell->semaphore = sem_open(semaphore, 0);
        if (bell->semaphore == SEM_FAILED) {
            free(bell);
            return NULL;
        }
    }
    return bell;
}

void doorbell_close(struct doorbell *bell) {
    if (bell->closed) return;
    bell->closed = 1;
    if (bell->semaphore) sem_close(bell->semaphore);
}

void doorbell_free(struct doorbell *bell) {
    doorbell_close(bell);
    free(bell->ends);
    free(bell);
}

void doorbell_record(struct doorbell *bell, uint64_t *words, uint64_t *parked_ns,
                     uint64_t *awake_ns) {
    bell->words = words;
    bell->parked_ns = parked_ns;
    bell->awake_ns = awake_ns;
}

static void publish(struct doorbell *bell) {
    if (!bell->words) return;
    struct doorbell_counts counts;
    uint64_t copies[DOORBELL_COUNTS];
    doorbell_read_counts(bell, &counts);
    memcpy(copies, &counts, sizeof copies);
    for (uint32_t i = 0; i < DOORBELL_COUNTS; i++) counter_set(bell->words + i, copies[i]);
}

static void record_park(struct doorbell *bell) {
    if (!bell->parked_ns) return;
    bell->parked_since_ns = monotonic_ns();
    if (bell->awake_since_ns)
        histogram_record(bell->awake_ns, (uint64_t)(bell->parked_since_ns - bell->awake_since_ns));
}

static void record_woken(struct doorbell *bell) {
    if (!bell->parked_ns) return;
    bell->awake_since_ns = monotonic_ns();
    histogram_record(bell->parked_ns, (uint64_t)(bell->awake_since_ns - bell->parked_since_ns));
}

static void post(struct doorbell *bell) {
    if (bell->semaphore) {
        sem_post(bell->semaphore); /* Fails only at 2^31 tokens: the sleeper is awake. */
    } else {
        const uint64_t one = 1;
        /* EAGAIN at 2^64 - 2 tokens: likewise. */
        while (write(bell->event_fd, &one, sizeof one) < 0 && errno == EINTR) {}
    }
}

void doorbell_ring(struct doorbell *bell) {
    if (bell->closed) return;
    /* Seq_cst: the waker's half, after its seq_cst publication; pairs with the store in set_flag().
     * */
    if (!atomic_load_explicit(&bell->cell->flag, memory_order_seq_cst)) return;
    CRASH_POINT("flag seen");
    /* The exchange chooses one waker. Seq_cst like the rest; nothing hangs on it beyond atomicity.
     * */
    if (!atomic_exchange_explicit(&bell->cell->flag, 0, memory_order_seq_cst)) return;
    CRASH_POINT("flag taken");
    post(bell);
    atomic_fetch_add_explicit(&bell->rings, 1, memory_order_relaxed);
}

int doorbell_watch(struct doorbell *bell, struct ring_end **ends, uint32_t count) {
    struct ring_end **copy = malloc((count ? count : 1) * sizeof *copy);
    if (!copy) return DOORBELL_FAILED;
    memcpy(copy, ends, count * sizeof *copy);
    free(bell->ends);
    bell->ends = copy;
    bell->count = count;
    return 0;
}

static int look(struct doorbell *bell) {
    int ready = 0;
    for (uint32_t i = 0; i < bell->count; i++) ready |= ring_ready(bell->ends[i]);
    return ready;
}

/* Answer "ready", and tell each producer that it has been told. */
static int serve(struct doorbell *bell) {
    for (uint32_t i = 0; i < bell->count; i++)
        if (ring_ready(bell->ends[i])) ring_served(bell->ends[i]);
    return DOORBELL_READY;
}

/* Of an eventfd that is readable; nobody else reads it. */
static void take_tokens(struct doorbell *bell) {
    uint64_t tokens;
    if (read(bell->event_fd, &tokens, sizeof tokens) < 0) return; /* Only EINTR: it is found again. */
}

static void drain(struct doorbell *bell) {
    if (bell->semaphore) {
        while (sem_trywait(bell->semaphore) == 0) {}
    } else {
        struct pollfd waiting = {.fd = bell->event_fd, .events = POLLIN};
        /* Poll first: the descriptor may be a blocking one. */
        if (poll(&waiting, 1, 0) == 1) take_tokens(bell);
    }
}

static void set_flag(struct doorbell *bell) {
    /* Seq_cst: the sleeper's half; ordered before its loads in ring_ready(), pairs with the load in
     * doorbell_ring(). */
    atomic_store_explicit(&bell->cell->flag, 1, memory_order_seq_cst);
}

static void clear_flag(struct doorbell *bell) {
    /* Relaxed: a waker that still sees 1 posts a token too many, which drain() takes. */
    atomic_store_explicit(&bell->cell->flag, 0, memory_order_relaxed);
}

/* 0 on a token, else errno: ETIMEDOUT, EINTR. deadline_ns < 0: for ever. */
static int park(struct doorbell *bell, int64_t deadline_ns) {
    struct timespec time = {.tv_sec = deadline_ns / SECOND_NS, .tv_nsec = deadline_ns % SECOND_NS};
    CRASH_POINT("parking");
    bell->counts.parks++;
    if (bell->semaphore) {
        int failed = deadline_ns < 0 ? sem_wait(bell->semaphore)
                                     : sem_clockwait(bell->semaphore, CLOCK_MONOTONIC, &time);
        return failed ? errno : 0;
    }
    struct pollfd waiting = {.fd = bell->event_fd, .events = POLLIN};
    int64_t left_ns = deadline_ns - monotonic_ns();
    if (left_ns < 0) left_ns = 0;
    time = (struct timespec){.tv_sec = left_ns / SECOND_NS, .tv_nsec = left_ns % SECOND_NS};
    int count = ppoll(&waiting, 1, deadline_ns < 0 ? NULL : &time, NULL);
    if (count < 0) return errno;
    if (count == 0) return ETIMEDOUT;
    drain(bell);
    return 0;
}

static int spin(struct doorbell *bell, int64_t until_ns) {
    do {
        for (int i = 0; i < SPINS_PER_LOOK_AT_CLOCK; i++) {
            if (look(bell)) return 1;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
    } while (monotonic_ns() < until_ns);
    return 0;
}

/* The time is over and there are bytes. A waker may be between its publication and its post; only
 * if it does not come was the wake-up really lost. */
static int after_timeout(struct doorbell *bell) {
    if (doorbell_armed(bell) && park(bell, monotonic_ns() + GRACE_NS) == ETIMEDOUT &&
        doorbell_armed(bell))
        bell->counts.timeout_rescues++;
    clear_flag(bell);
    return serve(bell);
}

static int sleep_until(struct doorbell *bell, int64_t deadline_ns) {
    for (;;) {
        drain(bell);
        set_flag(bell);
        if (look(bell)) {
            clear_flag(bell);
            return serve(bell);
        }
        record_park(bell);
        int error = park(bell, deadline_ns);
        record_woken(bell);
        CRASH_POINT("woken");
        if (error == ETIMEDOUT && look(bell)) return after_timeout(bell);
        clear_flag(bell);
        if (error == EINTR) return DOORBELL_INTERRUPTED;
        if (error == ETIMEDOUT) {
            bell->counts.timeouts++;
            return DOORBELL_TIMED_OUT;
        }
        if (error) {
            errno = error;
            return DOORBELL_FAILED;
        }
        if (look(bell)) return serve(bell);
        bell->counts.spurious++;
    }
}

static int enter(struct doorbell *bell) {
    if (bell->generation != fork_generation) return DOORBELL_FORKED;
    if (bell->closed) return DOORBELL_CLOSED;
    int none = 0;
    /* Acquire: pairs with the release in leave(). */
    return atomic_compare_exchange_strong_explicit(&bell->inside, &none, 1, memory_order_acquire,
                                                   memory_order_relaxed)
               ? 0
               : DOORBELL_BUSY;
}

static void leave(struct doorbell *bell) {
    /* Release: pairs with the acquire in enter(). */
    atomic_store_explicit(&bell->inside, 0, memory_order_release);
}

int doorbell_wait(struct doorbell *bell, int64_t spin_ns, int64_t timeout_ns) {
    int answer = enter(bell);
    if (answer) return answer;
    bell->counts.waits++;
    if (look(bell)) {
        answer = serve(bell);
    } else if (timeout_ns == 0 && spin_ns <= 0) {
        answer = DOORBELL_TIMED_OUT;
    } else {
        int64_t now_ns = monotonic_ns();
        int64_t deadline_ns = timeout_ns < 0 ? -1 : now_ns + timeout_ns;
        if (deadline_ns >= 0 && timeout_ns < spin_ns) spin_ns = timeout_ns;
        int seen = spin_ns > 0 && spin(bell, now_ns + spin_ns);
        bell->counts.spun += seen;
        answer = seen ? serve(bell) : sleep_until(bell, deadline_ns);
    }
    publish(bell);
    leave(bell);
    return answer;
}

int doorbell_arm(struct doorbell *bell) {
    if (bell->event_fd < 0) return DOORBELL_INVALID;
    int answer = enter(bell);
    if (answer) return answer;
    set_flag(bell);
    answer = !look(bell);
    if (!answer) {
        clear_flag(bell);
        serve(bell);
    } else {
        bell->counts.waits++;
        bell->counts.parks++;
        record_park(bell);
    }
    leave(bell);
    return answer;
}

int doorbell_disarm(struct doorbell *bell, int rung) {
    if (bell->event_fd < 0) return DOORBELL_INVALID;
    int error = enter(bell);
    if (error) return error;
    clear_flag(bell);
    /* A token that comes later makes the eventfd readable in the next block, and one look too many. */
    if (rung) take_tokens(bell);
    serve(bell);
    record_woken(bell);
    publish(bell);
    leave(bell);
    return 0;
}

int doorbell_armed(struct doorbell *bell) {
    if (bell->closed) return 0;
    /* Seq_cst: after_timeout() asks it in the place of the waker's exchange. */
    return (int)atomic_load_explicit(&bell->cell->flag, memory_order_seq_cst);
}

void doorbell_read_counts(struct doorbell *bell, struct doorbell_counts *counts) {
    *counts = bell->counts;
    counts->rings = atomic_load_explicit(&bell->rings, memory_order_relaxed);
}
