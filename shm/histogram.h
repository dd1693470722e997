/* histogram: counts of values by size, and plain counters, in memory that others read while we
 * write.
 *
 * Log-linear: below 128 every value has a bucket of its own; above, each power of two is cut into
 * 64, so that a bucket is at most 1/64 of its value wide. Values from 2^42 (73 minutes in ns) on
 * count as the last bucket; max and sum keep them exact.
 *
 *        0  max u64 | sum u64 | 2 words unused
 *       32  buckets u64[HISTOGRAM_BUCKETS]
 *
 * Guaranteed: one writer, and readers that never lock, stop or slow it: each word is written by one
 * relaxed atomic store and is never torn. There is no consistency between words; a reader adds up
 * the buckets it sees and takes that sum as the count.
 *
 * Left to others: the file and its names (counters.py), percentiles (counters.py).
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>
#endif

#define HISTOGRAM_BITS 6
#define HISTOGRAM_BITS_MAX 42
#define HISTOGRAM_BUCKETS 2368 /* (42 - 6 + 1) * 64 */
#define HISTOGRAM_HEADER_WORDS 4

/* The writer's side; `words` is aligned to 8. */
void histogram_record(uint64_t *words, uint64_t value);
void histogram_record_n(uint64_t *words, uint64_t value, uint64_t count);
void counter_set(uint64_t *word, uint64_t value);

/* The reader's side: copy `count` words, none torn. */
void words_read(const uint64_t *words, uint64_t *copies, uint64_t count);

uint32_t histogram_bucket(uint64_t value);
uint64_t histogram_bucket_last(uint32_t bucket); /* the greatest value that the bucket counts */
