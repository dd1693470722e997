#include "sessions.h"

static inline uint64_t turned(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = turned(v[1], 13) ^ v[0];
    v[3] = turned(v[3], 16) ^ v[2];
    v[0] = turned(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = turned(v[1], 17) ^ v[2];
    v[3] = turned(v[3], 21) ^ v[0];
    v[2] = turned(v[2], 32);
}

/* SipHash-1-3 of an id: two words, and the word that closes the message with its length. */
static uint64_t hash_of(const uint64_t key[2], const uint8_t id[SESSION_ID_BYTES])
{
    uint64_t words[3] = {0, 0, (uint64_t)SESSION_ID_BYTES << 56};
    memcpy(words, id, SESSION_ID_BYTES);
    uint64_t v[4] = {
        key[0] ^ UINT64_C(0x736f6d6570736575),
        key[1] ^ UINT64_C(0x646f72616e646f6d),
        key[0] ^ UINT64_C(0x6c7967656e657261),
        key[1] ^ UINT64_C(0x7465646279746573),
    };
    for (int at = 0; at < 3; at++) {
        v[3] ^= words[at];
        sip_round(v);
        v[0] ^= words[at];
    }
    v[2] ^= 0xff;
    for (int round = 0; round < 3; round++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static size_t place_of(const struct sessions *sessions, const uint8_t id[SESSION_ID_BYTES])
{
    return (size_t)hash_of(sessions->key, id) & (sessions->capacity - 1);
}

struct session *sessions_find(const struct sessions *sessions, const uint8_t id[SESSION_ID_BYTES])
{
    if (!sessions->count)
        return NULL;
    for (size_t at = place_of(sessions, id);; at = (at + 1) & (sessions->capacity - 1)) {
        struct session *found = sessions->places[at];
        if (!found || memcmp(found->id, id, SESSION_ID_BYTES) == 0)
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

struct session *sessions_add(struct sessions *sessions, const uint8_t id[SESSION_ID_BYTES], int64_t active_ns)
{
    if (!make_room(sessions))
        return NULL;
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    memcpy(session->id, id, SESSION_ID_BYTES);
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

int64_t session_expiry_ns(const struct session *session, int64_t timeout_ns)
{
    int64_t expiry_ns;
    return __builtin_add_overflow(session->active_ns, timeout_ns, &expiry_ns) ? INT64_MAX : expiry_ns;
}

static void forget(struct session *session, uint64_t floor)
{
    while (session->floor < floor) {
        session->floor++;
        fifo_drop_first(&session->replies);
    }
    fifo_trim(&session->replies);
}

enum verdict session_admit(struct session *session, uint64_t request, uint32_t unanswered, uint64_t window,
                           uint64_t bytes_max)
{
    if (request > session->last && request - session->last > 1)
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
    const uint8_t *slot = fifo_first(&session->replies);
    for (uint64_t at = session->floor + 1; at < request; at++)
        slot += slot_padded(slot_length(slot));
    return slot;
}
