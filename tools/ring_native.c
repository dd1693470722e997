/* ring_native: messages of 8 bytes from one C process to another through a ring, in batches.
 *
 *     ring_native MESSAGES BATCH PASSES        prints messages per second, a line for each pass
 *
 * The producer claims a batch, lays slots of 8 bytes of header and 8 of message into it and commits; the consumer
 * adds up what it finds, and the sum is checked. Both spin, and yield after a while, since others may want the cores. The
 * clock is the consumer's: from the word "go" to the last release.
 *
 * Left to others: sleeping, and what Python costs (bench_ring.py).
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum { CAPACITY = 1 << 20, SLOT_BYTES = 16, SPINS = 100 };

struct slot {
    uint32_t length;
    uint16_t type, tag;
    uint64_t message;
};

struct shared {
    atomic_ulong pass; /* that the consumer waits for */
    uint8_t pad[4096 - sizeof(atomic_ulong)];
    uint8_t ring[RING_HEADER_BYTES + CAPACITY];
};

static void wait_a_little(unsigned *spun)
{
    if (++*spun < SPINS) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    } else {
        *spun = 0;
        sched_yield();
    }
}

static void produce(struct ring_end *end, uint64_t messages, uint64_t batch)
{
    unsigned spun = 0;
    for (uint64_t next = 1; next <= messages;) {
        uint64_t wanted = (messages - next + 1 < batch ? messages - next + 1 : batch) * SLOT_BYTES;
        uint64_t room = ring_claim_upto(end, SLOT_BYTES, wanted);
        if (!room) {
            wait_a_little(&spun);
            continue;
        }
        if (room < 16)
            abort();
        uint64_t count = ring_claimed(end) / SLOT_BYTES;
        struct slot *slots = (struct slot *)room;
        for (uint64_t at = 0; at < count; at++)
            slots[at] = (struct slot){SLOT_BYTES, 1, 0, next + at};
        if (ring_commit(end, count * SLOT_BYTES))
            abort();
        next += count;
    }
}

static uint64_t consume(struct ring_end *end, uint64_t messages)
{
    unsigned spun = 0;
    uint64_t total = 0;
    for (uint64_t received = 0; received < messages;) {
        uint64_t found = ring_peek_upto(end, CAPACITY / 8);
        uint32_t bytes = (uint32_t)found;
        if (!found) {
            wait_a_little(&spun);
            continue;
        }
        if (bytes == UINT32_MAX)
            abort();
        const struct slot *slots = (const struct slot *)(ring_data(end) + (found >> 32));
        for (uint32_t at = 0; at < bytes / SLOT_BYTES; at++)
            total += slots[at].message;
        received += bytes / SLOT_BYTES;
        if (ring_release(end, bytes))
            abort();
    }
    return total;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    uint64_t messages = strtoull(words[1], NULL, 10), batch = strtoull(words[2], NULL, 10);
    unsigned long passes = strtoul(words[3], NULL, 10);
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || ring_format(shared->ring, sizeof shared->ring, CAPACITY, 0))
        return 1;
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        return 1;
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct ring_end *end = ring_open(shared->ring, sizeof shared->ring, RING_PRODUCER, NULL);
        for (unsigned long pass = 1; end && pass <= passes && getppid() == parent; pass++) {
            unsigned spun = 0;
            while (atomic_load(&shared->pass) < pass)
                wait_a_little(&spun);
            produce(end, messages, batch);
        }
        _exit(!end);
    }
    struct ring_end *end = ring_open(shared->ring, sizeof shared->ring, RING_CONSUMER, NULL);
    for (unsigned long pass = 1; end && pass <= passes; pass++) {
        double began_s = now_s();
        atomic_store(&shared->pass, pass);
        if (consume(end, messages) != messages * (messages + 1) / 2)
            return 1; /* lost or doubled; the producer ends with us */
        printf("%.0f\n", (double)messages / (now_s() - began_s));
        fflush(stdout);
    }
    int status = 0;
    return waitpid(child, &status, 0) < 0 || status || !end;
}
