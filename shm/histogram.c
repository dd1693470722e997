/* histogram: see histogram.h for the layout. All atomics are relaxed: a word stands for itself, and
 * no other memory is published by it. One writer makes load-add-store enough, without a locked
 * operation. */
#include "histogram.h"

#include <stdatomic.h>

#define PER_OCTAVE (1u << HISTOGRAM_BITS)
_Static_assert(HISTOGRAM_BUCKETS == (HISTOGRAM_BITS_MAX - HISTOGRAM_BITS + 1) * PER_OCTAVE,
               "layout");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "words must not tear");

static uint64_t load(const uint64_t *word) {
    return atomic_load_explicit((const _Atomic uint64_t *)word, memory_order_relaxed);
}

static void store(uint64_t *word, uint64_t value) {
    atomic_store_explicit((_Atomic uint64_t *)word, value, memory_order_relaxed);
}

uint32_t histogram_bucket(uint64_t value) {
    if (value >> HISTOGRAM_BITS_MAX) return HISTOGRAM_BUCKETS - 1;
    if (value < PER_OCTAVE) return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - HISTOGRAM_BITS;
    return shift * PER_OCTAVE + (uint32_t)(value >> shift);
}

uint64_t histogram_bucket_last(uint32_t bucket) {
    if (bucket < 2 * PER_OCTAVE) return bucket;
    uint32_t shift = bucket / PER_OCTAVE - 1;
    return ((uint64_t)(bucket % PER_OCTAVE + PER_OCTAVE + 1) << shift) - 1;
}

void histogram_record_n(uint64_t *words, uint64_t value, uint64_t count) {
    uint64_t *bucket = words + HISTOGRAM_HEADER_WORDS + histogram_bucket(value);
    if (value > load(words) && count) store(words, value);
    store(words + 1, load(words + 1) + value * count);
    store(bucket, load(bucket) + count);
}

void histogram_record(uint64_t *words, uint64_t value) { histogram_record_n(words, value, 1); }

void counter_set(uint64_t *word, uint64_t value) { store(word, value); }

void words_read(const uint64_t *words, uint64_t *copies, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) copies[i] = load(words + i);
}
