/* routes: see routes.h. */
#include "routes.h"
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 64 };

static uint32_t bucket_of(const struct routes *routes, const uint8_t *session)
{
    uint64_t low, high;
    memcpy(&low, session, 8);
    memcpy(&high, session + 8, 8);
    unsigned __int128 product =
        (unsigned __int128)(low ^ routes->seed[0]) * (high ^ routes->seed[1] ^ UINT64_C(0x9e3779b97f4a7c15));
    uint64_t mixed = (uint64_t)product ^ (uint64_t)(product >> 64);
    mixed *= UINT64_C(0xd6e8feb86659fd93);
    return (uint32_t)(mixed >> 32) & (routes->capacity - 1);
}

int routes_create(struct routes *routes, uint32_t connections, uint32_t count_max,
                  const uint64_t seed[2])
{
    memset(routes, 0, sizeof *routes);
    routes->capacity = FIRST_CAPACITY;
    routes->count_max = count_max;
    routes->free = ROUTES_NONE;
    memcpy(routes->seed, seed, sizeof routes->seed);
    routes->pool = malloc(FIRST_CAPACITY * sizeof *routes->pool);
    routes->buckets = malloc(FIRST_CAPACITY * sizeof *routes->buckets);
    routes->first = malloc((size_t)connections * sizeof *routes->first);
    if (!routes->pool || !routes->buckets || !routes->first) {
        routes_destroy(routes);
        return -1;
    }
    memset(routes->buckets, 0xff, FIRST_CAPACITY * sizeof *routes->buckets);
    memset(routes->first, 0xff, (size_t)connections * sizeof *routes->first);
    return 0;
}

void routes_destroy(struct routes *routes)
{
    free(routes->pool);
    free(routes->buckets);
    free(routes->first);
    memset(routes, 0, sizeof *routes);
}

struct route *routes_find(const struct routes *routes, const uint8_t *session)
{
    uint32_t at = routes->buckets[bucket_of(routes, session)];
    while (at != ROUTES_NONE && memcmp(routes->pool[at].session, session, 16) != 0)
        at = routes->pool[at].chain;
    return at == ROUTES_NONE ? NULL : &routes->pool[at];
}

/* Double the pool and rehash: amortised one step for each route bound. */
static int grow(struct routes *routes)
{
    uint32_t capacity = routes->capacity * 2;
    if (capacity == 0)
        return -1;
    struct route *pool = realloc(routes->pool, (size_t)capacity * sizeof *pool);
    if (!pool)
        return -1;
    routes->pool = pool;
    uint32_t *buckets = realloc(routes->buckets, (size_t)capacity * sizeof *buckets);
    if (!buckets)
        return -1;
    routes->buckets = buckets;
    routes->capacity = capacity;
    memset(buckets, 0xff, (size_t)capacity * sizeof *buckets);
    for (uint32_t at = 0; at < routes->used; at++) {
        uint32_t bucket = bucket_of(routes, pool[at].session);
        pool[at].chain = buckets[bucket];
        buckets[bucket] = at;
    }
    return 0;
}

static void link_to(struct routes *routes, uint32_t at, uint32_t connection)
{
    struct route *route = &routes->pool[at];
    route->connection = connection;
    route->previous = ROUTES_NONE;
    route->next = routes->first[connection];
    if (route->next != ROUTES_NONE)
        routes->pool[route->next].previous = at;
    routes->first[connection] = at;
}

static void unlink_from(struct routes *routes, struct route *route)
{
    if (route->next != ROUTES_NONE)
        routes->pool[route->next].previous = route->previous;
    if (route->previous != ROUTES_NONE)
        routes->pool[route->previous].next = route->next;
    else
        routes->first[route->connection] = route->next;
}

struct route *routes_bind(struct routes *routes, const uint8_t *session, uint32_t connection)
{
    struct route *found = routes_find(routes, session);
    if (found) {
        if (found->connection != connection) {
            unlink_from(routes, found);
            link_to(routes, (uint32_t)(found - routes->pool), connection);
        }
        return found;
    }
    if (routes->count == routes->count_max)
        return NULL;
    uint32_t at = routes->free;
    if (at != ROUTES_NONE) {
        routes->free = routes->pool[at].chain;
    } else {
        /* Growing only with no freed place means that every place is in use, as grow assumes. */
        if (routes->used == routes->capacity && grow(routes) != 0)
            return NULL;
        at = routes->used++;
    }
    struct route *route = &routes->pool[at];
    memcpy(route->session, session, 16);
    route->closing = 0;
    uint32_t bucket = bucket_of(routes, session);
    route->chain = routes->buckets[bucket];
    routes->buckets[bucket] = at;
    link_to(routes, at, connection);
    routes->count++;
    return route;
}

void routes_unbind(struct routes *routes, struct route *route)
{
    uint32_t at = (uint32_t)(route - routes->pool);
    uint32_t *link = &routes->buckets[bucket_of(routes, route->session)];
    while (*link != at)
        link = &routes->pool[*link].chain;
    *link = route->chain;
    unlink_from(routes, route);
    route->connection = ROUTES_NONE;
    route->chain = routes->free;
    routes->free = at;
    routes->count--;
}

void routes_drop(struct routes *routes, uint32_t connection)
{
    while (routes->first[connection] != ROUTES_NONE)
        routes_unbind(routes, &routes->pool[routes->first[connection]]);
}
