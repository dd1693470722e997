/* scatter: see gate.h. From a run of `egress` or `send` to the connections that it is for: each answer to the one that
 * speaks for its session, each event to its subscribers. */
#include "gate.h"

static void sample_end(struct gate *gate, struct connection *connection, const uint8_t *slot)
{
    struct gate_report *report = &gate->report;
    if (connection->sample_request != wire_u64(slot + WIRE_REQUEST_OFFSET) ||
        memcmp(connection->sample_session, slot + WIRE_SESSION_OFFSET, 16) != 0)
        return;
    connection->sample_request = 0;
    if (report->samples < sizeof report->sample_ns / sizeof *report->sample_ns &&
        gate->now_ns >= connection->sample_ns)
        report->sample_ns[report->samples++] = gate->now_ns - connection->sample_ns;
}

/* REPLY, ANSWER, REFUSED, SUBSCRIBED, EVENTS_LOST: to the connection of the session. */
static void route_answer(struct gate *gate, const uint8_t *slot)
{
    uint16_t type = wire_type(slot);
    struct route *route = routes_find(&gate->routes, slot + WIRE_SESSION_OFFSET);
    if (type == WIRE_SUBSCRIBED) {
        gate->retained_bytes = wire_padded(wire_u32(slot + 40));
        gate->retained_number = UINT32_MAX;
    }
    if (!route) {
        gate->report.unrouted++;
        return;
    }
    struct connection *connection = &gate->connections[route->connection];
    uint64_t request = wire_u64(slot + WIRE_REQUEST_OFFSET);
    if (type == WIRE_REPLY && connection->sample_request)
        sample_end(gate, connection, slot);
    if (connection->visitor) {
        door_answer(gate, connection, slot);
        return;
    }
    if (type == WIRE_SUBSCRIBED) {
        struct subscription *subscription = subscriptions_find(
            &gate->subscriptions, route->connection, slot + WIRE_SESSION_OFFSET, request);
        if (!subscription)
            return;
        if (wire_u16(slot + 6) & 1) /* partial: the client asks again behind what it now gets */
            subscriptions_remove(&gate->subscriptions, subscription);
        else
            subscriptions_start(&gate->subscriptions, subscription);
        gate->retained_number = route->connection;
        gate->retained_generation = connection->generation;
    }
    gate_deliver(gate, connection, slot, wire_length(slot));
    if (type == WIRE_REPLY && route->closing && request == 0)
        routes_unbind(&gate->routes, route);
}

struct fan { struct gate *gate; const uint8_t *slot; };

static void fan_to(void *context, uint32_t number)
{
    struct fan *fan = context;
    struct connection *connection = &fan->gate->connections[number];
    if (connection->event_serial == fan->gate->event_serial)
        return; /* another of its subscriptions matched too */
    connection->event_serial = fan->gate->event_serial;
    fan->gate->report.events_out++;
    gate_deliver(fan->gate, connection, fan->slot, wire_length(fan->slot));
}

static int scatter_event(struct gate *gate, const uint8_t *slot, uint64_t size)
{
    if (gate->retained_bytes) {
        if (size > gate->retained_bytes)
            return -1;
        gate->retained_bytes -= size;
        if (gate->retained_number == UINT32_MAX)
            return 0;
        struct connection *connection = &gate->connections[gate->retained_number];
        if (connection->generation == gate->retained_generation)
            gate_deliver(gate, connection, slot, wire_length(slot));
        return 0;
    }
    uint16_t key_bytes = wire_u16(slot + 26);
    if (wire_length(slot) < WIRE_EVENT_BYTES || key_bytes > wire_length(slot) - WIRE_EVENT_BYTES)
        return -1;
    struct fan fan = {gate, slot};
    gate->event_serial++;
    subscriptions_match(&gate->subscriptions, wire_u16(slot + 24), slot + WIRE_EVENT_BYTES,
                        key_bytes, fan_to, &fan);
    return 0;
}

int64_t gate_scatter(gate *gate, const uint8_t *run, uint64_t bytes, uint64_t now_ns)
{
    uint64_t at = 0;
    gate->now_ns = now_ns;
    for (uint64_t size; at < bytes; at += size) {
        const uint8_t *slot = run + at;
        size = wire_slot_bytes(slot, bytes - at);
        if (size == 0)
            return -1;
        switch (wire_type(slot)) {
        case WIRE_REPLY:
        case WIRE_ANSWER:
        case WIRE_SUBSCRIBED:
            if (wire_length(slot) < WIRE_REPLY_BYTES)
                return -1;
            route_answer(gate, slot);
            break;
        case WIRE_REFUSED:
        case WIRE_EVENTS_LOST:
            if (wire_length(slot) < WIRE_REFUSED_BYTES)
                return -1;
            route_answer(gate, slot);
            break;
        case WIRE_EVENT:
            if (scatter_event(gate, slot, size) != 0)
                return -1;
            break;
        case WIRE_DRAIN:
            gate->report.drained = 1;
            break;
        case WIRE_RAFT_MESSAGE:
        case WIRE_PEERS:
            return (int64_t)at;
        case WIRE_PADDING:
            break;
        default:
            return -1;
        }
    }
    return (int64_t)at;
}
