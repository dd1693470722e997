/* routes: which connection a session's answers go to. The gateway's, for C only.
 *
 * A hash table of 128-bit session ids, chained through indices into one pool that doubles up to a
 * limit (I10); the hash is keyed with random seeds because clients choose the ids. The routes of a
 * connection are linked, so closing it costs only what it had bound.
 */
#ifndef CFFI_CDEF
#pragma once
#include <stdint.h>

#define ROUTES_NONE UINT32_MAX

struct route {
    uint8_t session[16];
    uint32_t connection;   /* ROUTES_NONE: this pool place is free */
    uint32_t chain;        /* next in the bucket, or next free */
    uint32_t next;         /* of the same connection */
    uint32_t previous;
    uint32_t closing;      /* CLOSE went in: the next reply to request 0 ends the route */
};

struct routes {
    struct route *pool;
    uint32_t *buckets;
    uint32_t *first;       /* per connection */
    uint32_t capacity;     /* of pool and of buckets: a power of two */
    uint32_t used;         /* pool places ever used */
    uint32_t free;         /* head of the freed places */
    uint32_t count;
    uint32_t count_max;
    uint64_t seed[2];
};

int routes_create(struct routes *routes, uint32_t connections, uint32_t count_max,
                  const uint64_t seed[2]);
void routes_destroy(struct routes *routes);
struct route *routes_find(const struct routes *routes, const uint8_t *session);
/* Bind or move; NULL when the table is at its limit or memory is short. */
struct route *routes_bind(struct routes *routes, const uint8_t *session, uint32_t connection);
void routes_unbind(struct routes *routes, struct route *route);
void routes_drop(struct routes *routes, uint32_t connection);
#endif
