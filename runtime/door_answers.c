/* door: see door.h. This half turns the replica's answers into replies, in the order of the requests. */
#include "courtesies.h"
#include "gate.h"

enum { STATUS_OK = 0, STATUS_REJECTED = 1, STATUS_OUT_OF_ORDER = 4, STATUS_SESSION_EXPIRED = 5, STATUS_WINDOW = 8,
       STATUS_NO_SUCH_ACTOR = 10 };
enum { REFUSED_NOT_LEADER = 1, REFUSED_NOT_READY = 2, REFUSED_DISK_FULL = 3, REFUSED_STOPPING = 4 };

/* The words of the packed command at `at`: its bytes, and whether it is EXEC, then how many it has. -1: none. */
static int64_t packed_command(const uint8_t *at, uint64_t available, int64_t *transaction)
{
    uint32_t count, head, length;
    const uint8_t *word = NULL;
    *transaction = 0;
    if (unpack_array(at, available, &count, &head) != 0)
        return -1;
    uint64_t used = head;
    for (uint32_t i = 0; i < count; i++) {
        if (unpack_binary(at + used, available - used, &length, &head) != 0)
            return -1;
        const uint8_t *here = at + used + head;
        if (i == 1 && count == 2 && word && resp_integer(here, length, transaction) != 0)
            return -1;
        if (i == 0 && length == 4 && memcmp(here, "EXEC", 4) == 0)
            word = here;
        used += head + length;
    }
    return (int64_t)used;
}

/* Take so many commands off the front. */
static void drop(struct door_part *part, uint64_t commands)
{
    uint64_t used = 0;
    int64_t transaction;
    for (; commands && part->count; commands--, part->count--) {
        int64_t bytes = packed_command(part->asked.at + used, part->asked.length - used, &transaction);
        if (bytes < 0)
            break;
        used += (uint64_t)bytes;
    }
    memmove(part->asked.at, part->asked.at + used, part->asked.length - used);
    part->asked.length -= (uint32_t)used;
}

/* How many replies the client expects: a transaction has one. */
static uint32_t replies_of(const struct door_part *part)
{
    uint32_t replies = 0;
    uint64_t used = 0;
    int64_t transaction, within = 0;
    if (part->kind == DOOR_APP)
        return 1;
    for (uint32_t i = 0; i < part->count; i++) {
        int64_t bytes = packed_command(part->asked.at + used, part->asked.length - used, &transaction);
        if (bytes < 0)
            break;
        used += (uint64_t)bytes;
        replies += within == 0;
        within = within ? within - 1 : transaction;
    }
    return replies;
}

static void fail_part(struct door_part *part, const char *code, const uint8_t *why, uint32_t length)
{
    part->state = DOOR_SAID;
    for (uint32_t replies = replies_of(part); replies; replies--) {
        text_print(&part->said, "-%s ", code);
        text_quote(&part->said, why, length, 1024, 0);
        text_print(&part->said, "\r\n");
    }
}

static void refuse_part(struct visitor *visitor, struct door_part *part, const uint8_t *slot)
{
    static const char *const CODES[] = {
        [REFUSED_NOT_LEADER] = "READONLY this replica does not lead; the leader is",
        [REFUSED_NOT_READY] = "LOADING",
        [REFUSED_DISK_FULL] = "MISCONF",
        [REFUSED_STOPPING] = "ERR this replica is stopping",
    };
    uint16_t reason = wire_u16(slot + 6) & 0xff;
    const uint8_t *why = slot + WIRE_REFUSED_BYTES;
    uint32_t length = wire_length(slot) - WIRE_REFUSED_BYTES;
    if (reason == REFUSED_NOT_LEADER && length == 0)
        why = (const uint8_t *)"not known", length = 9;
    if (reason == REFUSED_NOT_READY && length == 0)
        why = (const uint8_t *)"this replica is not ready", length = 25;
    fail_part(part, reason <= REFUSED_STOPPING && CODES[reason] ? CODES[reason] : "ERR refused", why, length);
    visitor->ends |= reason == REFUSED_STOPPING;
}

/* {"done": n, "resp": bytes} */
static int unpack_replies(const uint8_t *at, uint64_t available, uint64_t *done, const uint8_t **resp, uint32_t *length)
{
    uint64_t used = 1;
    uint32_t head, bytes;
    if (available == 0 || at[0] != 0x82)
        return -1;
    for (int field = 0; field < 2; field++) {
        if (unpack_binary(at + used, available - used, &bytes, &head) != 0 || bytes != 4)
            return -1;
        const uint8_t *name = at + used + head;
        used += head + bytes;
        if (memcmp(name, "done", 4) == 0 && unpack_unsigned(at + used, available - used, done, &head) == 0) {
            used += head;
        } else if (memcmp(name, "resp", 4) == 0 && unpack_binary(at + used, available - used, length, &head) == 0) {
            *resp = at + used + head;
            used += head + *length;
        } else {
            return -1;
        }
    }
    return 0;
}

/* The replies to the first commands, as RESP3 has them. A transaction's is its head, then those of its commands. */
static void lift(struct text *to, const struct door_part *part, uint64_t done, const uint8_t *resp, uint32_t length)
{
    uint64_t asked = 0, used = 0;
    int64_t transaction;
    for (; done; done--) {
        const uint8_t *command = part->asked.at + asked;
        int64_t bytes = packed_command(command, part->asked.length - asked, &transaction);
        /* An array of two, and a binary of seven: fixed heads. */
        int maps = bytes > 10 && memcmp(command, "\x92\xc4\x07HGETALL", 10) == 0;
        const uint8_t *end = transaction ? memchr(resp + used, '\n', length - used) : NULL;
        int64_t taken = end ? end + 1 - (resp + used) : -1;
        if (end)
            text_add(to, resp + used, (uint32_t)taken);
        else
            taken = resp_lift(to, resp + used, length - used, maps);
        if (bytes < 0 || taken < 0) {
            to->failed = 1;
            return;
        }
        asked += (uint64_t)bytes;
        used += (uint64_t)taken;
    }
}

static void answer_cache(struct gate *gate, struct connection *connection, struct door_part *part, const uint8_t *body,
                         uint32_t bytes)
{
    static const char STRANGE[] = "the answer of the cache cannot be read";
    struct visitor *visitor = connection->visitor;
    const uint8_t *resp = body;
    uint32_t length = 0;
    uint64_t done = 0;
    if (unpack_replies(body, bytes, &done, &resp, &length) != 0 || done > part->count || (!done && part->count)) {
        fail_part(part, "ERR", (const uint8_t *)STRANGE, sizeof STRANGE - 1);
        return;
    }
    if (visitor->speaks_3)
        lift(&part->said, part, done, resp, length);
    part->state = done == part->count ? DOOR_SAID : DOOR_AGAIN;
    if (part->state == DOOR_AGAIN)
        drop(part, done);
    if (visitor->speaks_3)
        return;
    if (part == &visitor->parts[visitor->parts_first] && part->said.length == 0)
        gate_deliver(gate, connection, resp, length);
    else
        text_add(&part->said, resp, length);
}

static void answer_app(const struct visitor *visitor, struct door_part *part, const uint8_t *body, uint32_t bytes)
{
    struct text reply = {0};
    if (bytes == 0)
        text_print(&reply, "+OK\r\n");
    else if (resp_reply(&reply, body, bytes) < 0)
        reply.failed = 1;
    if (visitor->speaks_3 && !reply.failed)
        part->said.failed |= resp_lift(&part->said, reply.at, reply.length, 0) < 0;
    else
        text_add(&part->said, reply.at, reply.length);
    part->said.failed |= reply.failed;
    text_free(&reply);
}

static void answer_part(struct gate *gate, struct connection *connection, struct door_part *part, const uint8_t *slot)
{
    const uint8_t *body = slot + WIRE_REPLY_BYTES;
    uint32_t bytes = wire_length(slot) - WIRE_REPLY_BYTES;
    switch (wire_u16(slot + 44)) {
    case STATUS_OK:
        if (part->kind == DOOR_CACHE) {
            answer_cache(gate, connection, part, body, bytes);
        } else {
            part->state = DOOR_SAID;
            answer_app(connection->visitor, part, body, bytes);
        }
        return;
    case STATUS_REJECTED:
        fail_part(part, "REJECTED", body, bytes);
        return;
    case STATUS_NO_SUCH_ACTOR:
        if (part->kind == DOOR_CACHE) { /* A command makes it. */
            part->type = WIRE_COMMAND;
            part->state = DOOR_AGAIN;
        } else {
            part->state = DOOR_SAID;
            text_print(&part->said, connection->visitor->speaks_3 ? "_\r\n" : "$-1\r\n");
        }
        return;
    case STATUS_OUT_OF_ORDER:
    case STATUS_WINDOW:
        part->state = DOOR_AGAIN; /* It was not applied, and those before it have their answers. */
        return;
    case STATUS_SESSION_EXPIRED:
        connection->visitor->opened = 0;
        if (!part->reopened) {
            part->reopened = 1;
            part->state = DOOR_AGAIN; /* Nor was this. A new session has the same id. */
            return;
        }
        /* There are too many. */
        /* fall through */
    default:
        fail_part(part, "ERR", body, bytes);
    }
}

static struct door_part *part_of(struct visitor *visitor, uint16_t type, uint64_t request)
{
    for (uint32_t at = visitor->parts_first; at < visitor->parts_count; at++) {
        struct door_part *part = &visitor->parts[at];
        if (part->state == DOOR_ASKED && part->type == type && part->request == request)
            return part;
    }
    return NULL;
}

/* A number that was not used up is the next. */
static void number_again(struct visitor *visitor, const struct door_part *part, uint16_t status)
{
    if (part->type != WIRE_COMMAND)
        return;
    if (status == STATUS_SESSION_EXPIRED)
        visitor->command_next = 1;
    else if (part->request < visitor->command_next)
        visitor->command_next = part->request;
}

/* Go on with what was sent meanwhile. */
static void resume(struct gate *gate, struct connection *connection)
{
    struct visitor *visitor = connection->visitor;
    if (!visitor->parts_count && !connection->leftover_bytes && !connection->readable)
        return;
    connection->stalled = visitor->parts_count || connection->leftover_bytes;
    gate_make_ready(gate, connection);
}

void door_answer(struct gate *gate, struct connection *connection, const uint8_t *slot)
{
    struct visitor *visitor = connection->visitor;
    uint16_t type = wire_type(slot), refused = type == WIRE_REFUSED ? wire_u16(slot + 6) >> 8 : 0;
    uint16_t asked = refused ? refused : type == WIRE_REPLY ? WIRE_COMMAND : WIRE_QUERY;
    if (connection->state != GATE_OPEN)
        return;
    if (refused == WIRE_OPEN) {
        visitor->opened = 0;
        return;
    }
    struct door_part *part = part_of(visitor, asked, wire_u64(slot + WIRE_REQUEST_OFFSET));
    if (!part)
        return;
    visitor->asked_count--;
    uint16_t status = refused ? STATUS_OUT_OF_ORDER : wire_u16(slot + 44);
    if (refused)
        refuse_part(visitor, part, slot);
    else
        answer_part(gate, connection, part, slot);
    if (status == STATUS_OUT_OF_ORDER || status == STATUS_WINDOW || status == STATUS_SESSION_EXPIRED)
        number_again(visitor, part, status);
    door_emit(gate, connection);
    if (connection->state == GATE_OPEN && !visitor->asked_count)
        resume(gate, connection);
}

void door_relieved(struct gate *gate, struct connection *connection)
{
    if (connection->visitor->paused && connection->state == GATE_OPEN && door_is_listening(gate, connection))
        resume(gate, connection);
}

void door_emit(struct gate *gate, struct connection *connection)
{
    struct visitor *visitor = connection->visitor;
    while (connection->state == GATE_OPEN && visitor->parts_first < visitor->parts_count) {
        struct door_part *part = &visitor->parts[visitor->parts_first];
        if (part->state != DOOR_SAID)
            break;
        if (part->said.failed) {
            gate_fail(gate, connection, WIRE_OUT_OF_MEMORY);
            return;
        }
        if (part->said.length)
            gate_deliver(gate, connection, part->said.at, part->said.length);
        text_free(&part->asked);
        text_free(&part->said);
        visitor->parts_first++;
    }
    if (connection->state != GATE_OPEN || visitor->asked_count)
        return;
    if (visitor->parts_first == visitor->parts_count) {
        visitor->parts_first = visitor->parts_count = 0;
        if (visitor->ends)
            gate_hang_up(gate, connection);
    }
}
