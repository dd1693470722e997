/* door: see door.h. This half turns what visitors send into slots; door_answers.c turns answers into replies. */
#include "courtesies.h"
#include "gate.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum { SAID_BYTES_MAX = 64 * 1024, EXEC_BYTES = 24, QUOTED_MAX = 128 };

/* Execute and Read have one field. */
static const uint8_t BODY_HEAD[] = "\x81\xa8" "commands\xdd";
enum { BODY_HEAD_BYTES = sizeof BODY_HEAD - 1 + 4 };

int door_open(struct gate *gate, const struct door_limits *limits)
{
    struct door *door = calloc(1, sizeof *door);
    if (!door)
        return -1;
    gate->door = door;
    door->limits = *limits;
    door->request.request_bytes_max = limits->request_bytes_max;
    door->request.words_max = limits->request_bytes_max / 5 + 2;
    door->request.words = malloc(door->request.words_max * sizeof *door->request.words);
    door->request.arena = malloc(limits->request_bytes_max);
    door->closes = malloc(DOOR_CLOSES_MAX * sizeof *door->closes);
    return door->request.words && door->request.arena && door->closes ? 0 : -1;
}

void door_free(struct gate *gate)
{
    struct door *door = gate->door;
    if (!door)
        return;
    for (uint32_t at = 0; at < 2 * DOOR_COMMANDS_MAX; at++)
        free(door->commands[at]);
    free(door->request.words);
    free(door->request.arena);
    free(door->closes);
    free(door);
    gate->door = NULL;
}

/* --- the commands by name */

static struct door_command **place_of(struct door *door, const uint8_t *name, uint32_t length)
{
    uint32_t hash = 2166136261u;
    for (uint32_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)toupper(name[i])) * 16777619u;
    for (uint32_t at = hash;; at++) {
        struct door_command **place = &door->commands[at % (2 * DOOR_COMMANDS_MAX)];
        if (!*place)
            return place;
        uint32_t i = 0;
        while ((*place)->name_bytes == length && i < length && (*place)->name[i] == (uint8_t)toupper(name[i]))
            i++;
        if ((*place)->name_bytes == length && i == length)
            return place;
    }
}

int door_add(struct gate *gate, const struct door_command *command)
{
    struct door *door = gate->door;
    struct door_command **place = place_of(door, command->name, command->name_bytes);
    if (door->commands_count == DOOR_COMMANDS_MAX || *place)
        return -1;
    *place = malloc(sizeof **place);
    if (!*place)
        return -1;
    **place = *command;
    door->commands_count++;
    return 0;
}

static const struct door_command *command_of(struct door *door)
{
    const struct resp_word *name = door->request.words;
    return name->length > sizeof door->commands[0]->name ? NULL : *place_of(door, name->at, name->length);
}

/* --- the life of a visitor */

int door_welcome(struct gate *gate, struct connection *connection)
{
    uint32_t number = (uint32_t)(connection - gate->connections);
    struct visitor *visitor = calloc(1, sizeof *visitor);
    connection->visitor = visitor;
    if (!visitor || getrandom(visitor->session, sizeof visitor->session, 0) != sizeof visitor->session)
        return WIRE_OUT_OF_MEMORY;
    visitor->session[0] |= 1; /* An id is not zero. */
    visitor->id = ++gate->door->visitors;
    visitor->command_next = visitor->query_next = 1;
    visitor->trusted = gate->limits.tokens_count == 0;
    return routes_bind(&gate->routes, visitor->session, number) ? WIRE_FINE : WIRE_TOO_MANY_SESSIONS;
}

void door_forget(struct gate *gate, struct connection *connection)
{
    struct visitor *visitor = connection->visitor;
    struct door *door = gate->door;
    if (!visitor || !visitor->opened || door->closes_count == DOOR_CLOSES_MAX)
        return;
    visitor->opened = 0;
    memcpy(door->closes[door->closes_count++], visitor->session, 16);
    gate->report.closes = door->closes_count;
}

static void part_free(struct door_part *part)
{
    text_free(&part->asked);
    text_free(&part->said);
}

void door_release(struct connection *connection)
{
    struct visitor *visitor = connection->visitor;
    if (!visitor)
        return;
    for (uint32_t at = visitor->parts_first; at < visitor->parts_count; at++)
        part_free(&visitor->parts[at]);
    text_free(&visitor->queued);
    free(visitor);
    connection->visitor = NULL;
}

static void head(uint8_t *at, uint32_t length, uint16_t type, uint16_t tag, const uint8_t *session, uint64_t request,
                 uint32_t unanswered, uint16_t key_bytes, uint16_t version)
{
    wire_header(at, length, type, tag);
    memcpy(at + WIRE_SESSION_OFFSET, session, 16);
    memcpy(at + WIRE_REQUEST_OFFSET, &request, 8);
    memcpy(at + 32, &unanswered, 4);
    memcpy(at + 36, &key_bytes, 2);
    memcpy(at + 38, &version, 2);
}

void door_closes(struct gate *gate, struct destination *to)
{
    struct door *door = gate->door;
    while (door->closes_count && to->room - to->bytes >= WIRE_COMMAND_BYTES) {
        head(to->at + to->bytes, WIRE_COMMAND_BYTES, WIRE_CLOSE, 0, door->closes[--door->closes_count], 0, 0, 0, 0);
        to->bytes += WIRE_COMMAND_BYTES;
    }
    gate->report.closes = door->closes_count;
}

int door_is_listening(const struct gate *gate, const struct connection *connection)
{
    struct visitor *visitor = connection->visitor;
    visitor->paused = connection->output_end - connection->output_start > gate->door->limits.output_bytes_pause;
    return visitor->asked_count == 0 && !visitor->paused;
}

int door_is_late(const struct gate *gate, const struct connection *connection)
{
    const struct visitor *visitor = connection->visitor;
    return visitor->asked_count && gate->now_ns > visitor->asked_ns &&
           gate->now_ns - visitor->asked_ns > gate->door->limits.answer_ns;
}

/* --- a turn */

struct turn {
    uint64_t room;             /* of the ring, for slots */
    uint64_t bytes;            /* the slots so far */
    struct door_part *cache;   /* the one with the cache's commands: nothing for actors may follow it */
    int queries;               /* there are queries: no command may follow, they would see it */
};

enum taken { TAKEN, NEXT_TURN, NO_ROOM };

static struct door_part *last_part(struct visitor *visitor)
{
    return visitor->parts_count ? &visitor->parts[visitor->parts_count - 1] : NULL;
}

static struct door_part *new_part(struct visitor *visitor, uint8_t state)
{
    struct door_part *part = &visitor->parts[visitor->parts_count++];
    *part = (struct door_part){.state = state};
    return part;
}

/* Where an answer of ours goes, behind all that comes before it. */
static struct text *say(struct visitor *visitor)
{
    struct door_part *last = last_part(visitor);
    if (!last || last->state != DOOR_SAID)
        last = new_part(visitor, DOOR_SAID);
    return &last->said;
}

static enum taken refuse(struct visitor *visitor, const char *why)
{
    visitor->aborted |= visitor->multi;
    text_print(say(visitor), "-%s\r\n", why);
    return TAKEN;
}

static enum taken unknown(struct visitor *visitor, const struct resp_request *request)
{
    struct text quoted = {0};
    struct text *answer = say(visitor);
    visitor->aborted |= visitor->multi;
    for (uint32_t at = 1; at < request->count && quoted.length < QUOTED_MAX; at++) {
        text_add(&quoted, "'", 1);
        text_quote(&quoted, request->words[at].at, request->words[at].length, QUOTED_MAX - quoted.length + 1, 0);
        text_add(&quoted, "' ", 2);
    }
    text_print(answer, "-ERR unknown command '");
    text_quote(answer, request->words[0].at, request->words[0].length, QUOTED_MAX, 0);
    text_print(answer, "', with args beginning with: ");
    text_add(answer, quoted.at, quoted.length);
    text_print(answer, "\r\n");
    text_free(&quoted);
    return TAKEN;
}

/* At most so many bytes when it is packed. */
static uint32_t packed_bound(const struct resp_request *request)
{
    uint32_t bytes = 5;
    for (uint32_t at = 0; at < request->count; at++)
        bytes += request->words[at].length + 5;
    return bytes;
}

static void pack_command(struct text *to, const struct door_command *command, const struct resp_request *request)
{
    pack_array(to, request->count);
    pack_binary(to, command->name, command->name_bytes);
    for (uint32_t at = 1; at < request->count; at++)
        pack_binary(to, request->words[at].at, request->words[at].length);
}

/* The part that takes `bytes` more of the cache's commands. */
static enum taken cache_part(const struct gate *gate, struct visitor *visitor, struct turn *turn, uint32_t bytes,
                             int reads, struct door_part **part)
{
    const struct door_limits *limits = &gate->door->limits;
    uint32_t slot_bytes_max = gate->limits.frame_bytes_max - WIRE_COMMAND_BYTES; /* OPEN may stand before it. */
    int starts = !turn->cache;
    uint64_t new_bytes = (starts ? WIRE_COMMAND_BYTES + limits->key_bytes + BODY_HEAD_BYTES + 7u : 0u) + bytes;
    if (!starts && (turn->cache != last_part(visitor) ||
                    WIRE_COMMAND_BYTES + limits->key_bytes + BODY_HEAD_BYTES + turn->cache->asked.length + bytes > slot_bytes_max))
        return NEXT_TURN;
    if (!reads && turn->queries)
        return NEXT_TURN;
    if (turn->bytes + new_bytes > turn->room)
        return turn->bytes ? NEXT_TURN : NO_ROOM;
    if (starts) {
        turn->cache = new_part(visitor, DOOR_AGAIN);
        turn->cache->kind = DOOR_CACHE;
        turn->cache->type = WIRE_QUERY;
    }
    if (!reads)
        turn->cache->type = WIRE_COMMAND;
    turn->bytes += new_bytes;
    *part = turn->cache;
    return TAKEN;
}

static enum taken add_cache(struct gate *gate, struct visitor *visitor, struct turn *turn,
                            const struct door_command *command)
{
    const struct resp_request *request = &gate->door->request;
    struct door_part *part;
    enum taken taken = cache_part(gate, visitor, turn, packed_bound(request), (int)command->reads, &part);
    if (taken == TAKEN) {
        pack_command(&part->asked, command, request);
        part->count++;
    }
    return taken;
}

static enum taken add_queued(struct gate *gate, struct visitor *visitor, const struct door_command *command)
{
    const struct resp_request *request = &gate->door->request;
    if (!command->queueable)
        return refuse(visitor, "ERR this command is not allowed in a transaction");
    if (visitor->queued.length + packed_bound(request) > gate->door->limits.request_bytes_max - EXEC_BYTES)
        return refuse(visitor, "ERR the transaction is too large");
    pack_command(&visitor->queued, command, request);
    visitor->queued_count++;
    text_print(say(visitor), "+QUEUED\r\n");
    return TAKEN;
}

static enum taken execute(struct gate *gate, struct visitor *visitor, struct turn *turn)
{
    if (!visitor->multi)
        return refuse(visitor, "ERR EXEC without MULTI");
    if (visitor->aborted) {
        text_print(say(visitor), "-EXECABORT Transaction discarded because of previous errors.\r\n");
    } else if (!visitor->queued_count) {
        text_print(say(visitor), "*0\r\n");
    } else {
        struct door_part *part;
        enum taken taken = cache_part(gate, visitor, turn, visitor->queued.length + EXEC_BYTES, 0, &part);
        if (taken != TAKEN)
            return taken;
        char digits[12];
        pack_array(&part->asked, 2);
        pack_binary(&part->asked, "EXEC", 4);
        pack_binary(&part->asked, digits, (uint32_t)snprintf(digits, sizeof digits, "%u", visitor->queued_count));
        text_add(&part->asked, visitor->queued.at, visitor->queued.length);
        part->asked.failed |= visitor->queued.failed;
        part->count += 1 + visitor->queued_count;
    }
    visitor->multi = visitor->aborted = 0;
    visitor->queued_count = visitor->queued.length = 0;
    return TAKEN;
}

/* --- an app's own commands */

static int is_utf8(const uint8_t *at, uint32_t length)
{
    for (uint32_t i = 0; i < length;) {
        uint8_t first = at[i++];
        uint32_t more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : (first & 0xf0) == 0xe0 ? 2
                        : first >= 0xf0 && first < 0xf5 ? 3 : UINT32_MAX;
        if (more > length - i)
            return 0;
        if (more && ((first == 0xe0 && at[i] < 0xa0) || (first == 0xed && at[i] > 0x9f) ||
                     (first == 0xf0 && at[i] < 0x90) || (first == 0xf4 && at[i] > 0x8f)))
            return 0;
        for (; more; more--)
            if ((at[i++] & 0xc0) != 0x80)
                return 0;
    }
    return 1;
}

/* One argument as the field wants it; NULL, or why it cannot be. */
static const char *pack_argument(struct text *to, uint32_t value, const struct resp_word *word)
{
    int64_t integer;
    char digits[64], *end;
    switch (value) {
    case DOOR_BYTES:
        pack_binary(to, word->at, word->length);
        return NULL;
    case DOOR_TEXT:
        if (!is_utf8(word->at, word->length))
            return "ERR value is not valid UTF-8";
        pack_text(to, word->at, word->length);
        return NULL;
    case DOOR_INTEGER:
    case DOOR_BOOLEAN:
        if (resp_integer(word->at, word->length, &integer) != 0)
            return "ERR value is not an integer or out of range";
        if (value == DOOR_INTEGER)
            pack_integer(to, integer);
        else if (integer == 0 || integer == 1)
            text_add(to, integer ? "\xc3" : "\xc2", 1);
        else
            return "ERR value is not 0 or 1";
        return NULL;
    default:
        if (word->length == 0 || word->length >= sizeof digits || isspace(word->at[0]))
            return "ERR value is not a valid float";
        memcpy(digits, word->at, word->length);
        digits[word->length] = 0;
        double real = strtod(digits, &end);
        if (*end || end != digits + word->length || real != real)
            return "ERR value is not a valid float";
        pack_real(to, real);
        return NULL;
    }
}

/* Key and body; NULL, or why they cannot be. */
static const char *pack_app(struct text *to, const struct door_command *command, const struct resp_request *request)
{
    const struct resp_word *key = &request->words[1];
    int64_t integer;
    if (command->key == DOOR_INTEGER) {
        if (resp_integer(key->at, key->length, &integer) != 0)
            return "ERR value is not an integer or out of range";
        text_add(to, &integer, 8);
    } else {
        if (command->key == DOOR_TEXT && !is_utf8(key->at, key->length))
            return "ERR value is not valid UTF-8";
        text_add(to, key->at, key->length);
    }
    pack_map(to, request->count - 2);
    for (uint32_t at = 2; at < request->count; at++) {
        const struct door_field *field = &command->fields[at - 2];
        pack_text(to, field->name, field->name_bytes);
        const char *why = pack_argument(to, field->value, &request->words[at]);
        if (why)
            return why;
    }
    return NULL;
}

static enum taken add_app(struct gate *gate, struct visitor *visitor, struct turn *turn,
                          const struct door_command *command)
{
    const struct resp_request *request = &gate->door->request;
    struct text packed = {0};
    if (turn->cache || (!command->reads && turn->queries))
        return NEXT_TURN;
    const char *why = request->words[1].length > gate->limits.key_bytes_max ? "ERR the key is too long"
                                                                             : pack_app(&packed, command, request);
    uint64_t slot_bytes = wire_padded(WIRE_COMMAND_BYTES + (uint64_t)packed.length);
    if (!why && slot_bytes + WIRE_COMMAND_BYTES > gate->limits.frame_bytes_max)
        why = "ERR the request is too large";
    if (why || turn->bytes + slot_bytes > turn->room) {
        text_free(&packed);
        return why ? refuse(visitor, why) : turn->bytes ? NEXT_TURN : NO_ROOM;
    }
    struct door_part *part = new_part(visitor, DOOR_AGAIN);
    part->kind = DOOR_APP;
    part->type = command->reads ? WIRE_QUERY : WIRE_COMMAND;
    part->message_id = (uint16_t)command->message_id;
    part->version = (uint16_t)command->version;
    part->key_bytes = command->key == DOOR_INTEGER ? 8 : (uint16_t)request->words[1].length;
    part->asked = packed;
    turn->bytes += slot_bytes;
    turn->queries |= (int)command->reads;
    return TAKEN;
}

/* --- taking */

static int is_open_to_strangers(const struct door_command *command)
{
    return command->kind == DOOR_COURTESY &&
           (command->courtesy == COURTESY_AUTH || command->courtesy == COURTESY_HELLO ||
            command->courtesy == COURTESY_QUIT);
}

static int frames_transaction(const struct door_command *command)
{
    return command->kind == DOOR_COURTESY &&
           (command->courtesy == COURTESY_MULTI || command->courtesy == COURTESY_EXEC ||
            command->courtesy == COURTESY_DISCARD || command->courtesy == COURTESY_QUIT);
}

/* One whole request. Unless it is TAKEN, nothing has changed. */
static enum taken take_one(struct gate *gate, struct visitor *visitor, struct turn *turn)
{
    const struct resp_request *request = &gate->door->request;
    const struct door_command *command = command_of(gate->door);
    struct door_part *last = last_part(visitor);
    if (visitor->parts_count >= DOOR_PARTS_MAX - 1 ||
        (last && last->state == DOOR_SAID && last->said.length > SAID_BYTES_MAX))
        return NEXT_TURN;
    if (!visitor->trusted && !(command && is_open_to_strangers(command)))
        return refuse(visitor, "NOAUTH Authentication required.");
    if (!command)
        return unknown(visitor, request);
    if (command->arity > 0 ? request->count != (uint32_t)command->arity
                           : (int64_t)request->count < -(int64_t)command->arity ||
                                 (command->words_max && request->count > command->words_max)) {
        visitor->aborted |= visitor->multi;
        wrong_arity(say(visitor), request->words);
        return TAKEN;
    }
    if (visitor->multi && !frames_transaction(command))
        return add_queued(gate, visitor, command);
    if (command->kind == DOOR_CACHE || (command->queueable && turn->cache && turn->cache == last))
        return add_cache(gate, visitor, turn, command);
    if (command->kind == DOOR_APP)
        return add_app(gate, visitor, turn, command);
    if (command->courtesy == COURTESY_EXEC)
        return execute(gate, visitor, turn);
    courtesy_answer(gate, visitor, command->courtesy, say(visitor));
    return TAKEN;
}

static uint64_t slot_bytes_of(const struct gate *gate, const struct door_part *part)
{
    uint64_t extra = part->kind == DOOR_CACHE ? gate->door->limits.key_bytes + BODY_HEAD_BYTES : 0;
    return wire_padded(WIRE_COMMAND_BYTES + extra + part->asked.length);
}

static void write_slot(struct gate *gate, struct visitor *visitor, struct door_part *part, struct destination *to)
{
    const struct door_limits *limits = &gate->door->limits;
    int commands = part->type == WIRE_COMMAND, cached = part->kind == DOOR_CACHE;
    if (commands && !visitor->opened) {
        head(to->at + to->bytes, WIRE_COMMAND_BYTES, WIRE_OPEN, 0, visitor->session, 0, 0, 0, 0);
        to->bytes += WIRE_COMMAND_BYTES;
        visitor->opened = 1;
    }
    part->request = commands ? visitor->command_next++ : visitor->query_next++;
    if (cached) {
        part->message_id = (uint16_t)(commands ? limits->execute_id : limits->read_id);
        part->version = (uint16_t)(commands ? limits->execute_version : limits->read_version);
        part->key_bytes = (uint16_t)limits->key_bytes;
    }
    uint8_t *slot = to->at + to->bytes, *at = slot + WIRE_COMMAND_BYTES;
    if (cached) {
        memcpy(at, limits->key, limits->key_bytes);
        at += limits->key_bytes;
        memcpy(at, BODY_HEAD, sizeof BODY_HEAD - 1);
        at += sizeof BODY_HEAD - 1;
        for (int shift = 24; shift >= 0; shift -= 8)
            *at++ = (uint8_t)(part->count >> shift);
    }
    memcpy(at, part->asked.at, part->asked.length);
    uint32_t length = (uint32_t)(at - slot) + part->asked.length;
    head(slot, length, part->type, part->message_id, visitor->session, part->request,
         (uint32_t)(part->request - visitor->confirmed), part->key_bytes, part->version);
    memset(slot + length, 0, wire_padded(length) - length);
    to->bytes += wire_padded(length);
    part->state = DOOR_ASKED;
    visitor->asked_count++;
}

/* Ask what waits to be asked, in order; what does not fit waits on. */
static int ask(struct gate *gate, struct connection *connection, struct destination *to)
{
    struct visitor *visitor = connection->visitor;
    visitor->confirmed = visitor->command_next - 1;
    visitor->asked_ns = gate->now_ns;
    for (uint32_t at = visitor->parts_first; at < visitor->parts_count; at++) {
        struct door_part *part = &visitor->parts[at];
        if (part->state != DOOR_AGAIN)
            continue;
        if (part->asked.failed) {
            gate_fail(gate, connection, WIRE_OUT_OF_MEMORY);
            return -1;
        }
        if (slot_bytes_of(gate, part) + WIRE_COMMAND_BYTES > to->room - to->bytes) {
            connection->stalled = visitor->asked_count == 0;
            return -1;
        }
        write_slot(gate, visitor, part, to);
        if (part->type == WIRE_COMMAND)
            gate_sample_start(gate, connection, to->at + to->bytes - slot_bytes_of(gate, part));
    }
    return 0;
}

uint64_t door_take(struct gate *gate, struct connection *connection, uint64_t bytes, struct destination *to)
{
    struct visitor *visitor = connection->visitor;
    struct resp_request *request = &gate->door->request;
    uint64_t used = 0;
    if (!door_is_listening(gate, connection) ||
        (visitor->parts_count && (ask(gate, connection, to) != 0 || visitor->asked_count)))
        return 0;
    while (connection->state == GATE_OPEN && used < bytes && door_is_listening(gate, connection)) {
        uint64_t room = to->room - to->bytes, begun = used;
        struct turn turn = {.room = room > WIRE_COMMAND_BYTES ? room - WIRE_COMMAND_BYTES : 0};
        enum taken taken = TAKEN;
        int state = RESP_READY;
        while (taken == TAKEN && !visitor->ends && used < bytes) {
            state = resp_parse(request, gate->scratch + used, bytes - used);
            if (state != RESP_READY)
                break;
            if (request->count)
                taken = take_one(gate, visitor, &turn);
            if (taken != TAKEN)
                break;
            used += request->bytes;
            gate->report.frames_in++;
        }
        if (state == RESP_BROKEN) {
            text_print(say(visitor), "-ERR %s\r\n", request->error);
            gate->report.errors++;
            visitor->ends = 1;
        }
        if (taken == NO_ROOM && begun == used)
            connection->stalled = 1;
        ask(gate, connection, to);
        door_emit(gate, connection);
        if (taken == NO_ROOM || state == RESP_INCOMPLETE)
            break;
    }
    return used;
}
