/* sessions: who may ask, what was applied of it, and the replies that may still be asked for (I9).
 *
 * The rules are told in sessions.py. Here are the table (open addressing, keyed by the 16 bytes of the id) and
 * two chains through it: by opening, which is the order of a snapshot, and by last activity, oldest first, which
 * is the order of expiry: activity is stamped with a clock that never goes back, so a session that speaks goes
 * to the end, and expiry looks at the front alone.
 *
 * Clients choose the ids. Where an id lies in the table is SipHash-1-3 of it under a key of this process, so
 * nobody outside can choose ids that lie in one place; nothing that is seen depends on the key. Nothing here
 * knows Python.
 */
#pragma once
#include "fifo.h"
#include "layout.h"

struct session {
    uint8_t id[SESSION_ID_BYTES];
    uint64_t last;       /* request: applied up to here */
    uint64_t floor;      /* request: the client has the answers up to here */
    int64_t active_ns;   /* session clock */
    struct fifo replies; /* of floor + 1 ... last, as they were sent */
    struct session *before, *after;  /* by opening */
    struct session *older, *younger; /* by activity */
};

struct sessions {
    struct session **places; /* capacity many, a power of two, at most half full */
    size_t capacity, count;
    uint64_t key[2];                   /* random; set before the first session comes, and never again */
    struct session *first, *newest;    /* by opening */
    struct session *oldest, *youngest; /* by activity, unless `unsorted` */
    int unsorted;
};

/* What becomes of a request. */
enum verdict { VERDICT_APPLY, VERDICT_AGAIN, VERDICT_GAP, VERDICT_BAD, VERDICT_FORGOTTEN, VERDICT_WINDOW };

struct session *sessions_find(const struct sessions *sessions, const uint8_t id[SESSION_ID_BYTES]);
/* A new session, the last by opening; NULL: no memory. The id must not be there. */
struct session *sessions_add(struct sessions *sessions, const uint8_t id[SESSION_ID_BYTES], int64_t active_ns);
/* The session that was silent for longest; NULL: there is none. */
struct session *sessions_oldest(struct sessions *sessions);
void sessions_remove(struct sessions *sessions, struct session *session);
void sessions_touch(struct sessions *sessions, struct session *session, int64_t clock_ns);
void sessions_free(struct sessions *sessions);

/* The clock at which a session has been silent for the timeout. */
int64_t session_expiry_ns(const struct session *session, int64_t timeout_ns);
enum verdict session_admit(struct session *session, uint64_t request, uint32_t unanswered, uint64_t window,
                           uint64_t bytes_max);
/* The kept reply of a request that session_admit found to be there AGAIN; it walks, over at most a window. */
const uint8_t *session_reply(const struct session *session, uint64_t request);
