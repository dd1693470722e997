/* leading: see leading.h. What it does, in this order, is a turn of consensus.py. */
#include "leading.h"

enum {
    PERSISTED = 34, APPLIED = 37, DIGESTS = 62,
    ENTRY_BYTES = 40, HARD_STATE_BYTES = 32, PERSISTED_BYTES = 32, APPLIED_BYTES = 32,
    DIGESTS_BYTES = 16,
    OVERHEAD_BYTES = 64,       /* ENTRY_OVERHEAD_BYTES of feed.py */
    FEED_ENTRIES_MAX = 1024,   /* in one turn */
    TAIL_BYTES = HARD_STATE_BYTES,
    TAKE_BYTES = 1024 * 1024   /* of messages in one turn */
};
static const int64_t PARK_NS_MAX = 100000000;
static const int PLAIN = LEADING_PERSISTED | LEADING_APPLIED | LEADING_RECEIVE | LEADING_INGRESS;
enum { DONE = 0, IDLE = -1, INTERRUPTED = 2 /* of doorbell.h */ };

/* What a turn found before it changed anything. */
struct found {
    int64_t now_ns;
    uint64_t persisted_bytes, durable_index, durable_bytes;
    uint64_t applied_bytes, applied, digest, digests_first, digests_bytes;
    int64_t deadline_ns, timer_due_ns;
    const uint8_t *received;
    uint64_t received_bytes;
    uint64_t consumed_bytes, body_bytes, body_count, queries_bytes;
};

static void put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* Relaxed: readers want no order between words, only whole ones (shm/histogram.h). */
static void set(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
static void add(uint64_t *word, uint64_t amount) { set(word, *word + amount); }

/* A run at an end, as pointer and size; 0: there is none, or the ring refused, which Python finds again. */
static const uint8_t *peek(struct leading *l, struct ring_end *end, uint64_t *bytes)
{
    uint64_t found = l->calls->peek_upto(end, UINT64_MAX);
    *bytes = (uint32_t)found;
    if (!found || *bytes == UINT32_MAX)
        return NULL;
    return l->calls->data(end) + (found >> 32);
}

/* Looking: 1 if all is plain. */

static int look_at_persisted(struct leading *l, struct found *f)
{
    const uint8_t *run = peek(l, l->inputs[1], &f->persisted_bytes);
    if (!run || l->reached_count == LEADING_REACHED)
        return 0;
    for (uint64_t at = 0; at < f->persisted_bytes; at += PERSISTED_BYTES) {
        const uint8_t *slot = run + at;
        if (wire_slot_bytes(slot, f->persisted_bytes - at) != PERSISTED_BYTES ||
            wire_type(slot) != PERSISTED || wire_length(slot) != PERSISTED_BYTES)
            return 0;
        f->durable_index = wire_u64(slot + 16);
        f->durable_bytes = wire_u64(slot + 24);
    }
    return f->durable_index <= l->last && f->durable_bytes <= l->handed_bytes;
}

static int64_t timer_due(const struct leading *l, int64_t deadline_ns)
{
    if (deadline_ns < 0)
        return INT64_MAX;
    int64_t due_ns;
    if (__builtin_add_overflow(l->monotonic_ns, deadline_ns - l->log_ns, &due_ns))
        return INT64_MAX;
    return due_ns;
}

static int look_at_applied(struct leading *l, struct found *f)
{
    const uint8_t *run = peek(l, l->inputs[2], &f->applied_bytes);
    if (!run)
        return 0;
    for (uint64_t at = 0, size; at < f->applied_bytes; at += size) {
        const uint8_t *slot = run + at;
        size = wire_slot_bytes(slot, f->applied_bytes - at);
        uint64_t length = size ? wire_length(slot) : 0;
        if (length == APPLIED_BYTES && wire_type(slot) == APPLIED) {
            uint64_t index = wire_u64(slot + 8);
            if (index < f->applied || index > l->applying)
                return 0;
            f->applied = index;
            f->digest = wire_u64(slot + 16);
            f->deadline_ns = (int64_t)wire_u64(slot + 24);
            if (f->deadline_ns < -1)
                return 0;
        } else if (length > DIGESTS_BYTES && wire_type(slot) == DIGESTS && length % 4 == 0) {
            uint64_t first = wire_u64(slot + 8), bytes = length - DIGESTS_BYTES;
            if (l->digests_bytes + f->digests_bytes == 0)
                f->digests_first = first;
            if (first != f->digests_first + (l->digests_bytes + f->digests_bytes) / 4 ||
                bytes > l->digests_bytes_max - l->digests_bytes - f->digests_bytes)
                return 0;
            /* Beyond what counts: it is taken with the rest of the turn. */
            memcpy(l->digests + l->digests_bytes + f->digests_bytes, slot + DIGESTS_BYTES, bytes);
            f->digests_bytes += bytes;
        } else {
            return 0;
        }
    }
    f->timer_due_ns = timer_due(l, f->deadline_ns);
    return 1;
}

static int is_timer_due(const struct leading *l, const struct found *f)
{
    return f->now_ns >= f->timer_due_ns && l->time_entry <= f->applied;
}

static int look_at_received(struct leading *l, struct found *f)
{
    uint64_t found = l->calls->peek_upto(l->inputs[3], TAKE_BYTES);
    f->received_bytes = (uint32_t)found;
    if (!found || f->received_bytes == UINT32_MAX)
        return 0;
    f->received = l->calls->data(l->inputs[3]) + (found >> 32);
    return leading_messages_are_plain(l, f->received, f->received_bytes);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* The room for an entry's body as consensus.py reckons it, or -1: nothing is admitted now. */
static int64_t entry_room(struct leading *l, const struct found *f)
{
    int64_t persist_free = (int64_t)(l->persist_bytes - l->calls->used(l->persist));
    int64_t apply_free = (int64_t)(l->apply_bytes - l->calls->used(l->apply));
    int64_t apply_room = apply_free - (int64_t)l->unfed_bytes;
    if (apply_room < 0)
        return -1;
    int64_t room = smaller(persist_free / 2, apply_room / 2) - OVERHEAD_BYTES;
    room = smaller(room, (int64_t)l->entry_bytes_max);
    if (room < (int64_t)l->frame_bytes_max || l->last - l->fed >= l->in_flight_max ||
        l->last - f->applied >= l->unapplied_max)
        return -1;
    uint64_t unapplied_bytes = l->unapplied_bytes;
    for (uint64_t index = l->applied + 1; index <= f->applied; index++)
        unapplied_bytes -= leading_entry(l, index)->body_bytes;
    if (f->applied < l->last && unapplied_bytes + (uint64_t)room > l->unapplied_bytes_max)
        return -1;
    return room;
}

static int queries_are_plain(const struct leading *l, const struct wire_separation *s)
{
    /* Nobody is to be asked, and logic has all that was proposed, and so all that they must see. */
    if (l->peers_count || s->body_count || l->fed != l->last || s->consumed_bytes != s->run_bytes)
        return 0;
    for (uint64_t at = 0; at < s->queries_bytes && !l->heard;
         at += wire_padded(wire_length(s->queries + at)))
        if (wire_type(s->queries + at) != WIRE_QUERY)
            return 0;
    return 1;
}

/* A leading_reason, or DONE: its body lies in `slots` behind the place of its header, or the queries in theirs. */
static int look_at_ingress(struct leading *l, struct found *f)
{
    int64_t room = entry_room(l, f);
    if (room < 0)
        return LEADING_FULL;
    uint64_t bytes;
    const uint8_t *run = peek(l, l->inputs[5], &bytes);
    if (!run)
        return LEADING_OTHER;
    uint64_t wanted = ENTRY_BYTES + TAIL_BYTES + (bytes < (uint64_t)room ? bytes : (uint64_t)room);
    if (l->slots_bytes_max - l->slots_bytes < wanted || l->last - l->first + 1 >= LEADING_ENTRIES ||
        l->write_count == LEADING_WRITES)
        return LEADING_FULL;
    struct wire_separation s = {
        .run = run, .run_bytes = bytes,
        .body = l->slots + l->slots_bytes + ENTRY_BYTES,
        .body_bytes_max = (uint64_t)room, .body_count_max = l->entry_count_max,
        .queries = l->queries, .queries_bytes_max = l->queries_bytes_max,
    };
    if (wire_separate(&s) < 0 || !s.consumed_bytes || s.drain)
        return LEADING_OTHER;
    /* It stopped at a control, or at a query that finds no room here. */
    if (s.consumed_bytes < bytes) {
        uint16_t type = wire_type(run + s.consumed_bytes);
        if (type != WIRE_COMMAND && type != WIRE_OPEN && type != WIRE_CLOSE)
            return LEADING_OTHER;
    }
    if (s.queries_bytes) {
        if (!queries_are_plain(l, &s))
            return LEADING_OTHER;
        uint64_t address = l->calls->claim_upto(l->apply, s.queries_bytes, s.queries_bytes);
        if (address < 16)
            return LEADING_FULL;
        memcpy((uint8_t *)address, l->queries, s.queries_bytes);
    } else if (!s.body_count) {
        return LEADING_OTHER;
    }
    f->consumed_bytes = s.consumed_bytes;
    f->body_bytes = s.body_bytes;
    f->body_count = s.body_count;
    f->queries_bytes = s.queries_bytes;
    return DONE;
}

/* Doing. */

static void note(uint64_t *trail, uint64_t rows, uint64_t index, uint64_t since_ns, uint64_t at_ns)
{
    if (!trail)
        return;
    uint64_t *row = trail + index % rows * 3;
    /* The index goes first and comes last (trail.py). */
    __atomic_store_n(row, 0, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    set(row + 1, since_ns);
    set(row + 2, at_ns);
    __atomic_store_n(row, index, __ATOMIC_RELEASE);
}

static void take_persisted(struct leading *l, const struct found *f)
{
    uint64_t before = l->persisted;
    while (l->write_count && l->writes[l->write_first].handed_bytes <= f->durable_bytes) {
        const struct leading_write *write = &l->writes[l->write_first];
        l->persisted = write->sequence;
        l->durable_commit = write->commit;
        if (write->last > l->durable)
            l->durable = write->last;
        l->write_first = (l->write_first + 1) % LEADING_WRITES;
        l->write_count--;
    }
    if (l->persisted != before)
        leading_advance_commit(l);
    if (l->undurable_count)
        l->reached[l->reached_count++] =
            (struct leading_reached){f->durable_index, (uint64_t)f->now_ns};
}

static void note_durable(struct leading *l)
{
    for (uint64_t at = 0; at < l->reached_count; at++) {
        const struct leading_reached *reached = &l->reached[at];
        for (; l->undurable <= reached->through; l->undurable++) {
            const struct leading_entry *entry = leading_entry(l, l->undurable);
            if (!entry->count)
                continue;
            l->undurable_count--;
            l->calls->record(l->durable_ns, reached->now_ns - entry->since_ns);
            note(l->durable_trail, l->trail_rows, l->undurable, entry->since_ns, reached->now_ns);
        }
    }
    l->reached_count = 0;
}

static void take_applied(struct leading *l, const struct found *f)
{
    uint64_t now_ns = (uint64_t)f->now_ns;
    note_durable(l);
    while (l->applied < f->applied) {
        const struct leading_entry *entry = leading_entry(l, ++l->applied);
        l->unapplied_bytes -= entry->body_bytes;
        if (!entry->count)
            continue;
        l->calls->record(l->applied_ns, now_ns - entry->since_ns);
        note(l->applied_trail, l->trail_rows, l->applied, entry->since_ns, now_ns);
    }
    l->digest = f->digest;
    l->deadline_ns = f->deadline_ns;
    l->timer_due_ns = f->timer_due_ns;
    if (f->digests_bytes) {
        l->digests_first = f->digests_first;
        l->digests_bytes += f->digests_bytes;
    }
    set(l->applied_count, l->applied);
}

/* ENTRY: header, u64 index | u64 term | i64 time | u16 kind | u16 0 | u32 0 | body. (slots.py) */
static void propose(struct leading *l, const struct found *f)
{
    int64_t passed_ns = f->now_ns - l->monotonic_ns;
    int64_t time_ns = l->log_ns + (passed_ns > 0 ? passed_ns : 0);
    if (time_ns < l->last_time_ns)
        time_ns = l->last_time_ns;
    uint8_t *slot = l->slots + l->slots_bytes;
    wire_header(slot, ENTRY_BYTES + (uint32_t)f->body_bytes, WIRE_ENTRY, 0);
    put_u64(slot + 8, ++l->last);
    put_u64(slot + 16, l->term);
    put_u64(slot + 24, (uint64_t)time_ns);
    memset(slot + 32, 0, 8);
    *leading_entry(l, l->last) = (struct leading_entry){
        (uint64_t)f->now_ns, l->slots_bytes, (uint32_t)f->body_bytes, (uint32_t)f->body_count};
    l->last_time_ns = time_ns;
    l->slots_bytes += ENTRY_BYTES + f->body_bytes;
    l->unfed_bytes += f->body_bytes + OVERHEAD_BYTES;
    l->unapplied_bytes += f->body_bytes;
    l->undurable_count++;
    add(l->entries_count, 1);
    add(l->commands_count, f->body_count);
    l->calls->record(l->entry_bytes, f->body_bytes);
}

/* The entry just proposed, and what else Raft wants written with it. */
static int persist(struct leading *l)
{
    uint64_t commit = l->commit < l->durable ? l->commit : l->durable; /* I6 */
    uint64_t at = leading_entry(l, l->last)->at, bytes = l->slots_bytes - at;
    if (commit != l->given_commit || l->repeats) {
        uint8_t *state = l->slots + l->slots_bytes; /* the next entry goes over it */
        wire_header(state, HARD_STATE_BYTES, WIRE_HARD_STATE, 0);
        put_u64(state + 8, l->term);
        put_u64(state + 16, l->id);
        put_u64(state + 24, commit);
        bytes += HARD_STATE_BYTES;
    }
    l->given_commit = commit;
    l->handed_bytes += bytes;
    l->writes[(l->write_first + l->write_count++) % LEADING_WRITES] =
        (struct leading_write){l->handed_bytes, ++l->sequence, l->last, commit};
    if (l->calls->write(l->persist, l->slots + at, bytes) == 1)
        return 1;
    l->unwritten_at = at;
    l->unwritten_bytes = bytes;
    return 0;
}

/* What is committed and durable, as much as there is room for; 0 if some is left. */
static int feed(struct leading *l)
{
    for (int given = 0; l->fed < l->applying; given++) {
        const struct leading_entry *entry = leading_entry(l, l->fed + 1);
        uint64_t size = entry->body_bytes + OVERHEAD_BYTES;
        if (given > FEED_ENTRIES_MAX ||
            l->calls->write(l->apply, l->slots + entry->at,
                            ENTRY_BYTES + wire_padded(entry->body_bytes)) != 1)
            return 0;
        l->fed++;
        l->given_bytes += size;
        l->unfed_bytes = l->unfed_bytes > size ? l->unfed_bytes - size : 0;
    }
    return 1;
}

static int turn(struct leading *l, int64_t until_ns)
{
    uint64_t ready = l->calls->ready_of(l->inputs, LEADING_INPUTS);
    struct found f = {
        .now_ns = l->calls->monotonic_ns(), .applied = l->applied, .digest = l->digest,
        .digests_first = l->digests_first,
        .deadline_ns = l->deadline_ns, .timer_due_ns = l->timer_due_ns,
    };
    if (f.now_ns >= until_ns)
        return LEADING_DUE;
    if (ready & ~(uint64_t)PLAIN)
        return LEADING_OTHER;
    if (ready & LEADING_PERSISTED && !look_at_persisted(l, &f))
        return LEADING_OTHER;
    if (ready & LEADING_APPLIED && !look_at_applied(l, &f))
        return LEADING_OTHER;
    if (ready & LEADING_RECEIVE && !look_at_received(l, &f))
        return LEADING_OTHER;
    if (is_timer_due(l, &f))
        return LEADING_DUE;
    if (!ready)
        return IDLE;
    if (ready & LEADING_INGRESS) {
        int reason = look_at_ingress(l, &f);
        if (reason != DONE)
            return reason;
    }
    /* From here on it is ours. */
    l->turns++;
    int whole = 1, broken = 0, done = f.queries_bytes != 0;
    if (ready & LEADING_PERSISTED) {
        broken |= l->calls->release(l->inputs[1], f.persisted_bytes) < 0;
        take_persisted(l, &f);
    }
    if (ready & LEADING_APPLIED) {
        broken |= l->calls->release(l->inputs[2], f.applied_bytes) < 0;
        take_applied(l, &f);
    }
    if (ready & LEADING_RECEIVE) {
        done |= leading_take_messages(l, f.received, f.received_bytes);
        broken |= l->calls->release(l->inputs[3], f.received_bytes) < 0;
    }
    if (f.consumed_bytes)
        broken |= l->calls->release(l->inputs[5], f.consumed_bytes) < 0;
    if (f.body_count) {
        propose(l, &f);
        leading_replicate(l); /* first: the peers' disks work while ours does */
        whole &= persist(l);
        done = 1;
    }
    uint64_t known = l->commit < l->durable ? l->commit : l->durable;
    if (known > l->applying) {
        l->applying = known;
        done = 1;
    }
    if (done)
        set(l->commit_count, l->commit);
    whole &= feed(l);
    if (f.queries_bytes) {
        l->reads++;
        broken |= l->calls->commit(l->apply, f.queries_bytes) < 0;
    }
    if (broken)
        return LEADING_BROKEN;
    return whole ? DONE : LEADING_FULL;
}

int leading_run(struct leading *l, int64_t until_ns, int64_t spin_ns)
{
    for (;;) {
        int reason = turn(l, until_ns);
        if (reason > 0)
            return reason;
        if (reason != IDLE)
            continue;
        int64_t due_ns = until_ns;
        if (l->time_entry <= l->applied)
            due_ns = smaller(due_ns, l->timer_due_ns);
        int64_t wait_ns = due_ns - l->calls->monotonic_ns();
        wait_ns = wait_ns < 0 ? 0 : smaller(wait_ns, PARK_NS_MAX);
        int woken = l->calls->wait(l->bell, spin_ns, wait_ns);
        if (woken < 0)
            return LEADING_BROKEN;
        if (woken == INTERRUPTED)
            return LEADING_SIGNAL;
    }
}
