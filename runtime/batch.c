/* batch: see batch.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pwritev2 */
#endif
#include "batch.h"

#include "doorbell.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RECORD_BYTES = 56, TAIL_AT = 12, PERSISTED_BYTES = 32, WIRE_PERSISTED = 34, SLICES = 8 };

/* CRC-32 of zlib and Ethernet, eight bytes at a step: zlib itself need not be there to build. */
static uint32_t table[SLICES][256];

__attribute__((constructor)) static void fill_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320U : crc >> 1;
        table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int slice = 1; slice < SLICES; slice++)
            table[slice][byte] = table[slice - 1][byte] >> 8 ^ table[0][table[slice - 1][byte] & 255];
}

uint32_t batch_crc(uint32_t crc, const uint8_t *bytes, uint64_t size)
{
    crc = ~crc;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word = wire_u64(bytes) ^ crc;
        crc = 0;
        for (int slice = 0; slice < SLICES; slice++)
            crc ^= table[SLICES - 1 - slice][word >> 8 * slice & 255];
    }
    for (; size; size--)
        crc = crc >> 8 ^ table[0][(crc ^ *bytes++) & 255];
    return ~crc;
}

static void put_u32(uint8_t *at, uint32_t value) { memcpy(at, &value, sizeof value); }
static void put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* The 56 bytes before a body; see runtime/records.py. All of the segment before it is synced. */
static void record_header(uint8_t *header, uint32_t seed, uint64_t offset, const uint8_t *body,
                          uint64_t bytes, const struct wire_fold *fold)
{
    uint8_t place[8];
    put_u64(place, offset);
    memcpy(header, "LFrecord", 8);
    put_u32(header + 12, batch_crc(0, body, bytes));
    put_u32(header + 16, (uint32_t)bytes);
    put_u32(header + 20, 0);
    put_u64(header + 24, fold->first);
    put_u64(header + 32, fold->last);
    put_u64(header + 40, fold->last_term);
    put_u64(header + 48, offset);
    uint32_t crc = batch_crc(seed, place, sizeof place);
    put_u32(header + 8, batch_crc(crc, header + TAIL_AT, RECORD_BYTES - TAIL_AT));
}

/* All of it; usually by one system call, the one that Python makes. 0 or an errno. */
static int write_whole(int file, struct iovec *parts, int count, uint64_t offset)
{
    while (count) {
        ssize_t written = pwritev2(file, parts, count, (off_t)offset, 0);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        offset += (uint64_t)written;
        while (count && (size_t)written >= parts->iov_len) {
            written -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count) {
            parts->iov_base = (uint8_t *)parts->iov_base + written;
            parts->iov_len -= (size_t)written;
        }
    }
    return 0;
}

static int sync_file(int file)
{
    int failed;
    do
        failed = fdatasync(file);
    while (failed && errno == EINTR);
    return failed ? errno : 0;
}

/* Relaxed: readers want no order between words, only whole ones (shm/histogram.h). */
static void add(uint64_t *word, uint64_t amount)
{
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + amount, __ATOMIC_RELAXED);
}

static void count(const struct batch *b, uint64_t bytes, uint64_t write_ns, uint64_t fsync_ns)
{
    if (!b->write_ns)
        return;
    b->calls->record(b->write_ns, write_ns);
    b->calls->record(b->fsync_ns, fsync_ns);
    b->calls->record(b->batch_bytes, bytes);
    add(b->batches, 1);
    add(b->bytes, bytes);
    add(b->syncs, 1);
    __atomic_store_n(b->durable_index, b->last, __ATOMIC_RELAXED);
}

int64_t batch_take(struct batch *b)
{
    uint64_t found = b->calls->peek_upto(b->persist, UINT64_MAX);
    uint64_t bytes = (uint32_t)found; /* UINT32_MAX if the ring refused */
    if (!found || bytes > b->bytes_max || b->offset >= b->place_at || RECORD_BYTES + bytes > b->end - b->offset)
        return 0;
    const uint8_t *run = b->calls->data(b->persist) + (found >> 32);
    struct wire_fold fold = {.run = run, .run_bytes = bytes, .last = b->last, .last_term = b->last_term};
    if (!wire_fold(&fold) || (fold.hard_states ? fold.commit : b->commit) > fold.last) /* I6 */
        return 0;
    uint8_t header[RECORD_BYTES], persisted[PERSISTED_BYTES];
    int64_t began_ns = b->calls->monotonic_ns();
    record_header(header, b->seed, b->offset, run, bytes, &fold);
    struct iovec parts[] = {{header, sizeof header}, {(void *)run, bytes}};
    b->failed_sync = 0;
    int error = write_whole(b->file, parts, 2, b->offset);
    if (error)
        return -error;
    int64_t written_ns = b->calls->monotonic_ns();
    error = sync_file(b->file);
    if (error) {
        b->failed_sync = 1;
        return -error;
    }
    int64_t synced_ns = b->calls->monotonic_ns();
    if (b->calls->release(b->persist, bytes) < 0)
        return BATCH_BROKEN;
    b->offset += RECORD_BYTES + bytes;
    b->persist_bytes += bytes;
    b->last = fold.last;
    if (fold.first)
        b->last_time_ns = fold.last_time_ns;
    if (fold.hard_states) {
        b->term = fold.term;
        b->voted_for = fold.voted_for;
        b->commit = fold.commit;
    }
    b->synced_at_ns = (uint64_t)synced_ns;
    wire_header(persisted, PERSISTED_BYTES, WIRE_PERSISTED, 0);
    put_u64(persisted + 8, b->last_term);
    put_u64(persisted + 16, b->last);
    put_u64(persisted + 24, b->persist_bytes);
    int told = b->calls->write(b->persisted, persisted, sizeof persisted);
    if (told < 0)
        return BATCH_BROKEN;
    b->told = told == 1;
    count(b, bytes, (uint64_t)(written_ns - began_ns), (uint64_t)(synced_ns - written_ns));
    return (int64_t)bytes;
}

int64_t batch_run(struct batch *b, const struct batch_limits *limits, int64_t spin_ns, int64_t timeout_ns)
{
    for (;;) {
        int woken = b->calls->wait(b->bell, spin_ns, timeout_ns);
        if (woken != DOORBELL_READY)
            return woken < 0 ? BATCH_BELL : woken;
        int64_t taken = batch_take(b);
        if (taken < 0)
            return taken;
        if (!taken || !b->told || b->offset >= limits->offset || b->persist_bytes >= limits->persist_bytes ||
            b->synced_at_ns >= limits->until_ns)
            return DOORBELL_READY;
        timeout_ns = limits->quiet_ns;
    }
}
