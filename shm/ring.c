/* ring: see ring.h for the layout and what is guaranteed.
 *
 * Each end works on its own position and on a cached copy of the other end's, both in private
 * memory; the other side's line is read only when the cache says that there is less than was asked
 * for. The caches must not lie in the segment: a process that is started again must not inherit a
 * stale one.
 *
 * Publication of tail and head is seq_cst and not only release, because each is followed by a load
 * of a flag that the other side sets before it re-reads the position. Store-then-load on both sides
 * is the case that release and acquire do not order, on x86 either; the model is
 * tests/models/doorbell.pml.
 */
#include "ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "doorbell.h"
#include "histogram.h"

#define LINE_BYTES 128
#define MAGIC 0x31676e697266666cULL /* "lffring1" */
#define PADDING 0

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slots are little-endian");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "positions must be lock-free between processes");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "flags must be lock-free between processes");

/* No _Alignas: a ring also works over a bytearray, which is aligned to 16 only. */
struct ring_shared {
    uint64_t magic, layout, capacity;
    uint8_t pad_0[LINE_BYTES - 24];
    _Atomic uint64_t tail;
    uint8_t pad_1[LINE_BYTES - 8];
    _Atomic uint64_t head, taken;
    uint8_t pad_2[LINE_BYTES - 16];
    _Atomic uint32_t producer_waits;
    uint32_t unused;
    _Atomic uint64_t stamp, stamped_ns; /* stamp: where the run starts, and 1, or 0 for none yet */
    uint8_t pad_3[LINE_BYTES - 24];
    uint8_t data[];
};
_Static_assert(offsetof(struct ring_shared, tail) == 128, "layout");
_Static_assert(offsetof(struct ring_shared, head) == 256, "layout");
_Static_assert(offsetof(struct ring_shared, taken) == 264, "layout");
_Static_assert(offsetof(struct ring_shared, producer_waits) == 384, "layout");
_Static_assert(offsetof(struct ring_shared, stamp) == 392, "layout");
_Static_assert(offsetof(struct ring_shared, stamped_ns) == 400, "layout");
_Static_assert(offsetof(struct ring_shared, data) == RING_HEADER_BYTES, "layout");

struct slot {
    uint32_t length;
    uint16_t type, tag;
};
_Static_assert(sizeof(struct slot) == 8, "layout");

enum { FREE, IN_CALL, CLAIMED }; /* who is inside an end; CLAIMED lasts from claim to commit */

struct ring_end {
    struct ring_shared *shared;
    uint64_t capacity;
    uint64_t position; /* ours: tail or head */
    uint64_t other;    /* theirs, as last seen */
    uint64_t claimed;  /* producer: bytes of the open claim */
    uint64_t padding;  /* producer: bytes skipped before the claim, published with it */
    uint64_t wanted;   /* producer: bytes past tail that the refused run needs */
    uint64_t peeked;   /* consumer: bytes shown by the last peek and not yet released */
    int waits;         /* producer: what producer_waits holds */
    int role;
    int closed;
    unsigned generation;
    atomic_int inside;
    struct doorbell *peer_bell;
    int records;
    struct ring_figures figures;
    uint64_t stamp;   /* the last one made, or taken */
    uint64_t since_ns; /* producer: of the open claim; consumer: of the last peek */
    uint64_t fill;    /* consumer: bytes there at the last peek */
};

unsigned fork_generation;

static void count_fork(void) { fork_generation++; }

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(NULL, NULL, count_fork);
}

uint64_t ring_layout(void) {
    const uint64_t facts[] = {
        MAGIC,
        offsetof(struct ring_shared, capacity),
        offsetof(struct ring_shared, tail),
        offsetof(struct ring_shared, head),
        offsetof(struct ring_shared, producer_waits),
        offsetof(struct ring_shared, taken),
        offsetof(struct ring_shared, stamp),
        offsetof(struct ring_shared, stamped_ns),
        offsetof(struct ring_shared, data),
        sizeof(struct slot),
        DOORBELL_BYTES,
    };
    uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a, a word at a time */
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        hash = (hash ^ facts[i]) * 0x100000001b3ULL;
    return hash;
}

static int capacity_is_valid(uint64_t capacity, uint64_t bytes) {
    return capacity >= RING_CAPACITY_MIN && capacity <= RING_CAPACITY_MAX &&
           (capacity & (capacity - 1)) == 0 && bytes >= RING_HEADER_BYTES + capacity;
}

int ring_format(void *memory, uint64_t bytes, uint64_t capacity, uint64_t position) {
    struct ring_shared *shared = memory;
    if ((uintptr_t)memory % 8 || position % 8 || !capacity_is_valid(capacity, bytes))
        return -RING_INVALID;
    memset(shared, 0, RING_HEADER_BYTES);
    shared->magic = MAGIC;
    shared->layout = ring_layout();
    shared->capacity = capacity;
    /* Relaxed: nobody has the ring yet; handing it over is what orders this. */
    atomic_store_explicit(&shared->tail, position, memory_order_relaxed);
    atomic_store_explicit(&shared->head, position, memory_order_relaxed);
    return 0;
}

struct ring_end *ring_open(void *memory, uint64_t bytes, int role, struct doorbell *peer_bell) {
    struct ring_shared *shared = memory;
    if ((uintptr_t)memory % 8 || bytes < RING_HEADER_BYTES || shared->magic != MAGIC ||
        shared->layout != ring_layout() || !capacity_is_valid(shared->capacity, bytes))
        return NULL;
    struct ring_end *end = calloc(1, sizeof *end);
    if (!end) return NULL;
    end->shared = shared;
    end->capacity = shared->capacity;
    end->role = role;
    end->peer_bell = peer_bell;
    end->generation = fork_generation;
    /* Acquire: pairs with the other end's publication, also by a holder of this end that has died.
     * */
    uint64_t tail = atomic_load_explicit(&shared->tail, memory_order_acquire);
    uint64_t head = atomic_load_explicit(&shared->head, memory_order_acquire);
    end->position = role == RING_PRODUCER ? tail : head;
    end->other = role == RING_PRODUCER ? head : tail;
    end->stamp = role == RING_PRODUCER
                     ? atomic_load_explicit(&shared->stamp, memory_order_relaxed)
                     : atomic_load_explicit(&shared->taken, memory_order_relaxed);
    if (role == RING_PRODUCER) /* A producer that died while it waited left this set. */
        atomic_store_explicit(&shared->producer_waits, 0, memory_order_relaxed);
    return end;
}

void ring_close(struct ring_end *end) { end->closed = 1; }

void ring_free(struct ring_end *end) { free(end); }

/* Entry to an end. The exchange is on a private line; it costs a few ns and turns two threads in
 * one end, which cffi's release of the GIL makes possible, from corruption into an error. */
static int enter(struct ring_end *end, int role, int state) {
    if (end->generation != fork_generation) return RING_FORKED;
    if (end->closed) return RING_CLOSED;
    if (end->role != role) return RING_INVALID;
    int seen = state;
    /* Acquire: pairs with the release in leave(), so that ends may be handed from thread to thread.
     * */
    if (atomic_compare_exchange_strong_explicit(&end->inside, &seen, IN_CALL, memory_order_acquire,
                                                memory_order_relaxed))
        return 0;
    return state == CLAIMED && seen == FREE ? RING_INVALID : RING_BUSY;
}

static void leave(struct ring_end *end, int state) {
    /* Release: pairs with the acquire in enter(). */
    atomic_store_explicit(&end->inside, state, memory_order_release);
}

uint64_t ring_capacity(struct ring_end *end) { return end->capacity; }

uint64_t ring_position(struct ring_end *end) { return end->position; }

const uint8_t *ring_data(const struct ring_end *end) { return end->shared->data; }

uint64_t ring_used(struct ring_end *end) {
    if (end->closed) return 0;
    /* Acquire on both: a figure for people and for back-pressure, true at some moment of the call.
     * */
    uint64_t head = atomic_load_explicit(&end->shared->head, memory_order_acquire);
    return atomic_load_explicit(&end->shared->tail, memory_order_acquire) - head;
}

static uint64_t padded(uint32_t length) { return ((uint64_t)length + 7) & ~7ULL; }

static uint8_t *at(const struct ring_end *end, uint64_t position) {
    return end->shared->data + (position & (end->capacity - 1));
}

/* Is this a run that may be published? It says so at the producer, where the bug is. */
static int run_is_valid(const struct ring_end *end, const void *run, uint64_t size) {
    const uint8_t *bytes = run;
    for (uint64_t offset = 0; offset < size;) {
        struct slot slot;
        if (size - offset < sizeof slot) return 0;
        memcpy(&slot, bytes + offset, sizeof slot);
        if (slot.type == PADDING || slot.length < sizeof slot) return 0;
        if (slot.length > end->capacity / 8 || padded(slot.length) > size - offset) return 0;
        offset += padded(slot.length);
    }
    return 1;
}

void ring_record(struct ring_end *end, const struct ring_figures *figures) {
    end->figures = *figures;
    end->records = 1;
}

static uint64_t now(void) { return (uint64_t)monotonic_ns(); }

static void count(uint64_t *histogram, uint64_t value) {
    if (histogram) histogram_record(histogram, value);
}

/* Producer: if the run stamped before was taken, stamp the one about to be published. */
static void stamp(struct ring_end *end) {
    /* Acquire: pairs with the release in record_release(): it has read stamped_ns. */
    if (atomic_load_explicit(&end->shared->taken, memory_order_acquire) != end->stamp) return;
    end->stamp = (end->position + end->padding) | 1;
    atomic_store_explicit(&end->shared->stamped_ns, now(), memory_order_relaxed);
    /* Release: pairs with the acquire in record_release(). */
    atomic_store_explicit(&end->shared->stamp, end->stamp, memory_order_release);
}

/* Consumer: what is released was taken at the last peek, and served since. */
static void record_release(struct ring_end *end, uint64_t size) {
    uint64_t now_ns = now(), since_ns = end->since_ns;
    count(end->figures.service_ns, now_ns - since_ns);
    count(end->figures.batch_bytes, size);
    count(end->figures.fill_bytes, end->fill);
    end->since_ns = now_ns;
    end->fill -= size < end->fill ? size : end->fill;
    /* Acquire: pairs with stamp(); stamped_ns belongs to it, and stays until we say taken. */
    uint64_t stamp = atomic_load_explicit(&end->shared->stamp, memory_order_acquire);
    if (stamp == end->stamp || (int64_t)(end->position + size - (stamp & ~1ULL)) <= 0) return;
    uint64_t at_ns = atomic_load_explicit(&end->shared->stamped_ns, memory_order_relaxed);
    count(end->figures.wait_ns, since_ns > at_ns ? since_ns - at_ns : 0);
    end->stamp = stamp;
    /* Release: pairs with the acquire in stamp(). */
    atomic_store_explicit(&end->shared->taken, stamp, memory_order_release);
}

static void publish_tail(struct ring_end *end, uint64_t tail) {
    end->position = tail;
    CRASH_POINT("before tail");
    /* Seq_cst: the release half pairs with the acquire in bytes_there(); the full order against the
     * flag that doorbell_ring() loads next pairs with the sleeper's store of that flag and its
     * re-check in ring_ready(). */
    atomic_store_explicit(&end->shared->tail, tail, memory_order_seq_cst);
    CRASH_POINT("after tail");
    if (end->peer_bell) doorbell_ring(end->peer_bell);
}

static void publish_head(struct ring_end *end, uint64_t head) {
    end->position = head;
    CRASH_POINT("before head");
    /* Seq_cst: the release half pairs with the acquire in find_space(), and keeps our reads of the
     * slots before it; the full order against the next load pairs with the producer's store of
     * producer_waits and its re-check in ring_ready(). */
    atomic_store_explicit(&end->shared->head, head, memory_order_seq_cst);
    CRASH_POINT("after head");
    /* Seq_cst: pairs with the store in refuse(). The flag is the producer's; only it clears it
     * (I1). */
    if (end->peer_bell && atomic_load_explicit(&end->shared->producer_waits, memory_order_seq_cst))
        doorbell_ring(end->peer_bell);
}

static void stop_waiting(struct ring_end *end) {
    if (!end->waits) return;
    end->waits = 0;
    /* Relaxed: a consumer that still sees 1 rings once too often, which is harmless. */
    atomic_store_explicit(&end->shared->producer_waits, 0, memory_order_relaxed);
}

/* Note what would be enough, and ask to be told. */
static void refuse(struct ring_end *end, uint64_t wanted) {
    end->wanted = wanted;
    if (end->waits) return;
    end->waits = 1;
    /* Seq_cst: pairs with the load in publish_head(); doorbell_wait() re-checks head after this. */
    atomic_store_explicit(&end->shared->producer_waits, 1, memory_order_seq_cst);
}

static void write_padding(struct ring_end *end, uint64_t size) {
    struct slot slot = {.length = (uint32_t)size, .type = PADDING, .tag = 0};
    memcpy(at(end, end->position), &slot, sizeof slot);
}

/* Find room for `minimum` contiguous bytes, better for `maximum`. Sets end->padding and gives what
 * is contiguous after it, or 0 if there is too little. */
static uint64_t find_space(struct ring_end *end, uint64_t minimum, uint64_t maximum) {
    uint64_t rest = end->capacity - (end->position & (end->capacity - 1));
    uint64_t padding = rest < minimum ? rest : 0;
    uint64_t space = end->capacity - (end->position - end->other);
    if (space < padding + maximum) {
        /* Acquire: pairs with publish_head(); what we overwrite was read before it. */
        end->other = atomic_load_explicit(&end->shared->head, memory_order_acquire);
        space = end->capacity - (end->position - end->other);
    }
    CRASH_POINT("space checked");
    if (space >= padding + minimum) {
        stop_waiting(end);
        end->padding = padding;
        if (!padding) return space < rest ? space : rest;
        write_padding(end, padding);
        return space - padding;
    }
    if (padding && space >= padding) { /* Pad now, or a split ring might refuse for ever. */
        write_padding(end, padding);
        publish_tail(end, end->position + padding);
        padding = 0;
    }
    refuse(end, padding + minimum);
    return 0;
}

static void copy(uint8_t *to, const uint8_t *from, uint64_t size) {
#ifdef LEFTFOLD_CRASH_POINTS
    memcpy(to, from, size / 2);
    CRASH_POINT("mid-copy");
    memcpy(to + size / 2, from + size / 2, size - size / 2);
#else
    memcpy(to, from, size);
#endif
}

int ring_write(struct ring_end *end, const void *run, uint64_t size) {
    int error = enter(end, RING_PRODUCER, FREE);
    if (error) return -error;
    int answer = -RING_INVALID;
    if (size && size <= end->capacity / 2 && run_is_valid(end, run, size)) {
        answer = find_space(end, size, size) != 0;
        if (answer) {
            uint64_t start = end->position + end->padding;
            copy(at(end, start), run, size);
            if (end->records) stamp(end);
            publish_tail(end, start + size);
        }
    }
    leave(end, FREE);
    return answer;
}

uint64_t ring_claim_upto(struct ring_end *end, uint64_t minimum, uint64_t maximum) {
    int error = enter(end, RING_PRODUCER, FREE);
    if (error) return (uint64_t)error;
    if (maximum > end->capacity / 2) maximum = end->capacity / 2;
    maximum &= ~7ULL;
    if (minimum < sizeof(struct slot) || minimum % 8 || minimum > maximum) {
        leave(end, FREE);
        return RING_INVALID;
    }
    uint64_t space = find_space(end, minimum, maximum);
    if (!space) {
        leave(end, FREE);
        return 0;
    }
    end->claimed = space < maximum ? space : maximum;
    if (end->records) end->since_ns = now();
    uint8_t *address = at(end, end->position + end->padding);
    leave(end, CLAIMED);
    return (uintptr_t)address;
}

uint64_t ring_claim(struct ring_end *end, uint64_t size) {
    return ring_claim_upto(end, size, size);
}

uint64_t ring_claimed(struct ring_end *end) { return end->claimed; }

int ring_commit(struct ring_end *end, uint64_t size) {
    int error = enter(end, RING_PRODUCER, CLAIMED);
    if (error) return -error;
    uint64_t start = end->position + end->padding;
    if (size > end->claimed || !run_is_valid(end, at(end, start), size))
        error = -RING_INVALID;
    else if (size) {
        if (end->records) {
            count(end->figures.claim_ns, now() - end->since_ns);
            stamp(end);
        }
        publish_tail(end, start + size);
    }
    end->claimed = end->padding = 0;
    leave(end, FREE);
    return error;
}

static uint64_t bytes_there(struct ring_end *end, uint64_t maximum) {
    if (end->other - end->position < maximum)
        /* Acquire: pairs with publish_tail(); the bytes before tail are written. */
        end->other = atomic_load_explicit(&end->shared->tail, memory_order_acquire);
    return end->other - end->position;
}

static uint64_t peek_error(int error) { return (uint64_t)error << 32 | UINT32_MAX; }

/* Walk whole slots from `position`. Gives the bytes of the run, 0 at a padding slot whose size goes
 * to *padding, or UINT64_MAX for memory that no producer of ours wrote. */
static uint64_t walk(const struct ring_end *end, uint64_t size, uint64_t maximum,
                     uint64_t *padding) {
    const uint8_t *bytes = at(end, end->position);
    uint64_t run = 0;
    *padding = 0;
    while (run < size) {
        struct slot slot;
        memcpy(&slot, bytes + run, sizeof slot);
        uint64_t next = padded(slot.length);
        if (slot.length < sizeof slot || next > size - run) return UINT64_MAX;
        if (slot.type == PADDING) {
            if (((end->position + run + next) & (end->capacity - 1)) != 0) return UINT64_MAX;
            if (!run) *padding = next;
            break;
        }
        if (run && run + next > maximum) break;
        run += next;
    }
    return run;
}

uint64_t ring_peek_upto(struct ring_end *end, uint64_t maximum) {
    int error = enter(end, RING_CONSUMER, FREE);
    if (error) return peek_error(error);
    uint64_t answer = 0, available;
    while ((available = bytes_there(end, maximum)) != 0) {
        uint64_t offset = end->position & (end->capacity - 1);
        uint64_t rest = end->capacity - offset;
        uint64_t padding, run = UINT64_MAX;
        if (available <= end->capacity && available % 8 == 0)
            run = walk(end, available < rest ? available : rest, maximum, &padding);
        if (run == UINT64_MAX) {
            answer = peek_error(RING_CORRUPT);
            break;
        }
        end->peeked = run;
        if (run) {
            answer = offset << 32 | run;
            if (end->records) {
                end->since_ns = now();
                end->fill = available;
            }
            break;
        }
        publish_head(end, end->position + padding);
    }
    leave(end, FREE);
    return answer;
}

uint64_t ring_peek(struct ring_end *end) { return ring_peek_upto(end, UINT64_MAX); }

int ring_release(struct ring_end *end, uint64_t size) {
    int error = enter(end, RING_CONSUMER, FREE);
    if (error) return -error;
    if (size > end->peeked ||
        (size < end->peeked && !run_is_valid(end, at(end, end->position), size))) {
        error = -RING_INVALID;
    } else if (size) {
        end->peeked -= size;
        if (end->records) record_release(end, size);
        publish_head(end, end->position + size);
    }
    leave(end, FREE);
    return error;
}

int ring_ready(struct ring_end *end) {
    if (end->closed) return 0;
    /* Seq_cst in both: the sleeper's half of the handshake, after its seq_cst store of the bell's
     * flag; pairs with the store in publish_tail() or publish_head(). */
    if (end->role == RING_CONSUMER)
        return atomic_load_explicit(&end->shared->tail, memory_order_seq_cst) != end->position;
    if (!end->waits) return 0;
    uint64_t head = atomic_load_explicit(&end->shared->head, memory_order_seq_cst);
    return end->capacity - (end->position - head) >= end->wanted;
}

uint64_t ring_ready_of(struct ring_end **ends, uint32_t count) {
    uint64_t ready = 0;
    for (uint32_t i = 0; i < count; i++) ready |= (uint64_t)ring_ready(ends[i]) << i;
    return ready;
}

void ring_served(struct ring_end *end) {
    if (end->role == RING_PRODUCER) stop_waiting(end);
}
