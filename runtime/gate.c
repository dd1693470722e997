/* gate: see gate.h. This half does no I/O, but for asking sockets.c to send before it calls a
 * reader slow. */
#include "gate.h"
#include <stdlib.h>

static const char *const REASONS[] = {
    [WIRE_NO_HELLO] = "the first frame must be HELLO, and soon",
    [WIRE_WRONG_VERSION] = "this replica speaks protocol version 1 of leftfold",
    [WIRE_WRONG_CLUSTER] = "this replica belongs to another cluster",
    [WIRE_UNKNOWN_TYPE] = "unknown frame type",
    [WIRE_BAD_LENGTH] = "frame length outside what its type allows",
    [WIRE_ZERO_SESSION] = "a session id must not be zero",
    [WIRE_BAD_KEY] = "key longer than its frame or than the limit",
    [WIRE_TOO_MANY_SESSIONS] = "too many sessions on this replica",
    [WIRE_TOO_MANY_SUBSCRIPTIONS] = "too many subscriptions on this replica",
    [WIRE_SLOW_READER] = "slow reader: too many bytes waited to be read",
    [WIRE_IDLE] = "idle: nothing was heard for too long",
    [WIRE_TOO_MANY_CONNECTIONS] = "too many connections on this replica",
    [WIRE_STOPPING] = "this replica is stopping",
    [WIRE_OUT_OF_MEMORY] = "this replica is out of memory",
    [WIRE_BAD_TOKEN] = "this replica wants a token that it knows",
    [WIRE_NO_ANSWER] = "the replica has not answered in time; whether it will is not known",
};

static const uint64_t SAMPLE_LOST_NS = UINT64_C(10000000000);

/* --- queues of connection numbers: each connection is in a queue at most once, so they never fill */

void queue_push(struct queue *queue, uint32_t number)
{
    queue->numbers[(queue->head + queue->count++) % queue->capacity] = number;
}

void queue_push_front(struct queue *queue, uint32_t number)
{
    queue->head = (queue->head + queue->capacity - 1) % queue->capacity;
    queue->numbers[queue->head] = number;
    queue->count++;
}

uint32_t queue_pop(struct queue *queue)
{
    uint32_t number = queue->numbers[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->count--;
    return number;
}

static int queue_create(struct queue *queue, uint32_t capacity)
{
    queue->capacity = capacity;
    queue->numbers = malloc((size_t)capacity * sizeof *queue->numbers);
    return queue->numbers ? 0 : -1;
}

void gate_make_ready(struct gate *gate, struct connection *connection)
{
    if (!connection->in_ready) {
        connection->in_ready = 1;
        queue_push(&gate->ready, (uint32_t)(connection - gate->connections));
        gate->report.ready = gate->ready.count;
    }
}

void gate_make_dirty(struct gate *gate, struct connection *connection)
{
    if (!connection->in_dirty) {
        connection->in_dirty = 1;
        queue_push(&gate->dirty, (uint32_t)(connection - gate->connections));
        gate->report.dirty = gate->dirty.count;
    }
}

/* --- life of the gate */

gate *gate_new(const struct gate_limits *limits)
{
    struct gate *gate = calloc(1, sizeof *gate);
    if (!gate)
        return NULL;
    gate->limits = *limits;
    gate->epoll = -1;
    gate->capacity = limits->connections_max + GATE_SPARE;
    gate->connections = calloc(gate->capacity, sizeof *gate->connections);
    gate->scratch = malloc((size_t)limits->frame_bytes_max + GATE_RECEIVE_BYTES);
    if (!gate->connections || !gate->scratch || queue_create(&gate->freed, gate->capacity) ||
        queue_create(&gate->ready, gate->capacity) || queue_create(&gate->dirty, gate->capacity) ||
        routes_create(&gate->routes, gate->capacity, limits->sessions_max, limits->seed) ||
        subscriptions_create(&gate->subscriptions, gate->capacity, limits->subscriptions_max,
                             limits->seed[1])) {
        gate_free(gate);
        return NULL;
    }
    return gate;
}

struct gate_report *gate_report(gate *gate)
{
    return &gate->report;
}

int64_t gate_open(gate *gate, int fd, uint64_t now_ns)
{
    uint32_t number;
    if (gate->freed.count)
        number = queue_pop(&gate->freed);
    else if (gate->used < gate->capacity)
        number = gate->used++;
    else
        return -1;
    struct connection *connection = &gate->connections[number];
    /* The number may still stand in a queue for its last user; that entry now serves this one. */
    struct connection fresh = {
        .in_ready = connection->in_ready,
        .in_dirty = connection->in_dirty,
        .generation = (connection->generation + 1) & 0x7fffffff, /* fits an epoll name */
    };
    *connection = fresh;
    connection->fd = fd;
    connection->state = GATE_GREETING;
    connection->writable = 1;
    connection->since_ns = connection->heard_ns = gate->now_ns = now_ns;
    gate->report.connections++;
    gate->report.accepted++;
    if (gate->report.connections > gate->limits.connections_max) {
        gate->report.turned_away++;
        gate_fail(gate, connection, WIRE_TOO_MANY_CONNECTIONS);
    }
    return number;
}

int64_t gate_open_visitor(gate *gate, int fd, uint64_t now_ns)
{
    int64_t number = gate_open(gate, fd, now_ns);
    if (number < 0)
        return -1;
    struct connection *connection = &gate->connections[number];
    int full = connection->state == GATE_CLOSING; /* and was told so; a visitor is told again, in its way */
    if (full) {
        gate_consume_output(gate, connection, connection->output_end - connection->output_start);
    }
    int error = door_welcome(gate, connection);
    if (connection->state == GATE_GREETING)
        connection->state = GATE_OPEN;
    if (full || error != WIRE_FINE)
        gate_fail(gate, connection, full ? WIRE_TOO_MANY_CONNECTIONS : error);
    return number;
}

/* The memory and the number of a connection; sockets.c closed its descriptor. */
void gate_release(struct gate *gate, struct connection *connection)
{
    gate_consume_output(gate, connection, connection->output_end - connection->output_start);
    free(connection->leftover);
    free(connection->output);
    door_release(connection);
    connection->leftover = connection->output = NULL;
    connection->leftover_bytes = connection->output_capacity = 0;
    connection->state = GATE_FREE;
    connection->generation++;
    gate->report.closing--;
    gate->report.closed++;
    queue_push(&gate->freed, (uint32_t)(connection - gate->connections));
}

/* --- output */

/* Room for `bytes` more, behind what waits. The capacity may pass output_bytes_max by an ERROR. */
static uint8_t *output_room(struct connection *connection, uint32_t bytes)
{
    uint32_t waiting = connection->output_end - connection->output_start;
    if (connection->output_capacity - connection->output_end < bytes) {
        uint32_t capacity = connection->output_capacity ? connection->output_capacity : 2048;
        /* Moving pays only when at least half of the buffer was sent already. */
        int move = connection->output_start >= connection->output_capacity / 2 &&
                   waiting + bytes <= connection->output_capacity;
        if (!move) {
            while (capacity < waiting + bytes)
                capacity *= 2;
            if (capacity == connection->output_capacity)
                capacity *= 2;
            uint8_t *grown = malloc(capacity);
            if (!grown)
                return NULL;
            if (waiting)
                memcpy(grown, connection->output + connection->output_start, waiting);
            free(connection->output);
            connection->output = grown;
            connection->output_capacity = capacity;
        } else {
            memmove(connection->output, connection->output + connection->output_start, waiting);
        }
        connection->output_start = 0;
        connection->output_end = waiting;
    }
    uint8_t *at = connection->output + connection->output_end;
    connection->output_end += bytes;
    return at;
}

static uint8_t *output_frame(struct gate *gate, struct connection *connection, uint32_t bytes)
{
    uint8_t *at = output_room(connection, bytes);
    if (!at) {
        gate_done(gate, connection); /* not even an ERROR fits */
        return NULL;
    }
    gate->report.output_bytes += bytes;
    gate->report.frames_out++;
    gate->report.bytes_out += bytes;
    gate_make_dirty(gate, connection);
    return at;
}

/* Queue a frame for an OPEN connection, or close it as a slow reader. */
void gate_deliver(struct gate *gate, struct connection *connection, const uint8_t *frame,
                  uint32_t length)
{
    if (connection->state != GATE_OPEN && connection->state != GATE_GREETING)
        return;
    uint64_t waiting = connection->output_end - connection->output_start;
    if (waiting + length > gate->limits.output_bytes_max) {
        gate_send_some(gate, connection);
        waiting = connection->output_end - connection->output_start;
    }
    if (waiting + length > gate->limits.output_bytes_max) {
        gate_fail(gate, connection, WIRE_SLOW_READER);
        return;
    }
    uint8_t *at = output_frame(gate, connection, length);
    if (at)
        memcpy(at, frame, length);
}

void gate_consume_output(struct gate *gate, struct connection *connection, uint64_t bytes)
{
    connection->output_start += (uint32_t)bytes;
    gate->report.output_bytes -= bytes;
    if (connection->output_start == connection->output_end) {
        connection->output_start = connection->output_end = 0;
        if (connection->output_capacity > 64 * 1024) {
            free(connection->output);
            connection->output = NULL;
            connection->output_capacity = 0;
        }
    }
}

/* --- ending a connection. Routes and subscriptions are forgotten at the next gate_flush, not here:
 *     the caller may be walking them. */

static void end(struct gate *gate, struct connection *connection, uint8_t state)
{
    if (connection->state == GATE_GREETING || connection->state == GATE_OPEN) {
        gate->report.connections--;
        gate->report.closing++;
    }
    connection->state = state;
    connection->forget = 1;
    connection->stalled = 0;
    connection->since_ns = gate->now_ns;
    free(connection->leftover);
    connection->leftover = NULL;
    connection->leftover_bytes = 0;
    gate_make_dirty(gate, connection);
}

void gate_done(struct gate *gate, struct connection *connection)
{
    if (connection->state != GATE_FREE && connection->state != GATE_DONE)
        end(gate, connection, GATE_DONE);
}

void gate_fail(struct gate *gate, struct connection *connection, int error)
{
    uint32_t reason = (uint32_t)strlen(REASONS[error]), length = WIRE_HEADER_BYTES + reason;
    end(gate, connection, GATE_CLOSING);
    uint8_t *at = output_frame(gate, connection, connection->visitor ? 5 + reason + 2 : length);
    if (!at)
        return;
    if (connection->visitor) {
        memcpy(at, "-ERR ", 5);
        memcpy(at + 5, REASONS[error], reason);
        memcpy(at + 5 + reason, "\r\n", 2);
    } else {
        wire_header(at, length, WIRE_ERROR, (uint16_t)error);
        memcpy(at + WIRE_HEADER_BYTES, REASONS[error], reason);
    }
    gate->report.errors++;
    gate->report.slow_readers += error == WIRE_SLOW_READER;
    if (connection->readable)
        gate_make_ready(gate, connection); /* what still comes is discarded */
}

void gate_hang_up(struct gate *gate, struct connection *connection)
{
    end(gate, connection, GATE_CLOSING);
    if (connection->readable)
        gate_make_ready(gate, connection);
}

void gate_stop(gate *gate, uint64_t now_ns)
{
    gate->now_ns = now_ns;
    for (uint32_t number = 0; number < gate->used; number++) {
        struct connection *connection = &gate->connections[number];
        if (connection->state == GATE_GREETING || connection->state == GATE_OPEN)
            gate_fail(gate, connection, WIRE_STOPPING);
    }
}

static int is_over(uint64_t now_ns, uint64_t since_ns, uint64_t limit_ns)
{
    return now_ns > since_ns && now_ns - since_ns > limit_ns;
}

/* Clients of Redis expect to be let idle; but not to be let unread. */
static uint64_t idle_ns_of(const struct gate *gate, const struct connection *connection)
{
    int waits = connection->output_end != connection->output_start;
    return connection->visitor && !waits ? gate->door->limits.idle_ns : gate->limits.idle_ns;
}

/* A process that stood still is late itself: what has come in the meantime is looked for first. */
void gate_expire(gate *gate, uint64_t now_ns)
{
    gate->now_ns = now_ns;
    for (uint32_t number = 0; number < gate->used; number++) {
        struct connection *connection = &gate->connections[number];
        if (connection->state == GATE_CLOSING) {
            if (is_over(now_ns, connection->since_ns, gate->limits.linger_ns))
                gate_done(gate, connection);
        } else if (connection->visitor && connection->state == GATE_OPEN && door_is_late(gate, connection)) {
            gate_fail(gate, connection, WIRE_NO_ANSWER);
        } else if (connection->in_ready || (connection->visitor && connection->visitor->asked_count)) {
            continue; /* it spoke; it is we who are not reading */
        } else if (connection->state == GATE_GREETING) {
            if (is_over(now_ns, connection->since_ns, gate->limits.hello_ns) && !gate_has_unread(gate, connection))
                gate_fail(gate, connection, WIRE_NO_HELLO);
        } else if (connection->state == GATE_OPEN && idle_ns_of(gate, connection)) {
            if (is_over(now_ns, connection->heard_ns, idle_ns_of(gate, connection)) &&
                !gate_has_unread(gate, connection))
                gate_fail(gate, connection, WIRE_IDLE);
        }
    }
}

/* --- in */

/* Takes as long for a token that is nearly right as for any other. */
int gate_has_token(const struct gate *gate, const uint8_t *given, uint32_t length)
{
    const struct gate_limits *limits = &gate->limits;
    int known = 0;
    for (uint32_t at = 0; at < limits->tokens_count; at++) {
        const struct gate_token *token = &limits->tokens[at];
        uint32_t differs = token->length ^ length;
        for (uint32_t byte = 0; byte < length; byte++)
            differs |= (uint32_t)(token->bytes[byte] ^ given[byte]);
        known |= differs == 0;
    }
    return known;
}

static int greet(struct gate *gate, struct connection *connection, const uint8_t *frame)
{
    static const uint8_t zeros[16];
    const uint8_t *cluster = gate->limits.welcome + 8;
    if (connection->state != GATE_GREETING)
        return WIRE_UNKNOWN_TYPE;
    if (memcmp(frame + 24, "leftfold", 8) != 0)
        return WIRE_NO_HELLO;
    if (wire_u16(frame + 6) != WIRE_VERSION)
        return WIRE_WRONG_VERSION;
    if (memcmp(frame + 8, zeros, 16) != 0 && memcmp(frame + 8, cluster, 16) != 0)
        return WIRE_WRONG_CLUSTER;
    if (gate->limits.tokens_count &&
        !gate_has_token(gate, frame + WIRE_HELLO_BYTES, wire_length(frame) - WIRE_HELLO_BYTES))
        return WIRE_BAD_TOKEN;
    connection->state = GATE_OPEN;
    gate_deliver(gate, connection, gate->limits.welcome, WIRE_WELCOME_BYTES);
    return WIRE_FINE;
}

static void pong(struct gate *gate, struct connection *connection, const uint8_t *frame)
{
    uint8_t answer[WIRE_PING_BYTES];
    memcpy(answer, frame, sizeof answer);
    wire_header(answer, sizeof answer, WIRE_PONG, wire_u16(frame + 6));
    gate_deliver(gate, connection, answer, sizeof answer);
}

static void unsubscribe(struct gate *gate, uint32_t number, const uint8_t *frame)
{
    struct subscription *subscription = subscriptions_find(
        &gate->subscriptions, number, frame + WIRE_SESSION_OFFSET,
        wire_u64(frame + WIRE_REQUEST_OFFSET));
    if (subscription)
        subscriptions_remove(&gate->subscriptions, subscription);
}

void gate_sample_start(struct gate *gate, struct connection *connection, const uint8_t *frame)
{
    if (connection->sample_request &&
        !is_over(gate->now_ns, connection->sample_ns, SAMPLE_LOST_NS))
        return;
    connection->sample_request = wire_u64(frame + WIRE_REQUEST_OFFSET);
    connection->sample_ns = gate->now_ns;
    memcpy(connection->sample_session, frame + WIRE_SESSION_OFFSET, 16);
}

/* A whole, checked frame that goes on into the replica; its slot fits. Returns a wire_error. */
static int forward(struct gate *gate, struct connection *connection, const uint8_t *frame,
                   struct destination *to)
{
    uint32_t number = (uint32_t)(connection - gate->connections);
    uint16_t type = wire_type(frame);
    struct route *route = routes_bind(&gate->routes, frame + WIRE_SESSION_OFFSET, number);
    if (!route)
        return WIRE_TOO_MANY_SESSIONS;
    if (type == WIRE_COMMAND)
        gate_sample_start(gate, connection, frame);
    else if (type == WIRE_SUBSCRIBE && subscriptions_add(&gate->subscriptions, number, frame) != 0)
        return WIRE_TOO_MANY_SUBSCRIPTIONS;
    else if (type == WIRE_OPEN || type == WIRE_CLOSE)
        route->closing = type == WIRE_CLOSE;
    to->bytes += wire_copy_padded(to->at + to->bytes, frame, wire_length(frame));
    return WIRE_FINE;
}

/* One whole, checked frame. Returns a wire_error, or -1 if its slot does not fit. */
static int accept_frame(struct gate *gate, struct connection *connection, const uint8_t *frame,
                        struct destination *to)
{
    uint16_t type = wire_type(frame);
    if (type == WIRE_HELLO)
        return greet(gate, connection, frame);
    if (type == WIRE_PING)
        pong(gate, connection, frame);
    else if (type == WIRE_UNSUBSCRIBE)
        unsubscribe(gate, (uint32_t)(connection - gate->connections), frame);
    else if (wire_padded(wire_length(frame)) > to->room - to->bytes)
        return -1;
    else
        return forward(gate, connection, frame, to);
    return WIRE_FINE;
}

/* What was not taken of scratch waits. */
static void keep_leftover(struct gate *gate, struct connection *connection, uint64_t at, uint64_t bytes)
{
    free(connection->leftover);
    connection->leftover = NULL;
    connection->leftover_bytes = (uint32_t)(bytes - at);
    if (bytes == at)
        return;
    connection->leftover = malloc(bytes - at);
    if (connection->leftover)
        memcpy(connection->leftover, gate->scratch + at, bytes - at);
    else
        gate_fail(gate, connection, WIRE_OUT_OF_MEMORY);
}

static void take_visitor(struct gate *gate, struct connection *connection, uint64_t bytes, struct destination *to)
{
    uint64_t used = door_take(gate, connection, bytes, to);
    gate->report.bytes_in += used;
    gate->report.blocked |= connection->stalled;
    if (connection->state == GATE_OPEN)
        keep_leftover(gate, connection, used, bytes);
}

/* Split what is in scratch: whole frames go on, the rest becomes the leftover. */
void gate_take(struct gate *gate, struct connection *connection, uint64_t bytes,
               struct destination *to)
{
    const uint8_t *start = gate->scratch;
    uint64_t at = 0;
    int error = WIRE_FINE;
    connection->stalled = 0;
    connection->heard_ns = gate->now_ns;
    if (connection->visitor) {
        take_visitor(gate, connection, bytes, to);
        return;
    }
    while (bytes - at >= WIRE_HEADER_BYTES) {
        error = wire_check(start + at, bytes - at, gate->limits.frame_bytes_max,
                           gate->limits.key_bytes_max);
        if (connection->state == GATE_GREETING && wire_type(start + at) != WIRE_HELLO)
            error = WIRE_NO_HELLO;
        if (error != WIRE_FINE || wire_length(start + at) > bytes - at)
            break;
        error = accept_frame(gate, connection, start + at, to);
        if (error != WIRE_FINE)
            break;
        at += wire_length(start + at);
        gate->report.frames_in++;
        if (connection->state != GATE_OPEN)
            return; /* its own pongs made it a slow reader */
    }
    gate->report.bytes_in += at;
    gate->report.sessions = gate->routes.count;
    gate->report.subscriptions = gate->subscriptions.count;
    if (error > 0) {
        gate_fail(gate, connection, error);
        return;
    }
    connection->stalled = error < 0;
    gate->report.blocked |= connection->stalled;
    keep_leftover(gate, connection, at, bytes);
}

int64_t gate_feed(gate *gate, uint32_t number, const uint8_t *bytes, uint64_t length,
                  uint8_t *destination, uint64_t room, uint64_t now_ns)
{
    struct connection *connection = &gate->connections[number];
    struct destination to = {destination, room, 0};
    gate->now_ns = now_ns;
    gate->report.blocked = 0;
    if (connection->state != GATE_GREETING && connection->state != GATE_OPEN)
        return 0;
    if (gate->door)
        door_closes(gate, &to);
    if (length > GATE_RECEIVE_BYTES || (connection->stalled && length > 0))
        return -1;
    if (connection->visitor && !door_is_listening(gate, connection))
        return length ? -1 : (int64_t)to.bytes;
    if (connection->leftover_bytes)
        memcpy(gate->scratch, connection->leftover, connection->leftover_bytes);
    if (length)
        memcpy(gate->scratch + connection->leftover_bytes, bytes, length);
    gate_take(gate, connection, connection->leftover_bytes + length, &to);
    return (int64_t)to.bytes;
}

/* --- for connections without a socket */

const uint8_t *gate_output(gate *gate, uint32_t number, uint64_t *length)
{
    struct connection *connection = &gate->connections[number];
    *length = connection->output_end - connection->output_start;
    return connection->output + connection->output_start;
}

void gate_sent(gate *gate, uint32_t number, uint64_t length)
{
    struct connection *connection = &gate->connections[number];
    gate_consume_output(gate, connection, length);
    gate_make_dirty(gate, connection);
}

int gate_state(gate *gate, uint32_t number)
{
    return gate->connections[number].state;
}
