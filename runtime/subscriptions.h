/* subscriptions: who wants which events. The gateway's, for C only.
 *
 * A subscription belongs to a connection and is named by (session, request). It waits from SUBSCRIBE
 * until the logic's SUBSCRIBED and is live from then on. Its filter is an actor type id (0 = all)
 * and a key (empty = all), so an event can match four filters at most: each is one hash look-up,
 * however many subscriptions there are.
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>

struct subscription {
    struct subscription *chain;      /* of the bucket */
    struct subscription *next;       /* of the connection */
    uint64_t request;
    uint32_t connection;
    uint16_t actor;
    uint16_t key_bytes;
    uint8_t session[16];
    uint8_t live;
    uint8_t key[];
};

struct subscriptions {
    struct subscription **buckets;
    struct subscription **first;     /* per connection */
    uint32_t mask;
    uint32_t connections;
    uint32_t count;
    uint32_t count_max;
    uint32_t live;
    uint64_t seed;
};

typedef void subscription_found(void *context, uint32_t connection);

int subscriptions_create(struct subscriptions *set, uint32_t connections, uint32_t count_max,
                         uint64_t seed);
void subscriptions_destroy(struct subscriptions *set);
/* From a checked SUBSCRIBE frame; replaces one of the same name. -1: at the limit, or no memory. */
int subscriptions_add(struct subscriptions *set, uint32_t connection, const uint8_t *frame);
struct subscription *subscriptions_find(const struct subscriptions *set, uint32_t connection,
                                        const uint8_t *session, uint64_t request);
void subscriptions_start(struct subscriptions *set, struct subscription *subscription);
void subscriptions_remove(struct subscriptions *set, struct subscription *subscription);
void subscriptions_drop(struct subscriptions *set, uint32_t connection);
/* Calls `found` for every live subscription that wants the event: several times for a connection
 * that has several. `found` must not remove any. */
void subscriptions_match(const struct subscriptions *set, uint16_t actor, const uint8_t *key,
                         uint16_t key_bytes, subscription_found *found, void *context);
#endif
