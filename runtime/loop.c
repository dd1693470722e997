/* loop: see loop.h. */
#include "loop.h"

#include <errno.h>

enum { NS_PER_MS = 1000000, PARK_MS_MAX = 100 };

static int may_accept(const struct gate *gate, const struct loop *loop)
{
    const struct gate_report *report = &gate->report;
    return loop->reading && (report->listening || report->visitors) &&
           (!loop->accept_ns || loop->now_ns >= loop->accept_ns);
}

static int has_work(const struct gate *gate, const struct loop *loop)
{
    const struct gate_report *report = &gate->report;
    return report->dirty || may_accept(gate, loop) ||
           (loop->reading && (report->ready || report->closes) && !loop->paused);
}

static int park_ms(const struct loop *loop)
{
    if (loop->due_ns <= loop->now_ns)
        return 0;
    uint64_t wait_ms = (loop->due_ns - loop->now_ns) / NS_PER_MS + 1;
    return wait_ms < PARK_MS_MAX ? (int)wait_ms : PARK_MS_MAX;
}

/* Sleep only if nothing is to be done. Returns reasons, or a negative errno. */
static int64_t wait_for_work(struct gate *gate, struct loop *loop)
{
    const struct shm_calls *calls = loop->calls;
    int spins = loop->spin_ns && loop->now_ns - loop->busy_ns < loop->spin_ns;
    int armed = 0;
    if (!has_work(gate, loop) && !spins) {
        armed = calls->arm(loop->bell);
        if (armed < 0)
            return LOOP_BROKEN;
    }
    int seen = gate_wait(gate, armed ? park_ms(loop) : 0);
    if (armed && calls->disarm(loop->bell, gate->report.bell != 0) < 0)
        return LOOP_BROKEN;
    if (seen < 0)
        return seen == -EINTR ? LOOP_LEFT : seen;
    return 0;
}

/* What logic says goes to connections. Returns reasons. */
static int64_t scatter_egress(struct gate *gate, struct loop *loop)
{
    const struct shm_calls *calls = loop->calls;
    struct ring_end *ring = loop->egress;
    uint64_t found = calls->peek_upto(ring, loop->scatter_bytes_max);
    if (!found)
        return 0;
    uint64_t bytes = (uint32_t)found;
    if (bytes == UINT32_MAX)
        return LOOP_BROKEN;
    loop->busy_ns = loop->now_ns;
    int64_t routed = gate_scatter(gate, calls->data(ring) + (found >> 32), bytes, loop->now_ns);
    if (routed < 0 || (uint64_t)routed < bytes)
        return LOOP_MALFORMED;
    return calls->release(ring, bytes) < 0 ? LOOP_BROKEN : 0;
}

static uint64_t carry(struct loop *loop, const uint8_t *run, uint64_t bytes)
{
    if (wire_type(run) != WIRE_RAFT_MESSAGE || wire_length(run) < 16)
        return 0;
    uint64_t peer = wire_u64(run + 8);
    for (int at = 0; at < LOOP_CARRIERS; at++)
        if (loop->carriers[at] && loop->carriers[at]->peer == peer)
            return carrier_send(loop->carriers[at], run, bytes, loop->now_ns);
    return 0;
}

/* What consensus says: to connections, and by carriers to peers. */
static int64_t scatter_send(struct gate *gate, struct loop *loop)
{
    const struct shm_calls *calls = loop->calls;
    uint64_t found = calls->peek_upto(loop->send, loop->scatter_bytes_max);
    if (!found)
        return 0;
    uint64_t bytes = (uint32_t)found, at = 0;
    if (bytes == UINT32_MAX)
        return LOOP_BROKEN;
    const uint8_t *run = calls->data(loop->send) + (found >> 32);
    loop->busy_ns = loop->now_ns;
    while (at < bytes) {
        int64_t routed = gate_scatter(gate, run + at, bytes - at, loop->now_ns);
        if (routed < 0)
            break; /* Python says so */
        at += (uint64_t)routed;
        uint64_t carried = at < bytes ? carry(loop, run + at, bytes - at) : 0;
        if (!carried)
            break;
        at += carried;
    }
    if (at && calls->release(loop->send, at) < 0)
        return LOOP_BROKEN;
    return at < bytes ? LOOP_SEND : 0;
}

static int64_t serve_carriers(struct gate *gate, struct loop *loop)
{
    int64_t reasons = 0;
    for (int at = 0; at < LOOP_CARRIERS; at++) {
        struct carrier *carrier = loop->carriers[at];
        if (!carrier)
            continue;
        if (gate->report.links >> at & 1) {
            carrier_receive(carrier, loop->layouts, loop->calls, loop->receive, loop->now_ns);
            loop->busy_ns = loop->now_ns;
        }
        if (carrier->asks)
            reasons = LOOP_LINK;
    }
    return reasons;
}

static int64_t receive(struct gate *gate, struct loop *loop)
{
    const struct shm_calls *calls = loop->calls;
    if (!loop->reading || (!gate->report.ready && !gate->report.closes))
        return 0;
    uint64_t address = calls->claim_upto(loop->ingress, loop->frame_bytes, loop->claim_bytes_max);
    if (!address) {
        loop->pauses += !loop->paused;
        loop->paused = 1;
        return 0;
    }
    if (address < 16)
        return LOOP_BROKEN;
    loop->paused = 0;
    int64_t bytes = gate_receive(gate, (uint8_t *)address, calls->claimed(loop->ingress), loop->now_ns);
    if (bytes)
        loop->busy_ns = loop->now_ns;
    return calls->commit(loop->ingress, (uint64_t)bytes) < 0 ? LOOP_BROKEN : 0;
}

static void record_samples(struct gate *gate, struct loop *loop)
{
    struct gate_report *report = &gate->report;
    for (uint64_t at = 0; loop->latency_ns && at < report->samples; at++)
        loop->calls->record(loop->latency_ns, report->sample_ns[at]);
    report->samples = 0;
}

static int64_t turn(struct gate *gate, struct loop *loop)
{
    int64_t reasons = wait_for_work(gate, loop);
    if (reasons < 0)
        return reasons;
    loop->now_ns = (uint64_t)loop->calls->monotonic_ns();
    reasons |= scatter_send(gate, loop);
    if (loop->receive)
        reasons |= serve_carriers(gate, loop);
    reasons |= scatter_egress(gate, loop);
    reasons |= receive(gate, loop);
    if (gate->report.dirty)
        gate_flush(gate);
    if (gate->report.samples)
        record_samples(gate, loop);
    if (gate->report.foreign)
        reasons |= LOOP_FOREIGN;
    if (loop->bulk && loop->calls->ready_of(&loop->bulk, 1))
        reasons |= LOOP_BULK;
    if (may_accept(gate, loop))
        reasons |= LOOP_ACCEPT;
    if (loop->now_ns >= loop->due_ns)
        reasons |= LOOP_DUE;
    if (gate->report.drained)
        reasons |= LOOP_DRAINED;
    if (loop->leave || loop->watchful)
        reasons |= LOOP_LEFT;
    loop->turns++;
    return reasons;
}

int64_t loop_run(gate *gate, struct loop *loop)
{
    int64_t reasons;
    loop->now_ns = (uint64_t)loop->calls->monotonic_ns();
    do
        reasons = turn(gate, loop);
    while (!reasons);
    return reasons;
}
