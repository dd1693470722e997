/* ring_harness: the C of shm/ outside of Python, where sanitizers and kill -9 can get at it.
 *
 *   ring_harness threads PRODUCERS MESSAGES SEED semaphore|eventfd
 *       Threads over one mapping: each producer has a ring and a bell of its own, all ring the
 *       consumer's. Every wait is without end, so that a lost wake-up hangs till the alarm.
 *   ring_harness produce|consume SEGMENT RING OWN_CELL OWN_SEMAPHORE PEER_CELL PEER_SEMAPHORE
 *                FIRST COUNT LABEL NTH SIGNAL
 *       One end of a ring in a segment that the test made; the numbers are byte offsets in its
 *       file. At the NTH time at LABEL the process sends itself SIGNAL. LABEL "-": never.
 *
 * A message is a slot of type 7: header, u64 sequence, then a pattern; its length and every byte
 * follow from the sequence. The consumer checks all of it and ends with a line "next <sequence>
 * rescues <n>" on stdout.
 *
 * It guarantees nothing to others; it is compiled by tests/ring_harness.py alone.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "doorbell.h"
#include "histogram.h"
#include "ring.h"

#define HANG_SECONDS 60 /* without progress: a slow machine is no lost wake-up */
#define MESSAGES_PER_ALARM 10000
#define PRODUCERS_MAX 8
#define THREADS_CAPACITY 256
#define FOR_EVER_NS -1

static const char *armed_label = "-";
static long armed_count;
static int armed_signal;
static __thread uint64_t yields; /* the state of the thread's random yields; 0: none */

static void fail(const char *what) {
    fprintf(stderr, "ring_harness: %s\n", what);
    _exit(1);
}

void crash_point(const char *label) {
    if (yields) {
        yields ^= yields << 13, yields ^= yields >> 7, yields ^= yields << 17;
        if (yields % 16 == 0) sched_yield();
    }
    if (armed_count && !strcmp(label, armed_label) && --armed_count == 0)
        kill(getpid(), armed_signal);
}

struct message {
    uint32_t length;
    uint16_t type, tag;
    uint64_t sequence;
    uint8_t pattern[];
};

static uint32_t message_length(uint64_t sequence) { return 16 + (uint32_t)(sequence * 7 % 17); }

static uint64_t padded(uint64_t length) { return (length + 7) & ~7ULL; }

static uint64_t put_message(uint8_t *to, uint64_t sequence) {
    struct message *message = (struct message *)to;
    uint32_t length = message_length(sequence);
    memset(to, 0, padded(length));
    message->length = length;
    message->type = 7;
    message->sequence = sequence;
    for (uint32_t i = 0; i < length - 16; i++) message->pattern[i] = (uint8_t)(sequence * 31 + i);
    return padded(length);
}

static uint64_t check_message(const uint8_t *from, uint64_t sequence) {
    const struct message *message = (const struct message *)from;
    if (message->sequence != sequence) fail("a message lost, doubled or out of order");
    if (message->length != message_length(sequence) || message->type != 7) fail("a torn header");
    for (uint32_t i = 0; i < message->length - 16; i++)
        if (message->pattern[i] != (uint8_t)(sequence * 31 + i)) fail("a torn message");
    return padded(message->length);
}

/* Write [first, first + count) in runs of one to three messages, by write and by claim in turn. */
static void produce(struct ring_end *end, struct doorbell *bell, uint64_t first, uint64_t count) {
    _Alignas(8) uint8_t run[3 * 40];
    for (uint64_t sequence = first; sequence < first + count;) {
        uint64_t size = 0, next = sequence;
        for (uint64_t n = 1 + sequence % 3; n && next < first + count; n--)
            size += put_message(run + size, next++);
        if (next / MESSAGES_PER_ALARM != sequence / MESSAGES_PER_ALARM) alarm(HANG_SECONDS);
        for (;;) {
            int done;
            if (sequence % 2) {
                done = ring_write(end, run, size);
            } else {
                uint64_t address = ring_claim(end, size);
                done = address >= 16;
                if (done) memcpy((void *)(uintptr_t)address, run, size);
                if (done && ring_commit(end, size)) fail("commit refused");
                if (address && address < 16) fail("claim refused");
            }
            if (done < 0) fail("write refused");
            if (done) break;
            if (doorbell_wait(bell, 0, FOR_EVER_NS) < 0) fail("the wait failed");
        }
        sequence = next;
    }
}

/* Take what there is and check it; gives the next sequence. Frees it in two parts, now and then. */
static uint64_t consume(struct ring_end *end, uint64_t next) {
    uint64_t run = ring_peek(end);
    uint32_t length = (uint32_t)run;
    if (!run) return next;
    if (length == UINT32_MAX) fail("peek refused");
    const uint8_t *bytes = ring_data(end) + (run >> 32);
    uint64_t size = 0, first = 0, before = next;
    while (size < length) {
        size += check_message(bytes + size, next++);
        if (!first && next % 5 == 0) first = size;
    }
    if (next / MESSAGES_PER_ALARM != before / MESSAGES_PER_ALARM) alarm(HANG_SECONDS);
    crash_point("copied");
    if ((first && ring_release(end, first)) || ring_release(end, size - first))
        fail("release refused");
    return next;
}

struct producer {
    pthread_t thread;
    void *ring;
    struct doorbell *own_bell, *peer_bell;
    uint64_t messages, seed;
};

static uint64_t ring_size(void) { return RING_HEADER_BYTES + THREADS_CAPACITY; }

static void *run_producer(void *argument) {
    struct producer *producer = argument;
    yields = producer->seed;
    struct ring_end *end =
        ring_open(producer->ring, ring_size(), RING_PRODUCER, producer->peer_bell);
    if (!end || doorbell_watch(producer->own_bell, &end, 1)) fail("cannot open a producer");
    const struct ring_figures none = {0}; /* It stamps its runs all the same. */
    ring_record(end, &none);
    produce(end, producer->own_bell, 0, producer->messages);
    ring_free(end);
    return NULL;
}

static void make_bells(int index, void *cell, int event_fd, struct doorbell **sleeper,
                       struct doorbell **waker) {
    char name[64];
    if (event_fd >= 0) {
        *sleeper = doorbell_open(cell, NULL, event_fd);
        *waker = doorbell_open(cell, NULL, event_fd);
    } else {
        snprintf(name, sizeof name, "/leftfold-harness-%d-%d", getpid(), index);
        sem_t *semaphore = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
        if (semaphore == SEM_FAILED) fail("sem_open");
        *sleeper = doorbell_open(cell, name, -1);
        *waker = doorbell_open(cell, name, -1);
        sem_close(semaphore);
        sem_unlink(name);
    }
    if (!*sleeper || !*waker) fail("cannot open a bell");
}

static void wait_for_rings(struct doorbell *bell, int event_fd) {
    if (event_fd < 0) {
        if (doorbell_wait(bell, 0, FOR_EVER_NS) != DOORBELL_READY) fail("the wait failed");
        return;
    }
    struct pollfd readable = {.fd = event_fd, .events = POLLIN};
    if (doorbell_arm(bell)) {
        if (poll(&readable, 1, -1) != 1) fail("poll");
        if (doorbell_disarm(bell, 1)) fail("disarm");
    }
}

static void run_threads(int count, uint64_t messages, uint64_t seed, int event_fd) {
    struct producer producers[PRODUCERS_MAX];
    struct ring_end *ends[PRODUCERS_MAX];
    struct doorbell *bell, *to_consumer, *from_producer[PRODUCERS_MAX];
    uint64_t next[PRODUCERS_MAX] = {0}, left = messages * (uint64_t)count;
    uint8_t *memory = aligned_alloc(128, (size_t)(count + 1) * 128 + (size_t)count * 1024);
    if (!memory) fail("memory");
    memset(memory, 0, (size_t)(count + 1) * 128);
    make_bells(count, memory, event_fd, &bell, &to_consumer);
    for (int i = 0; i < count; i++) {
        struct producer *producer = &producers[i];
        producer->ring = memory + (count + 1) * 128 + i * 1024;
        producer->messages = messages;
        producer->seed = seed + (uint64_t)i + 1;
        producer->peer_bell = to_consumer;
        make_bells(i, memory + (i + 1) * 128, -1, &producer->own_bell, &from_producer[i]);
        uint64_t start = ((1ULL << 32) - 512) + (uint64_t)i * 8;
        if (ring_format(producer->ring, ring_size(), THREADS_CAPACITY, start)) fail("format");
        ends[i] = ring_open(producer->ring, ring_size(), RING_CONSUMER, from_producer[i]);
        if (!ends[i]) fail("cannot open a consumer");
        static uint64_t words[4][HISTOGRAM_HEADER_WORDS + HISTOGRAM_BUCKETS];
        const struct ring_figures figures = {NULL, words[0], words[1], words[2], words[3]};
        ring_record(ends[i], &figures);
    }
    if (doorbell_watch(bell, ends, (uint32_t)count)) fail("watch");
    for (int i = 0; i < count; i++)
        if (pthread_create(&producers[i].thread, NULL, run_producer, &producers[i])) fail("thread");
    yields = seed;
    while (left) {
        uint64_t before = left;
        for (int i = 0; i < count; i++) {
            uint64_t after = consume(ends[i], next[i]);
            left -= after - next[i];
            next[i] = after;
        }
        if (left == before) wait_for_rings(bell, event_fd);
    }
    for (int i = 0; i < count; i++) {
        pthread_join(producers[i].thread, NULL);
        ring_free(ends[i]);
        doorbell_free(producers[i].own_bell);
        doorbell_free(from_producer[i]);
    }
    struct doorbell_counts counts;
    doorbell_read_counts(bell, &counts);
    printf("parks %lu rescues %lu\n", (unsigned long)counts.parks,
           (unsigned long)counts.timeout_rescues);
    doorbell_free(bell);
    doorbell_free(to_consumer);
    free(memory);
}

static uint8_t *map_segment(const char *name, size_t *size) {
    struct stat status;
    int fd = shm_open(name, O_RDWR, 0);
    if (fd < 0 || fstat(fd, &status)) fail("cannot open the segment");
    *size = (size_t)status.st_size;
    uint8_t *memory = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) fail("cannot map the segment");
    close(fd);
    return memory;
}

static void run_process(char **arguments) {
    int produces = !strcmp(arguments[0], "produce");
    size_t size;
    uint8_t *memory = map_segment(arguments[1], &size);
    uint64_t ring = strtoull(arguments[2], NULL, 10);
    uint8_t *own_cell = memory + strtoull(arguments[3], NULL, 10);
    uint8_t *peer_cell = memory + strtoull(arguments[5], NULL, 10);
    struct doorbell *own = doorbell_open(own_cell, arguments[4], -1);
    struct doorbell *peer = doorbell_open(peer_cell, arguments[6], -1);
    uint64_t first = strtoull(arguments[7], NULL, 10), count = strtoull(arguments[8], NULL, 10);
    if (!own || !peer) fail("cannot open the bells");
    armed_label = arguments[9];
    armed_count = atol(arguments[10]);
    armed_signal = atoi(arguments[11]);
    struct ring_end *end =
        ring_open(memory + ring, size - ring, produces ? RING_PRODUCER : RING_CONSUMER, peer);
    if (!end || doorbell_watch(own, &end, 1)) fail("cannot open the ring");
    uint64_t next = first;
    if (produces) {
        produce(end, own, first, count);
        next += count;
    } else {
        while (next < first + count) {
            uint64_t after = consume(end, next);
            if (after == next && doorbell_wait(own, 0, FOR_EVER_NS) < 0) fail("the wait failed");
            next = after;
        }
    }
    struct doorbell_counts counts;
    doorbell_read_counts(own, &counts);
    printf("next %lu rescues %lu\n", (unsigned long)next, (unsigned long)counts.timeout_rescues);
    ring_free(end);
    doorbell_free(own);
    doorbell_free(peer);
    munmap(memory, size);
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* A test that is ended must not leave us asleep. */
    alarm(HANG_SECONDS);
    if (count == 6 && !strcmp(arguments[1], "threads")) {
        int event_fd = strcmp(arguments[5], "eventfd") ? -1 : eventfd(0, EFD_NONBLOCK);
        run_threads(atoi(arguments[2]), strtoull(arguments[3], NULL, 10),
                    strtoull(arguments[4], NULL, 10) * 2654435761u + 1, event_fd);
    } else if (count == 13) {
        run_process(arguments + 1);
    } else {
        fail("usage: see the head of ring_harness.c");
    }
    return 0;
}
