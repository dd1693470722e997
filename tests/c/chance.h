/* chance: what each harness draws from its seed, and how it ends where a promise is broken. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t state; /* the seed at first, and never 0 */

static inline uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static inline void need(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}
