/* following: see following.h. What is done here, in this order, is a turn of consensus.py. */
#include "following.h"

enum { PERSISTED = 34, APPLIED = 37, DIGESTS = 62 };
enum { ENTRY_BYTES = 40, HARD_STATE_BYTES = 32, PERSISTED_BYTES = 32, APPLIED_BYTES = 32, DIGESTS_BYTES = 16 };
enum { OVERHEAD_BYTES = 64 }; /* ENTRY_OVERHEAD_BYTES of feed.py */

/* The messages, and where their numbers lie (raft_messages.py). */
enum { APPEND = 3, APPEND_REPLY = 4, HEARTBEAT = 5, HEARTBEAT_REPLY = 6 };
enum { TARGET = 8, SOURCE = 16, TERM = 24 };
enum { PREV_INDEX = 32, PREV_TERM = 40, APPEND_COMMIT = 48, BULK = 56, APPEND_BYTES = 64 };
enum { HEARTBEAT_COMMIT = 32, ROUND = 40 };
enum { REPLY_INDEX = 32, REPLY_SUCCESS = 56, APPEND_REPLY_BYTES = 72, HEARTBEAT_REPLY_BYTES = 40 };

/* The kinds of entries that mean nothing to Raft and to feed.py: commands, the time, a comparison of states. */
enum { COMMANDS = 0, TIME = 2, CHECK = 5 };

enum { INTERRUPTED = 2 }; /* of a bell; see doorbell.h */

static const int64_t PARK_NS_MAX = 100000000;
static const uint64_t PLAIN = FOLLOWING_PERSISTED | FOLLOWING_APPLIED | FOLLOWING_RECEIVE;
enum { PERSISTED_AT = 1, APPLIED_AT = 2, RECEIVE_AT = 3 };

/* A run as it lies in a ring. */
struct run { const uint8_t *slots; uint64_t bytes; };

/* A turn, as far as it is worked out. */
struct turn {
    struct following *f;
    struct following_numbers n;
    uint64_t appended_bytes;      /* of entries, behind those that were there */
    uint64_t said_bytes;
    uint64_t now_said_bytes;      /* of these, what promises nothing: it goes out first */
    int shows;                    /* Python would show how far it has committed */
};

static void put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* Relaxed: readers want no order between words, only whole ones (shm/histogram.h). */
static void set(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* What the journal says. */
static int take_persisted(struct turn *t, struct run run)
{
    struct following_numbers *n = &t->n;
    uint64_t durable_bytes = 0;
    for (uint64_t at = 0; at < run.bytes; at += PERSISTED_BYTES) {
        if (wire_type(run.slots + at) != PERSISTED || wire_length(run.slots + at) != PERSISTED_BYTES)
            return FOLLOWING_OTHER;
        durable_bytes = wire_u64(run.slots + at + 24);
    }
    while (n->write_count && t->f->writes[n->write_first].handed_bytes <= durable_bytes) {
        const struct following_write *write = &t->f->writes[n->write_first];
        n->persisted = write->sequence;
        n->durable_commit = write->commit;
        if (write->last > n->durable)
            n->durable = write->last;
        n->write_first = (n->write_first + 1) % FOLLOWING_WRITES;
        n->write_count--;
    }
    return FOLLOWING_DONE;
}

/* What logic says. Digests are kept for divergence.py, which is asked at a tick. */

static int keep_digests(struct turn *t, const uint8_t *slot, uint64_t length)
{
    struct following_numbers *n = &t->n;
    if (length <= DIGESTS_BYTES || length % 4)
        return FOLLOWING_OTHER;
    uint64_t first = wire_u64(slot + 8), bytes = length - DIGESTS_BYTES;
    if (!n->digests_bytes)
        n->digests_first = first;
    if (first != n->digests_first + n->digests_bytes / 4)
        return FOLLOWING_OTHER;
    if (bytes > FOLLOWING_DIGESTS_BYTES - n->digests_bytes)
        return FOLLOWING_FULL;
    memcpy(t->f->digests + n->digests_bytes, slot + DIGESTS_BYTES, bytes);
    n->digests_bytes += (uint32_t)bytes;
    return FOLLOWING_DONE;
}

static int take_applied(struct turn *t, struct run run)
{
    struct following_numbers *n = &t->n;
    for (uint64_t at = 0; at < run.bytes; at += wire_padded(wire_length(run.slots + at))) {
        const uint8_t *slot = run.slots + at;
        uint64_t length = wire_length(slot);
        if (wire_type(slot) == DIGESTS) {
            int kept = keep_digests(t, slot, length);
            if (kept != FOLLOWING_DONE)
                return kept;
            continue;
        }
        if (wire_type(slot) != APPLIED || length != APPLIED_BYTES)
            return FOLLOWING_OTHER;
        uint64_t index = wire_u64(slot + 8);
        if (index < n->applied || index > n->applying)
            return FOLLOWING_OTHER;
        n->applied = index;
        n->digest = wire_u64(slot + 16);
        n->deadline_ns = (int64_t)wire_u64(slot + 24);
    }
    return FOLLOWING_DONE;
}

/* What the leader says. */

static uint8_t *say(struct turn *t, uint16_t tag, uint32_t length)
{
    const struct following *f = t->f;
    if (length > FOLLOWING_SAID_BYTES - t->said_bytes)
        return NULL;
    uint8_t *slot = t->f->said + t->said_bytes;
    t->said_bytes += length;
    wire_header(slot, length, WIRE_RAFT_MESSAGE, tag);
    put_u64(slot + TARGET, f->leader);
    put_u64(slot + SOURCE, f->id);
    put_u64(slot + TERM, f->term);
    t->shows = 1;
    return slot;
}

static void commit_to(struct following_numbers *n, uint64_t commit)
{
    uint64_t index = smaller(commit, n->last);
    if (index > n->commit)
        n->commit = index;
}

static int is_plain(const struct following *f, const uint8_t *entry)
{
    uint16_t kind = wire_u16(entry + 32);
    return wire_u64(entry + 16) == f->term && wire_padded(wire_length(entry)) <= f->slot_bytes_max &&
           (kind == COMMANDS || kind == TIME || kind == CHECK);
}

static int append(struct turn *t, const uint8_t *run, uint64_t bytes)
{
    struct following *f = t->f;
    struct following_numbers *n = &t->n;
    uint64_t begin = f->begins[n->entries];
    if (bytes + HARD_STATE_BYTES > f->slots_bytes_max - begin)
        return FOLLOWING_FULL;
    for (uint64_t at = 0; at < bytes;) {
        if (!is_plain(f, run + at))
            return FOLLOWING_OTHER;
        if (n->entries == FOLLOWING_ENTRIES)
            return FOLLOWING_FULL;
        at += wire_padded(wire_length(run + at));
        f->begins[++n->entries] = (uint32_t)(begin + at);
        n->last++;
    }
    memcpy(f->slots + begin, run, bytes);
    t->appended_bytes += bytes;
    return FOLLOWING_DONE;
}

/* It goes on exactly where the log ends: nothing there is to be compared, cut or passed over. */
static int take_append(struct turn *t, const uint8_t *slot, uint64_t length)
{
    struct following *f = t->f;
    struct following_numbers *n = &t->n;
    if (wire_u64(slot + PREV_INDEX) != n->last || wire_u64(slot + PREV_TERM) != f->term || wire_u64(slot + BULK))
        return FOLLOWING_OTHER;
    int appended = append(t, slot + APPEND_BYTES, length - APPEND_BYTES);
    if (appended != FOLLOWING_DONE)
        return appended;
    if (n->reply_count == FOLLOWING_REPLIES)
        return FOLLOWING_FULL;
    commit_to(n, wire_u64(slot + APPEND_COMMIT));
    /* I4: what this turn appended is in the write that is not given yet. */
    f->replies[(n->reply_first + n->reply_count++) % FOLLOWING_REPLIES] =
        (struct following_reply){n->sequence + (t->appended_bytes != 0), n->last};
    return FOLLOWING_DONE;
}

static int take_heartbeat(struct turn *t, const uint8_t *slot)
{
    uint8_t *reply = say(t, HEARTBEAT_REPLY, HEARTBEAT_REPLY_BYTES);
    if (!reply)
        return FOLLOWING_FULL;
    commit_to(&t->n, wire_u64(slot + HEARTBEAT_COMMIT));
    memcpy(reply + 32, slot + ROUND, 8);
    return FOLLOWING_DONE;
}

static int take_receive(struct turn *t, struct run run)
{
    const struct following *f = t->f;
    for (uint64_t at = 0; at < run.bytes; at += wire_padded(wire_length(run.slots + at))) {
        const uint8_t *slot = run.slots + at;
        uint64_t length = wire_length(slot);
        if (!carrier_passes(f->layouts, slot, length, f->leader, f->id) || wire_u64(slot + TERM) != f->term)
            return FOLLOWING_OTHER;
        int taken = FOLLOWING_OTHER;
        if (wire_u16(slot + 6) == APPEND)
            taken = take_append(t, slot, length);
        else if (wire_u16(slot + 6) == HEARTBEAT)
            taken = take_heartbeat(t, slot);
        if (taken != FOLLOWING_DONE)
            return taken;
        t->n.heard = 1;
    }
    return FOLLOWING_DONE;
}

/* What follows, as Raft.ready() has it: one write, what may be said now, what logic may be given. */

static int plan_write(struct turn *t)
{
    struct following_numbers *n = &t->n;
    if (!t->appended_bytes)
        return FOLLOWING_DONE; /* a higher commit index alone is no reason to write */
    if (t->f->now.write_count == FOLLOWING_WRITES)
        return FOLLOWING_FULL; /* a place that this turn makes free is another's until the turn is done */
    n->given_commit = smaller(n->commit, n->durable); /* I6 */
    n->handed_bytes += t->appended_bytes + HARD_STATE_BYTES;
    t->f->writes[(n->write_first + n->write_count++) % FOLLOWING_WRITES] =
        (struct following_write){n->handed_bytes, ++n->sequence, n->last, n->given_commit};
    t->shows = 1;
    return FOLLOWING_DONE;
}

static int release_replies(struct turn *t)
{
    struct following_numbers *n = &t->n;
    t->now_said_bytes = t->said_bytes;
    while (n->reply_count && t->f->replies[n->reply_first].sequence <= n->persisted) { /* I4 */
        uint8_t *reply = say(t, APPEND_REPLY, APPEND_REPLY_BYTES);
        if (!reply)
            return FOLLOWING_FULL;
        memset(reply + REPLY_INDEX, 0, APPEND_REPLY_BYTES - REPLY_INDEX);
        put_u64(reply + REPLY_INDEX, t->f->replies[n->reply_first].index);
        put_u64(reply + REPLY_SUCCESS, 1);
        n->reply_first = (n->reply_first + 1) % FOLLOWING_REPLIES;
        n->reply_count--;
    }
    return FOLLOWING_DONE;
}

static uint64_t begin_of(const struct following *f, uint64_t index) { return f->begins[index - f->first]; }

static int is_room(const struct following *f, struct ring_end *ring, uint64_t ring_bytes, uint64_t bytes, uint64_t slot_bytes)
{
    /* The slot that would pass the end of the ring leaves less than itself behind. */
    return !bytes || bytes + slot_bytes <= ring_bytes - f->calls->used(ring);
}

/* Whether all finds room: then nothing that is written below is refused. */
static int is_room_for_all(struct turn *t)
{
    const struct following *f = t->f;
    struct following_numbers *n = &t->n;
    uint64_t fed = n->applying, feedable = smaller(n->commit, n->durable); /* I6 */
    uint64_t persist_bytes = t->appended_bytes ? t->appended_bytes + HARD_STATE_BYTES : 0, apply_bytes = 0;
    if (feedable > fed) {
        apply_bytes = begin_of(f, feedable + 1) - begin_of(f, fed + 1);
        n->applying = feedable;
        t->shows = 1;
    }
    return persist_bytes <= f->persist_bytes / 4 && /* a longer one goes out in pieces: see persisting.py */
           is_room(f, f->persist, f->persist_bytes, persist_bytes, persist_bytes) &&
           is_room(f, f->apply, f->apply_bytes, apply_bytes, f->slot_bytes_max) &&
           is_room(f, f->send, f->send_bytes, t->said_bytes, APPEND_REPLY_BYTES);
}

static int plan(struct turn *t, struct run persisted, struct run applied, struct run receive)
{
    int planned = take_persisted(t, persisted);
    if (planned == FOLLOWING_DONE)
        planned = take_applied(t, applied);
    if (planned == FOLLOWING_DONE)
        planned = take_receive(t, receive);
    if (planned == FOLLOWING_DONE)
        planned = plan_write(t);
    if (planned == FOLLOWING_DONE)
        planned = release_replies(t);
    if (planned == FOLLOWING_DONE && !is_room_for_all(t))
        planned = FOLLOWING_FULL;
    return planned;
}

/* Doing. */

static int write_said(struct turn *t, uint64_t begin, uint64_t end)
{
    const struct following *f = t->f;
    int fine = 1;
    for (uint64_t at = begin; at < end; at += wire_length(f->said + at))
        fine &= f->calls->write(f->send, f->said + at, wire_length(f->said + at)) == 1;
    return fine;
}

static int write_entries(struct turn *t)
{
    struct following *f = t->f;
    struct following_numbers *n = &t->n;
    uint8_t *run = f->slots + f->begins[f->now.entries], *state = run + t->appended_bytes;
    wire_header(state, HARD_STATE_BYTES, WIRE_HARD_STATE, 0); /* the next entry goes over it */
    put_u64(state + 8, f->term);
    put_u64(state + 16, f->vote);
    put_u64(state + 24, n->given_commit);
    return f->calls->write(f->persist, run, t->appended_bytes + HARD_STATE_BYTES) == 1;
}

static int feed(struct turn *t)
{
    struct following *f = t->f;
    int fine = 1;
    for (uint64_t index = f->now.applying + 1; index <= t->n.applying; index++) {
        uint8_t *slot = f->slots + begin_of(f, index);
        uint32_t length = wire_length(slot);
        wire_header(slot, length, WIRE_ENTRY, (uint16_t)f->tag);
        fine &= f->calls->write(f->apply, slot, wire_padded(length)) == 1;
        t->n.given_bytes += length - ENTRY_BYTES + OVERHEAD_BYTES;
    }
    return fine;
}

/* 0: a ring refused, which it does not. */
static int put_out(struct turn *t)
{
    int fine = write_said(t, 0, t->now_said_bytes);
    if (t->appended_bytes)
        fine &= write_entries(t);
    fine &= write_said(t, t->now_said_bytes, t->said_bytes);
    return fine & feed(t);
}

/* 0: it is long; or the ring refused, which Python finds again. */
static int peek(const struct following *f, int at, struct run *run)
{
    uint64_t found = f->calls->peek_upto(f->inputs[at], UINT64_MAX);
    run->bytes = (uint32_t)found;
    run->slots = f->calls->data(f->inputs[at]) + (found >> 32);
    return run->bytes <= f->run_bytes_max;
}

static int release(const struct following *f, int at, struct run run)
{
    return !run.bytes || f->calls->release(f->inputs[at], run.bytes) == 0;
}

int following_turn(struct following *f)
{
    struct turn t = {.f = f, .n = f->now};
    struct run persisted, applied, receive;
    if (!peek(f, PERSISTED_AT, &persisted) || !peek(f, APPLIED_AT, &applied) || !peek(f, RECEIVE_AT, &receive))
        return FOLLOWING_OTHER;
    if (!persisted.bytes && !applied.bytes && !receive.bytes)
        return FOLLOWING_IDLE;
    int planned = plan(&t, persisted, applied, receive);
    if (planned != FOLLOWING_DONE)
        return planned;
    /* From here on it is ours. */
    int fine = release(f, PERSISTED_AT, persisted) & release(f, APPLIED_AT, applied) & release(f, RECEIVE_AT, receive) & put_out(&t);
    f->now = t.n;
    f->turns++;
    if (t.shows)
        set(f->commit_count, f->now.commit);
    if (applied.bytes)
        set(f->applied_count, f->now.applied);
    return fine ? FOLLOWING_DONE : FOLLOWING_BROKEN;
}

int following_run(struct following *f, int64_t until_ns, int64_t spin_ns)
{
    for (;;) {
        int64_t now_ns = f->calls->monotonic_ns();
        if (now_ns >= until_ns)
            return FOLLOWING_DUE;
        uint64_t ready = f->calls->ready_of(f->inputs, FOLLOWING_INPUTS);
        if (ready & ~PLAIN)
            return FOLLOWING_OTHER;
        if (ready) {
            int done = following_turn(f);
            if (done > FOLLOWING_DONE)
                return done;
            continue;
        }
        int64_t wait_ns = until_ns - now_ns;
        int woken = f->calls->wait(f->bell, spin_ns, wait_ns < PARK_NS_MAX ? wait_ns : PARK_NS_MAX);
        if (woken < 0)
            return FOLLOWING_BROKEN;
        if (woken == INTERRUPTED)
            return FOLLOWING_SIGNAL;
    }
}
