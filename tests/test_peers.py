"""Links between replicas over real sockets: who is linked with whom, what passes, what is refused (runtime/peers.py)."""

import itertools
import random

import pytest
from peer_nodes import MS, Cluster, cluster

from leftfold.runtime import slots
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.peer_hello import BULK_LINK
from leftfold.runtime.peers import PeerLimits


def test_three_replicas_link_each_with_each_and_messages_pass_both_ways() -> None:
    with cluster((1, 2, 3)) as running:
        nodes = running.start_all()
        running.until(running.linked, "all are linked")
        for node in nodes:
            for other in nodes:
                if node is not other:
                    for _ in range(10):
                        node.send(other.replica)
                        node.send(other.replica, 500, bulk=True)

        running.until(
            lambda: all(node.has_seen(20, bulk=bulk) for node in nodes for bulk in (False, True)),
            "20 messages of each kind reach everybody",
        )
        for node in nodes:
            for bulk in (False, True):
                assert len(node.seen[bulk]) == 20
                for source in {1, 2, 3} - {node.replica}:
                    serials = [serial for who, serial in node.seen[bulk] if who == source]
                    assert serials == sorted(serials) and len(serials) == 10
        assert all(not node.said for node in nodes)


def test_consensus_is_told_which_links_stand_and_where_clients_are_served() -> None:
    with cluster() as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        running.step()
        address = running.addresses[2]
        assert one.links_told() == [(slots.LINK_UP, 2, f"{address}/clients")]

        running.kill(2)
        running.until(lambda: not one.peers.is_linked(2), "the loss is seen")
        running.step()
        assert one.links_told() == [(slots.LINK_DOWN, 2, f"{address}/clients")]
        assert two.said == []


def test_a_link_is_told_when_there_is_room_for_it_and_not_forgotten() -> None:
    with cluster(capacity=1 << 12) as running:
        one, _ = running.start_all()
        while one.peers.receive.write(slots.HEADER.pack(8, slots.RAFT_MESSAGE, 0) + bytes(0)):
            pass
        running.until(running.linked, "linked")
        running.run(5)
        one.receive.release(len(one.receive.peek()))
        running.step()

        assert [tag for tag, _, _ in one.links_told()] == [slots.LINK_UP]


def test_both_sockets_of_a_link_are_bound_to_the_replicas_own_addresses() -> None:
    with cluster((1, 2)) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")

        for link in two.peers._links:
            assert link.sock.getsockname()[0] == "127.0.0.3"
            assert link.sock.getpeername()[0] == "127.0.0.2"
        assert {link.where for link in one.peers._links} == {"127.0.0.3"}


def test_a_killed_replica_is_linked_again_when_it_is_back() -> None:
    with cluster((1, 2, 3)) as running:
        running.start_all()
        running.until(running.linked, "linked")
        for victim in (1, 2, 3):
            running.kill(victim)
            running.run(3000)
            assert running.linked()
            running.start(victim, instance=victim * 1000 + 1 + running.now_ns)
            running.until(running.linked, f"replica {victim} is linked again")


def test_attempts_become_rarer_up_to_a_limit_and_are_never_in_step() -> None:
    with cluster((1, 2)) as running:
        running.listeners[1].close()
        two = running.start(2)
        attempts: list[int] = []
        dial = type(two.peers)._dial

        def spy(peers: object, replica: int, kind: int) -> None:
            if kind == BULK_LINK:
                attempts.append(running.now_ns)
            dial(two.peers, replica, kind)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(two.peers), "_dial", spy)
            running.run(20_000)

        pauses = [(b - a) / MS for a, b in itertools.pairwise(attempts)]
        assert 20 <= len(attempts) <= 60
        assert pauses[0] < 60 and max(pauses) <= 1100 and min(pauses[6:]) >= 499
        assert len({round(pause) for pause in pauses[6:]}) > 5
        assert two.said == [
            f"Replica 1 at {running.addresses[1]}: it cannot be reached (Connection refused)."
        ]


def test_a_trouble_is_said_once_and_its_end_too() -> None:
    with cluster((1, 2)) as running:
        running.listeners[1].close()
        two = running.start(2)
        running.run(5000)
        assert len(two.said) == 1
        running.start(1)
        running.until(running.linked, "linked")

        assert two.said[1:] == [f"Replica 1 at {running.addresses[1]} is linked."]


def test_a_replica_that_should_call_and_does_not_is_missed_once() -> None:
    with cluster((1, 2)) as running:
        one = running.start(1)
        running.until(lambda: one.said, "it is missed", ms=50)
        running.until(lambda: running.now_ns > 60_000_000_000, "a minute passes", ms=50)

        assert one.said == [f"Replica 2 at {running.addresses[2]} is missing: it has not called."]


def test_an_address_that_takes_calls_and_never_answers_is_named() -> None:
    with cluster((1, 2)) as running:
        two = running.start(2)  # The kernel takes the calls for replica 1, which nobody answers.
        running.until(lambda: two.said, "it is named")
        running.run(10_000)

        assert two.said == [f"Replica 1 at {running.addresses[1]}: it does not answer."]
        assert len(two.peers._links) <= 2


def test_a_replica_that_stands_still_is_let_go_and_linked_again_when_it_moves() -> None:
    with cluster((1, 2)) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        paused = running.nodes.pop(1)
        running.until(lambda: not two.peers.is_linked(1), "the silence is noticed")
        assert two.said == [f"Replica 1 at {running.addresses[1]}: it has fallen silent."]
        running.nodes[1] = paused
        running.until(running.linked, "linked again")
        assert one.peers.is_linked(2)


def test_a_gateway_that_was_stopped_reads_before_it_judges_others_silent() -> None:
    with cluster((1, 2)) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        links = [*one.peers._links]
        two.send(1)
        two.turn(running.now_ns)
        two.send(1, 100, bulk=True)
        two.turn(running.now_ns)
        running.now_ns += 10_000 * MS  # Both stood still, and two's messages lie in one's sockets.
        one.turn(running.now_ns)

        assert one.peers._links == links


def test_silence_of_raft_is_not_silence_of_the_replica() -> None:
    with cluster((1, 2)) as running:
        one, _ = running.start_all()
        running.until(running.linked, "linked")
        links = [*one.peers._links]
        running.run(10_000)

        assert one.peers._links == links


def test_nothing_is_linked_until_the_build_is_known_and_consensus_can_change_the_members() -> None:
    with cluster((1, 2, 3)) as running:
        nodes = running.start_all(build="", addresses={})
        running.run(500)
        assert not any(node.peers._links for node in nodes)
        for node in nodes:
            node.peers.change(slots.Peers("b", addresses=running.addresses))
        running.until(running.linked, "linked")

        members = {replica: running.addresses[replica] for replica in (1, 2)}
        for node in nodes[:2]:
            node.peers.change(slots.Peers("b", addresses=members))
        running.nodes[3].peers.change(slots.Peers("b", addresses={}))
        running.until(lambda: not nodes[2].peers._links, "three is let go")
        running.run(1000)
        assert running.linked(1, 2)
        assert not nodes[0].peers.is_linked(3)


def test_a_caller_that_this_replica_has_not_heard_of_is_linked_with() -> None:
    """A new leader may call a replica whose list of members is old; the reply must find it."""
    with cluster((1, 2)) as running:
        one = running.start(1, addresses={})
        two = running.start(2)
        running.until(running.linked, "linked")
        two.send(1)
        one.send(2)
        running.until(lambda: one.came() and two.came(), "both arrive")


def test_a_member_that_moved_is_dialled_where_it_is_now() -> None:
    with cluster((1, 2, 9)) as running:
        two = running.start(2, addresses={1: running.addresses[9]})
        running.run(100)
        one = running.start(1)
        two.peers.change(slots.Peers("build 1", addresses={1: running.addresses[1]}))
        running.until(lambda: running.linked(1, 2), "linked")
        assert one.said == []


@pytest.mark.parametrize("address", ["box:7700", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ""])
def test_a_peer_without_a_numeric_address_is_an_operators_mistake(address: str) -> None:
    with cluster((1,)) as running, pytest.raises(OperatorError, match="is no address of a replica"):
        running.start(1, addresses={2: address})


# What does not fit


def test_what_does_not_fit_receive_is_dropped_and_the_link_read_on() -> None:
    with cluster((1, 2), capacity=1 << 13) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        for _ in range(40):
            for _ in range(5):
                two.send(1, 700)
            running.step()
        assert one.peers.counts()["peer_dropped_in"] > 50
        assert running.linked() and one.peers.waiting_bytes() < 1 << 13
        came = one.came()
        assert came and [serial for _, serial in came] == sorted({serial for _, serial in came})
        last = two.send(1)
        running.until(lambda: (2, last) in one.came(), "a later one arrives")


def test_bulk_that_does_not_fit_waits_and_arrives_whole_while_messages_pass() -> None:
    with cluster((1, 2), capacity=1 << 13) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        sent: list[int] = []
        for _ in range(2000):
            if two.bulk_send.free() > 4096:
                sent.append(two.send(1, 900, bulk=True))
            running.step()
        assert one.peers.counts()["bulk_pauses"] >= 1
        assert one.peers.waiting_bytes() < 1 << 13
        before = len(sent)

        beat = two.send(1)
        running.until(lambda: (2, beat) in one.came(), "a heartbeat passes by")
        running.until(
            lambda: one.has_seen(before - two.peers.dropped_out, bulk=True),
            "all that was not dropped at the sender arrives",
        )
        came = [serial for _, serial in one.seen[True]]
        assert came == sorted(set(came)) and len(came) > 1000
        assert len(came) + two.peers.dropped_out == before
        assert running.linked()


def test_a_link_whose_other_end_does_not_read_is_bounded_and_does_not_stop_the_others() -> None:
    limits = PeerLimits(queued_bytes_max=1 << 17)
    with cluster((1, 2, 3), limits=limits) as running:
        _, two, three = running.start_all()
        running.until(running.linked, "linked")
        stalled = running.nodes.pop(1)
        for _ in range(1500):  # Within the time that silence takes to be noticed.
            three.send(1, 8000)
            three.send(2)
            running.step()
            two.came()
            assert three.peers.waiting_bytes() <= 3 * (1 << 17) + (1 << 19)
        assert three.peers.dropped_out > 0
        running.until(lambda: two.has_seen(1500), "all have come", ms=0)
        assert three.peers.is_linked(1)
        running.nodes[1] = stalled


def test_messages_to_nobody_are_dropped() -> None:
    with cluster((1, 2)) as running:
        one = running.start(1)
        one.send(2)
        one.send(7)
        one.send(2, 10, bulk=True)
        running.step()

        assert one.peers.dropped_out == 3


def test_the_largest_message_that_a_ring_takes_passes() -> None:
    with cluster((1, 2), capacity=1 << 16) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        body = (1 << 13) - 128
        for bulk in (False, True):
            serial = two.send(1, body, bulk=bulk)
            running.until(lambda at=(2, serial), b=bulk: at in one.came(bulk=b), "it arrives")


def test_a_long_run_of_random_sizes_arrives_in_order() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with cluster((1, 2), capacity=1 << 15) as running:
        one, two = running.start_all()
        running.until(running.linked, "linked")
        sent: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for _ in range(1000):
            for _ in range(rng.randrange(4)):
                bulk = rng.random() < 0.5
                sent[bulk].append((2, two.send(1, rng.randrange(3000), bulk=bulk)))
            running.step()
            for bulk in (False, True):
                one.came(bulk=bulk)
        running.until(
            lambda: all(one.has_seen(len(sent[bulk]), bulk=bulk) for bulk in (False, True)),
            "everything arrives",
        )
        assert one.seen == sent


def test_the_cluster_of_these_tests_is_torn_down() -> None:
    """No descriptor is left behind by a node that was closed."""
    running = Cluster((1, 2))
    nodes = running.start_all()
    running.until(running.linked, "linked")
    running.close()
    assert all(node.peers.listener.fileno() < 0 and not node.peers._links for node in nodes)
