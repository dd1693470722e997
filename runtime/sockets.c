/* sockets: the half of the gate that talks to the kernel; see gate.h.
 *
 * Edge-triggered epoll: a connection is registered once and never again. An edge sets `readable`
 * or `writable` and the flag stays until the kernel says EAGAIN or gives less than asked. So
 * not reading, when a ring is full, takes no system call and does not make epoll_wait spin.
 */
#define _GNU_SOURCE /* accept4 */
#include "gate.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, DISCARDS = 16 };

static const uint64_t SPECIAL = UINT64_C(1) << 63;

static int epoll_of(struct gate *gate)
{
    if (gate->epoll < 0)
        gate->epoll = epoll_create1(EPOLL_CLOEXEC);
    return gate->epoll;
}

int gate_watch(gate *gate, int fd, int role)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = SPECIAL | (uint64_t)role};
    if (role == GATE_LISTENER || role == GATE_VISITORS)
        event.events |= EPOLLET;
    if (epoll_of(gate) < 0 || epoll_ctl(gate->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        return -errno;
    return 0;
}

int gate_unwatch(gate *gate, int fd)
{
    return epoll_ctl(gate->epoll, EPOLL_CTL_DEL, fd, NULL) == 0 ? 0 : -errno;
}

static void close_socket(struct connection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd);
    connection->fd = -1;
}

void gate_free(gate *gate)
{
    for (uint32_t number = 0; gate->connections && number < gate->used; number++) {
        struct connection *connection = &gate->connections[number];
        if (connection->state == GATE_FREE)
            continue;
        close_socket(connection);
        free(connection->leftover);
        free(connection->output);
        door_release(connection);
    }
    if (gate->epoll >= 0)
        close(gate->epoll);
    door_free(gate);
    routes_destroy(&gate->routes);
    subscriptions_destroy(&gate->subscriptions);
    free(gate->connections);
    free(gate->scratch);
    free(gate->freed.numbers);
    free(gate->ready.numbers);
    free(gate->dirty.numbers);
    free(gate);
}

static void note_edges(struct gate *gate, uint64_t name, uint32_t edges)
{
    uint32_t number = (uint32_t)name;
    struct connection *connection = &gate->connections[number];
    if (connection->generation != (uint32_t)(name >> 32) || connection->state == GATE_FREE)
        return; /* closed since the kernel wrote this event */
    if (edges & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        connection->readable = 1;
        connection->hangup |= (edges & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
        gate_make_ready(gate, connection);
    }
    if (edges & EPOLLOUT) {
        connection->writable = 1;
        if (connection->output_end != connection->output_start)
            gate_make_dirty(gate, connection);
    }
}

int gate_wait(gate *gate, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(gate->epoll, events, EVENTS, timeout_ms);
    gate->report.bell = gate->report.foreign = gate->report.links = 0;
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++) {
        uint64_t name = events[i].data.u64;
        if (name == (SPECIAL | GATE_LISTENER))
            gate->report.listening = 1;
        else if (name == (SPECIAL | GATE_VISITORS))
            gate->report.visitors = 1;
        else if (name == (SPECIAL | GATE_BELL))
            gate->report.bell = 1;
        else if (name == (SPECIAL | GATE_FOREIGN))
            gate->report.foreign = 1;
        else if (name & SPECIAL)
            gate->report.links |= UINT64_C(1) << (name - (SPECIAL | GATE_LINK));
        else
            note_edges(gate, name, events[i].events);
    }
    return count;
}

static int prepare_socket(int fd)
{
    int on = 1, idle_s = 30, interval_s = 10, probes = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* A client whose host vanished must not hold its place for ever. */
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    return setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

static int64_t adopt(gate *gate, int fd, int64_t number)
{
    if (number < 0) {
        gate->report.turned_away++;
        return -1;
    }
    struct connection *connection = &gate->connections[number];
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.u64 = (uint64_t)connection->generation << 32 | (uint64_t)number,
    };
    if (epoll_ctl(epoll_of(gate), EPOLL_CTL_ADD, fd, &event) != 0)
        gate_done(gate, connection);
    return number;
}

int64_t gate_adopt(gate *gate, int fd, uint64_t now_ns)
{
    return adopt(gate, fd, gate_open(gate, fd, now_ns));
}

/* `waits`: where it stands whether others wait to be accepted. */
static int accept_some(gate *gate, int listener, int count, int visitors, uint64_t *waits, uint64_t now_ns)
{
    for (int accepted = 0; accepted < count; accepted++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            /* Out of descriptors: `listening` stays set, so the caller tries again later. */
            *waits = errno != EAGAIN;
            return errno == EAGAIN ? accepted : -errno;
        }
        if (prepare_socket(fd) != 0) {
            close(fd);
            continue;
        }
        int64_t number = visitors ? gate_open_visitor(gate, fd, now_ns) : gate_open(gate, fd, now_ns);
        if (adopt(gate, fd, number) < 0)
            close(fd);
    }
    *waits = 1;
    return count;
}

int gate_accept(gate *gate, int listener, int count, uint64_t now_ns)
{
    return accept_some(gate, listener, count, 0, &gate->report.listening, now_ns);
}

int gate_accept_visitors(gate *gate, int listener, int count, uint64_t now_ns)
{
    return accept_some(gate, listener, count, 1, &gate->report.visitors, now_ns);
}

/* One recv to behind the leftover. Returns its bytes, 0 when there is nothing to split. */
static uint64_t receive_some(struct gate *gate, struct connection *connection)
{
    ssize_t got = recv(connection->fd, gate->scratch + connection->leftover_bytes,
                       GATE_RECEIVE_BYTES, MSG_DONTWAIT);
    if (got > 0) {
        /* Less than asked means empty, unless a hang-up waits behind the bytes. */
        if (got < GATE_RECEIVE_BYTES && !connection->hangup)
            connection->readable = 0;
        return (uint64_t)got;
    }
    if (got < 0 && errno == EINTR)
        return 0;
    if (got < 0 && errno == EAGAIN)
        connection->readable = 0;
    else
        gate_done(gate, connection);
    return 0;
}

static void discard_input(struct gate *gate, struct connection *connection)
{
    for (int i = 0; i < DISCARDS && connection->readable; i++) {
        connection->leftover_bytes = 0;
        if (receive_some(gate, connection) == 0)
            break;
    }
    if (connection->readable && connection->state == GATE_CLOSING)
        gate_make_ready(gate, connection);
}

static void receive_one(struct gate *gate, struct connection *connection, struct destination *to)
{
    uint64_t bytes = connection->leftover_bytes;
    if (connection->visitor && !door_is_listening(gate, connection))
        return;
    if (!connection->stalled) {
        if (!connection->readable)
            return;
        bytes += receive_some(gate, connection);
        if (connection->state == GATE_DONE)
            return;
    }
    if (connection->leftover_bytes)
        memcpy(gate->scratch, connection->leftover, connection->leftover_bytes);
    if (connection->stalled || bytes > connection->leftover_bytes)
        gate_take(gate, connection, bytes, to);
}

int64_t gate_receive(gate *gate, uint8_t *destination, uint64_t room, uint64_t now_ns)
{
    struct destination to = {destination, room, 0};
    gate->now_ns = now_ns;
    gate->report.blocked = 0;
    if (gate->door)
        door_closes(gate, &to);
    for (uint32_t turns = gate->ready.count; turns > 0 && !gate->report.blocked; turns--) {
        uint32_t number = queue_pop(&gate->ready);
        struct connection *connection = &gate->connections[number];
        connection->in_ready = 0;
        if (connection->state == GATE_CLOSING) {
            discard_input(gate, connection);
            continue;
        }
        if (connection->state != GATE_OPEN && connection->state != GATE_GREETING)
            continue;
        receive_one(gate, connection, &to);
        if (connection->visitor && connection->state == GATE_OPEN && !door_is_listening(gate, connection)) {
            connection->stalled = 0; /* its answer, or its reading, makes it ready again */
        } else if (connection->stalled) { /* it is the first to go on when there is room */
            connection->in_ready = 1;
            queue_push_front(&gate->ready, number);
        } else if (connection->readable && connection->state != GATE_DONE) {
            gate_make_ready(gate, connection);
        }
    }
    gate->report.ready = gate->ready.count;
    return (int64_t)to.bytes;
}

int gate_has_unread(struct gate *gate, struct connection *connection)
{
    uint8_t first;
    if (connection->fd < 0 || recv(connection->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
        return 0;
    connection->readable = 1;
    gate_make_ready(gate, connection);
    return 1;
}

void gate_send_some(struct gate *gate, struct connection *connection)
{
    while (connection->fd >= 0 && connection->writable &&
           connection->output_start != connection->output_end) {
        size_t waiting = connection->output_end - connection->output_start;
        ssize_t sent = send(connection->fd, connection->output + connection->output_start, waiting,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            gate_consume_output(gate, connection, (uint64_t)sent);
            if ((size_t)sent < waiting)
                connection->writable = 0;
        } else if (errno == EAGAIN) {
            connection->writable = 0;
        } else if (errno != EINTR) {
            gate_done(gate, connection);
            return;
        }
    }
}

static void flush_one(struct gate *gate, struct connection *connection)
{
    if (connection->forget) {
        uint32_t number = (uint32_t)(connection - gate->connections);
        door_forget(gate, connection);
        routes_drop(&gate->routes, number);
        subscriptions_drop(&gate->subscriptions, number);
        connection->forget = 0;
    }
    if (connection->state == GATE_DONE) {
        close_socket(connection);
        gate_release(gate, connection);
        return;
    }
    gate_send_some(gate, connection); /* if this ends it, it is dirty again for the next flush */
    if (connection->visitor)
        door_relieved(gate, connection);
    if (connection->state == GATE_CLOSING && !connection->shut && connection->fd >= 0 &&
        connection->output_start == connection->output_end) {
        connection->shut = 1;
        shutdown(connection->fd, SHUT_WR);
    }
}

void gate_flush(gate *gate)
{
    for (uint32_t turns = gate->dirty.count; turns > 0; turns--) {
        struct connection *connection = &gate->connections[queue_pop(&gate->dirty)];
        connection->in_dirty = 0;
        if (connection->state != GATE_FREE)
            flush_one(gate, connection);
    }
    gate->report.dirty = gate->dirty.count;
    gate->report.sessions = gate->routes.count;
    gate->report.subscriptions = gate->subscriptions.count;
}
