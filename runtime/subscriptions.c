/* subscriptions: see subscriptions.h. */
#include "subscriptions.h"
#include "wire.h"
#include <stdlib.h>

enum { BUCKETS_MAX = 1 << 16 };

int subscriptions_create(struct subscriptions *set, uint32_t connections, uint32_t count_max,
                         uint64_t seed)
{
    uint32_t buckets = 64;
    while (buckets < count_max && buckets < BUCKETS_MAX)
        buckets *= 2;
    memset(set, 0, sizeof *set);
    set->mask = buckets - 1;
    set->connections = connections;
    set->count_max = count_max;
    set->seed = seed;
    set->buckets = calloc(buckets, sizeof *set->buckets);
    set->first = calloc(connections, sizeof *set->first);
    if (!set->buckets || !set->first) {
        subscriptions_destroy(set);
        return -1;
    }
    return 0;
}

void subscriptions_destroy(struct subscriptions *set)
{
    for (uint32_t connection = 0; set->first && set->buckets && connection < set->connections;
         connection++)
        subscriptions_drop(set, connection);
    free(set->buckets);
    free(set->first);
    memset(set, 0, sizeof *set);
}

/* Keys are chosen by clients: a seeded multiplicative hash over 8 bytes at a time. */
static struct subscription **bucket_of(const struct subscriptions *set, uint16_t actor,
                                       const uint8_t *key, uint16_t key_bytes)
{
    uint64_t hash = set->seed ^ actor ^ ((uint64_t)key_bytes << 32);
    for (uint32_t at = 0; at < key_bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, key + at, key_bytes - at < 8 ? key_bytes - at : 8);
        unsigned __int128 product =
            (unsigned __int128)(hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash = ((uint64_t)product ^ (uint64_t)(product >> 64)) + set->seed;
    }
    hash *= UINT64_C(0xd6e8feb86659fd93);
    return &set->buckets[(hash >> 32) & set->mask];
}

int subscriptions_add(struct subscriptions *set, uint32_t connection, const uint8_t *frame)
{
    const uint8_t *session = frame + WIRE_SESSION_OFFSET;
    uint64_t request = wire_u64(frame + WIRE_REQUEST_OFFSET);
    struct subscription *old = subscriptions_find(set, connection, session, request);
    if (old)
        subscriptions_remove(set, old);
    if (set->count == set->count_max)
        return -1;
    uint16_t key_bytes = wire_u16(frame + 50);
    struct subscription *one = malloc(sizeof *one + key_bytes);
    if (!one)
        return -1;
    one->request = request;
    one->connection = connection;
    one->actor = wire_u16(frame + 48);
    one->key_bytes = key_bytes;
    one->live = 0;
    memcpy(one->session, session, 16);
    memcpy(one->key, frame + WIRE_SUBSCRIBE_BYTES, key_bytes);
    struct subscription **bucket = bucket_of(set, one->actor, one->key, key_bytes);
    one->chain = *bucket;
    *bucket = one;
    one->next = set->first[connection];
    set->first[connection] = one;
    set->count++;
    return 0;
}

struct subscription *subscriptions_find(const struct subscriptions *set, uint32_t connection,
                                        const uint8_t *session, uint64_t request)
{
    struct subscription *one = set->first[connection];
    while (one && (one->request != request || memcmp(one->session, session, 16) != 0))
        one = one->next;
    return one;
}

void subscriptions_start(struct subscriptions *set, struct subscription *one)
{
    set->live += !one->live;
    one->live = 1;
}

void subscriptions_remove(struct subscriptions *set, struct subscription *one)
{
    struct subscription **link = bucket_of(set, one->actor, one->key, one->key_bytes);
    while (*link != one)
        link = &(*link)->chain;
    *link = one->chain;
    link = &set->first[one->connection];
    while (*link != one)
        link = &(*link)->next;
    *link = one->next;
    set->count--;
    set->live -= one->live;
    free(one);
}

void subscriptions_drop(struct subscriptions *set, uint32_t connection)
{
    while (set->first[connection])
        subscriptions_remove(set, set->first[connection]);
}

static void match_filter(const struct subscriptions *set, uint16_t actor, const uint8_t *key,
                         uint16_t key_bytes, subscription_found *found, void *context)
{
    struct subscription *one = *bucket_of(set, actor, key, key_bytes);
    for (; one; one = one->chain)
        if (one->live && one->actor == actor && one->key_bytes == key_bytes &&
            memcmp(one->key, key, key_bytes) == 0)
            found(context, one->connection);
}

void subscriptions_match(const struct subscriptions *set, uint16_t actor, const uint8_t *key,
                         uint16_t key_bytes, subscription_found *found, void *context)
{
    if (set->live == 0)
        return;
    match_filter(set, 0, key, 0, found, context);
    match_filter(set, actor, key, 0, found, context);
    if (key_bytes) {
        match_filter(set, 0, key, key_bytes, found, context);
        match_filter(set, actor, key, key_bytes, found, context);
    }
}
