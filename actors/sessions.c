#include "sessions.h"

static size_t place_of(const struct sessions *sessions, const uint8_t id[16])
{
    uint64_t a, b;
    memcpy(&a, id, 8);
    memcpy(&b, id + 8, 8);
    a = (a ^ sessions->seed[0]) * UINT64_C(0x9E3779B97F4A7C15);
    a ^= a >> 32;
    b = (b ^ sessions->seed[1] ^ a) * UINT64_C(0xC2B2AE3D27D4EB4F);
    b ^= b >> 29;
    b *= UINT64_C(0x165667B19E3779F9);
    return (size_t)(b ^ b >> 32) & (sessions->capacity - 1);
}

struct session *sessions_find(const struct sessions *sessions, const uint8_t id[16])
{
    if (!sessions->count)
        return NULL;
    for (size_t at = place_of(sessions, id);; at = (at + 1) & (sessions->capacity - 1)) {
        struct session *found = sessions->places[at];
        if (!found || memcmp(found->id, id, 16) == 0)
            return found;
    }
}

static void put(struct sessions *sessions, struct session *session)
{
    size_t at = place_of(sessions, session->id);
    while (sessions->places[at])
        at = (at + 1) & (sessions->capacity - 1);
    sessions->places[at] = session;
}

static int make_room(struct sessions *sessions)
{
    if (2 * (sessions->count + 1) <= sessions->capacity)
        return 1;
    size_t capacity = sessions->capacity ? 2 * sessions->capacity : 16;
    struct session **places = calloc(capacity, sizeof *places);
    if (!places)
        return 0;
    free(sessions->places);
    sessions->places = places;
    sessions->capacity = capacity;
    for (struct session *each = sessions->first; each; each = each->after)
        put(sessions, each);
    return 1;
}

static void unlink_activity(struct sessions *sessions, struct session *session)
{
    *(session->older ? &session->older->younger : &sessions->oldest) = session->younger;
    *(session->younger ? &session->younger->older : &sessions->youngest) = session->older;
}

static void link_youngest(struct sessions *sessions, struct session *session)
{
    session->older = sessions->youngest;
    session->younger = NULL;
    *(sessions->youngest ? &sessions->youngest->younger : &sessions->oldest) = session;
    sessions->youngest = session;
}

static int by_activity(const void *left, const void *right)
{
    const struct session *a = *(struct session *const *)left, *b = *(struct session *const *)right;
    return (a->active_ns > b->active_ns) - (a->active_ns < b->active_ns);
}

/* A restore brings sessions in the order of opening; the order of activity is made when it is first asked for.
 * Sessions of the same age may stand in any order: they expire together. Without memory they stay unsorted,
 * and then the chain is searched. */
struct session *sessions_oldest(struct sessions *sessions)
{
    if (!sessions->unsorted || !sessions->count)
        return sessions->oldest;
    struct session **all = malloc(sessions->count * sizeof *all);
    if (!all) {
        struct session *oldest = sessions->first;
        for (struct session *each = oldest; each; each = each->after)
            if (each->active_ns < oldest->active_ns)
                oldest = each;
        return oldest;
    }
    size_t count = 0;
    for (struct session *each = sessions->first; each; each = each->after)
        all[count++] = each;
    qsort(all, count, sizeof *all, by_activity);
    sessions->oldest = sessions->youngest = NULL;
    for (size_t at = 0; at < count; at++)
        link_youngest(sessions, all[at]);
    free(all);
    sessions->unsorted = 0;
    return sessions->oldest;
}

struct session *sessions_add(struct sessions *sessions, const uint8_t id[16], int64_t active_ns)
{
    if (!make_room(sessions))
        return NULL;
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    memcpy(session->id, id, 16);
    session->active_ns = active_ns;
    put(sessions, session);
    session->before = sessions->newest;
    *(sessions->newest ? &sessions->newest->after : &sessions->first) = session;
    sessions->newest = session;
    sessions->unsorted |= sessions->youngest && sessions->youngest->active_ns > active_ns;
    link_youngest(sessions, session);
    sessions->count++;
    return session;
}

void sessions_remove(struct sessions *sessions, struct session *session)
{
    size_t mask = sessions->capacity - 1;
    size_t at = place_of(sessions, session->id);
    while (sessions->places[at] != session)
        at = (at + 1) & mask;
    /* Close the gap: whoever stands behind and would rather stand here moves up. */
    for (size_t next = (at + 1) & mask; sessions->places[next]; next = (next + 1) & mask) {
        size_t home = place_of(sessions, sessions->places[next]->id);
        if (((next - home) & mask) >= ((next - at) & mask)) {
            sessions->places[at] = sessions->places[next];
            at = next;
        }
    }
    sessions->places[at] = NULL;
    *(session->before ? &session->before->after : &sessions->first) = session->after;
    *(session->after ? &session->after->before : &sessions->newest) = session->before;
    unlink_activity(sessions, session);
    sessions->count--;
    fifo_free(&session->replies);
    free(session);
}

void sessions_touch(struct sessions *sessions, struct session *session, int64_t clock_ns)
{
    session->active_ns = clock_ns;
    if (session != sessions->youngest) {
        unlink_activity(sessions, session);
        link_youngest(sessions, session);
    }
}

void sessions_free(struct sessions *sessions)
{
    for (struct session *each = sessions->first; each;) {
        struct session *after = each->after;
        fifo_free(&each->replies);
        free(each);
        each = after;
    }
    free(sessions->places);
    memset(sessions, 0, sizeof *sessions);
}

static void forget(struct session *session, uint64_t floor)
{
    while (session->floor < floor) {
        session->floor++;
        fifo_drop_first(&session->replies);
    }
}

enum verdict session_admit(struct session *session, uint64_t request, uint32_t unanswered, uint64_t window,
                           uint64_t bytes_max)
{
    if (request > session->last + 1)
        return VERDICT_GAP;
    if (unanswered < 1 || request < 1)
        return VERDICT_BAD;
    if (request > unanswered && request - unanswered > session->floor)
        forget(session, request - unanswered);
    if (request <= session->floor)
        return VERDICT_FORGOTTEN;
    if (request <= session->last)
        return VERDICT_AGAIN;
    if (session->replies.count >= window || fifo_bytes(&session->replies) >= bytes_max)
        return VERDICT_WINDOW;
    return VERDICT_APPLY;
}

const uint8_t *session_reply(const struct session *session, uint64_t request)
{
    const uint8_t *slot = session->replies.bytes + session->replies.start;
    for (uint64_t at = session->floor + 1; at < request; at++)
        slot += slot_padded(slot_length(slot));
    return slot;
}
