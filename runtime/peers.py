"""The gateway's links to the other replicas: two connections for each, one for Raft's messages and one for bulk.

THE CONTRACT, for consensus on the other side of the rings

    ring           slot           from → to             what becomes of it
    send           RAFT_MESSAGE   consensus → gateway   to the target's message link
    bulk_send      RAFT_MESSAGE   consensus → gateway   to the target's bulk link
    send           PEERS          consensus → gateway   whom to be linked with; replaces the one before (slots.Peers)
    receive        RAFT_MESSAGE   gateway → consensus   came on a message link
    bulk_receive   RAFT_MESSAGE   gateway → consensus   came on a bulk link
    receive        LINK           gateway → consensus   a message link came up, or went down; where that replica serves clients

 * RAFT_MESSAGE is raft_messages.py's, the same padded bytes in both rings and between them. What arrives was checked: it
   decodes, its target is this replica, its source is the replica at the other end of the link.
 * `send` and `bulk_send` are always drained (I12). A message is dropped when its target has no open link or the link's queue
   is full (`queued_bytes_max`). Raft sends again. Messages of one link arrive in order, some perhaps missing.
 * Of what arrives on a message link, what does not fit `receive` is dropped, and the link is read on: clients cannot stop
   it, since `receive` is apart from `ingress`. A bulk link is not read until `bulk_receive` has room, and nothing of it is
   dropped at this end; that stops the other replica's bulk link, never its message link.
 * LINK is never dropped, only late: consensus learns the last state of every link. A message may overtake its LINK.
 * Links are made once the app's build is known: from the start, or by the first PEERS. Of two replicas the one with the
   higher id dials, since it joined later and so knows the other. Whoever greets rightly is linked with, member or not: a
   replica that is behind may be called by a leader that it has not heard of. At most STRANGERS_MAX of these.
 * Refused, with a sentence to both sides: see `peer_hello.object_to`, and one whose certificate is not for its address.
   Disconnected, with a reason: who sends what no replica sends, speaks for another, greets twice, stays silent, floods.
   Each reason is reported when it changes, and never more often than REPORTS_BURST at once and one in REPORT_NS.

 * Where a gateway's loop turns in C, it carries an open message link that needs no TLS (carriers.py): this file then sees
   only what C would not decide, as if it had come here first.

Time and randomness are given. Nothing here blocks: addresses are numeric.
"""

import errno
import ipaddress
import os
import random
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from ..shm import Consumer, Producer
from . import raft_messages, slots
from .carriers import Carriers
from .descriptors import IN, OUT, Descriptors
from .hosts import host_of, numeric_address
from .link_news import LinkNews
from .peer_admission import STRANGERS_MAX, Admission
from .peer_hello import (
    ALIVE_FRAME,
    BULK_LINK,
    RAFT_LINK,
    Hello,
    NotAPeer,
    read_hello,
    refusal,
)
from .peer_intake import Intake
from .peer_limits import PeerLimits
from .peer_link import Link, LinkLost, State
from .peer_retries import Retries
from .reports import Reports
from .tls import PeerContexts, PlainStream, Stream, StreamBroken, TlsStream

if TYPE_CHECKING:
    from ._wire import CData

ACCEPTS_PER_TURN = 16
UNGREETED_MAX = 32


@define(eq=False)
class Peers:
    """See the head of this file. The gateway calls `post` and `change` for what it finds on `send`, and `turn`."""

    own: Hello
    """What this replica says of itself; `target` and `link` are filled in. An empty build: not known yet."""
    listener: socket.socket
    receive: Producer
    bulk_receive: Producer
    bulk_send: Consumer
    descriptors: Descriptors
    report: Callable[[str], None]
    rng: random.Random
    addresses: dict[int, str] = field(factory=dict[int, str])
    contexts: PeerContexts | None = None
    any_build: bool = False
    limits: PeerLimits = field(factory=PeerLimits)
    carriers: Carriers | None = field(default=None, init=False)
    """What the gateway's loop carries; None: nothing."""
    messages_out: int = field(default=0, init=False)
    dropped_out: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _now_ns: int = field(default=0, init=False)
    _wake_ns: int = field(default=0, init=False)
    _listening: bool = field(default=False, init=False)
    _links: list[Link] = field(factory=list[Link], init=False)
    _by_peer: dict[tuple[int, int], Link] = field(factory=dict[tuple[int, int], Link], init=False)
    """(replica, kind): OPEN links, and those that were dialled."""
    _retries: Retries = field(init=False)
    _dirty: set[Link] = field(factory=set[Link], init=False)
    _paused: set[Link] = field(factory=set[Link], init=False)
    _news: LinkNews = field(init=False)
    _admission: Admission = field(factory=Admission, init=False)
    _intake: Intake = field(init=False)
    _missed_ns: dict[int, int] = field(factory=dict[int, int], init=False)
    _reports: Reports = field(init=False)

    def __attrs_post_init__(self) -> None:
        assert self.receive.slot_bytes_max == self.bulk_receive.slot_bytes_max
        assert self.limits.queued_bytes_max >= self.receive.slot_bytes_max
        self._reports = Reports(self.report)
        self._retries = Retries(self.limits, self.rng)
        self._news = LinkNews(self.receive)
        self._intake = Intake(self.own.source, self.receive, self.bulk_receive)
        self._replace(self.addresses)

    # What the gateway calls

    def change(self, peers: slots.Peers) -> None:
        """Consensus says who the peers are."""
        self.any_build = peers.any_build
        if peers.build != self.own.build:
            self.own = evolve(self.own, build=peers.build)
        self._replace(peers.addresses)

    def post(self, slot: memoryview) -> None:
        """A RAFT_MESSAGE of `send`, padded."""
        self._post(RAFT_LINK, slot)

    def turn(self, now_ns: int) -> int:
        """Everything that is due, a bounded part at a time; how much was moved. Call `descriptors.turn` before."""
        self._now_ns = now_ns
        moved = self._post_bulk()
        if self._paused:
            for link in [*self._paused]:
                if self._intake.has_room(link):
                    moved += self._take(link)
        if self._news.due:
            self._news.tell(self._by_peer)
        if now_ns >= self._wake_ns:
            self._look_after()
        if self._dirty:
            for link in [*self._dirty]:
                self._flush(link)
        return moved

    def carry(self, gate: "CData", loop: "CData") -> None:
        """Let the gateway's loop carry what is plainly fine."""
        own, bytes_max = self.own.source, self._intake.read_bytes_max
        self.carriers = Carriers(gate, loop, self.receive, own, bytes_max)

    def heed_carriers(self, now_ns: int) -> None:
        """What C would not decide about links that it carries."""
        assert self.carriers is not None
        self._now_ns = now_ns
        for link in self.carriers.asking():
            if link.carrier is None:
                continue  # Another one's fault has ended it meanwhile.
            self._dirty.add(link)
            if self.carriers.take(link):
                self._take(link)
            else:
                self._read(link)

    def lay_down_carriers(self) -> None:
        """The loop turns no more: all links are Python's."""
        if self.carriers is not None:
            for link in self._links:
                self.carriers.detach(link)
                self._dirty.add(link)
            self.carriers = None

    def arriving(self, now_ns: int) -> None:
        """The time of the events that `descriptors.turn` is about to bring."""
        self._now_ns = now_ns

    @property
    def due_ns(self) -> int:
        """Nothing is due before, unless a descriptor or a ring has something."""
        return self._wake_ns

    @property
    def is_held_up(self) -> bool:
        """Whether something here waits for room in a ring, so that `turn` is to be called whenever a ring rings."""
        return self._news.due or bool(self._paused)

    @property
    def ends(self) -> tuple[Consumer | Producer, ...]:
        """The ring ends that the gateway's doorbell watches for this."""
        return self.bulk_send, self.receive, self.bulk_receive

    @property
    def connected(self) -> int:
        """The replicas that messages can go to now."""
        return sum(self.is_linked(replica) for replica, kind in self._by_peer if kind == RAFT_LINK)

    def is_linked(self, replica: int, kind: int = RAFT_LINK) -> bool:
        """Whether messages can go to this replica now."""
        link = self._by_peer.get((replica, kind))
        return link is not None and link.state is State.OPEN

    def counts(self) -> dict[str, int]:
        """What the gateway publishes."""
        carried_in, carried_out = self.carriers.counts() if self.carriers is not None else (0, 0)
        return {
            "peers_linked": self.connected,
            "peer_messages_in": self._intake.messages + carried_in,
            "peer_messages_out": self.messages_out + carried_out,
            "peer_dropped_in": self._intake.dropped,
            "peer_dropped_out": self.dropped_out,
            "peer_refused": self.refused,
            "bulk_pauses": self._intake.pauses,
        }

    def waiting_bytes(self) -> int:
        """All that the links hold in memory."""
        return sum(link.waiting_bytes() for link in self._links)

    def close(self) -> None:
        """Close every socket; the rings and the descriptors are the gateway's."""
        for link in [*self._links]:
            self._forget(link)
        if self._listening:
            self.descriptors.forget(self.listener.fileno())
        self.listener.close()

    # Whom to be linked with

    def _replace(self, addresses: Mapping[int, str]) -> None:
        for address in addresses.values():
            numeric_address(address)
        wanted = {
            replica: address for replica, address in addresses.items() if replica != self.own.source
        }
        for link in [*self._links]:
            if link.peer in self.addresses and wanted.get(link.peer) != self.addresses[link.peer]:
                self._close(link, None)
        self.addresses = wanted
        self._retries.dial(replica for replica in wanted if replica < self.own.source)
        callers = [replica for replica in wanted if replica > self.own.source]
        self._missed_ns = {replica: self._missed_ns.get(replica, 0) for replica in callers}
        self._wake_ns = 0
        if self.own.build and not self._listening:
            self._listening = True
            self.descriptors.watch(self.listener.fileno(), IN, self._accept)

    # Messages out

    def _post_bulk(self) -> int:
        run = self.bulk_send.peek()
        size = len(run)
        if size:
            self._post_run(run)
            run.release()
            self.bulk_send.release(size)
        return size

    def _post_run(self, run: memoryview) -> None:
        for kind, _, slot in slots.slots_of(run):
            assert kind in (slots.RAFT_MESSAGE, 0), f"bulk_send carried a slot of type {kind}"
            if kind:
                self._post(BULK_LINK, slot)

    def _post(self, kind: int, slot: memoryview) -> None:
        envelope = raft_messages.envelope(slot)
        assert envelope.source == self.own.source, "a message in another replica's name"
        link = self._by_peer.get((envelope.target, kind))
        frame = bytes(slot)
        frame += bytes(-len(frame) % 8)
        if link is None or link.state is not State.OPEN:
            self.dropped_out += 1
        elif self._say(link, frame):
            self.messages_out += 1
        else:
            self.dropped_out += 1

    def _flush(self, link: Link) -> None:
        self._dirty.discard(link)
        if link.state is State.DIALING:
            return
        try:
            flushed = link.flush()
        except LinkLost as lost:
            self._lose(link, str(lost))
            return
        if link.carrier is not None:
            link.carrier.held = not flushed
        if not (flushed and link.state is State.CLOSING) or self._shut(link):
            self._watch(link, flushed=flushed)

    def _watch(self, link: Link, *, flushed: bool) -> None:
        events = link.wanted_events(flushed=flushed)
        if events != link.events:
            link.events = events
            self.descriptors.change(link.fileno(), events)

    # Messages in

    def _on_events(self, link: Link, events: int) -> None:
        if link.state is State.DIALING:
            self._connected(link)
            return
        if events & OUT:
            self._dirty.add(link)
        if events & ~OUT and not link.paused:
            self._read(link)
        elif events & ~(IN | OUT):
            self._lose(link, "it broke the connection")

    def _read(self, link: Link) -> None:
        if self.carriers is not None and link.carrier is not None:
            self.carriers.take(link)
        try:
            came = link.receive(self._intake.read_bytes_max)
        except LinkLost as lost:
            self._lose(link, str(lost))
            return
        except StreamBroken as broken:
            self._dirty.add(link)
            self._end(link, str(broken))
            return
        if came and link.state is not State.CLOSING:
            link.heard_ns = self._now_ns
        if (came or link.carrier is not None) and link.state is not State.CLOSING:
            self._take(link)
        self._dirty.add(link)

    def _take(self, link: Link) -> int:
        """Whole frames go on; what is not whole, or has no room, stays in the link's input."""
        before = len(link.input)
        try:
            if link.state is State.GREETING:
                self._greet(link)
            if link.state is State.OPEN:
                self._intake.take(link, self._now_ns)
                (self._paused.add if link.paused else self._paused.discard)(link)
                self._dirty.add(link)
        except (NotAPeer, raft_messages.Malformed) as error:
            self._end(link, str(error))
        taken = before - len(link.input)
        if self.carriers is not None and link.state is State.OPEN and link.kind == RAFT_LINK:
            if link.carrier is None:
                self.carriers.attach(link)
            else:
                self.carriers.give_back(link)
        return taken

    # Getting to know each other

    def _stream(self, *, accepted: bool, host: str) -> Stream:
        if self.contexts is None:
            return PlainStream()
        context = self.contexts.accept if accepted else self.contexts.dial
        return TlsStream(context, accepted, host)

    def _dial(self, replica: int, kind: int) -> None:
        address = self.addresses[replica]
        family, place = numeric_address(address)
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        link = Link(
            sock, PlainStream(), State.DIALING, kind, replica, address, self._now_ns, dialled=True
        )
        try:
            host = host_of(self.own.address)
            if not ipaddress.ip_address(host).is_unspecified:
                sock.bind((host, 0))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            failed = sock.connect_ex(place)
        except OSError as error:
            failed = error.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            self._retries.ended(link, self._now_ns)
            self._tell_trouble(link, f"it cannot be reached ({os.strerror(failed)})")
            return
        self._by_peer[replica, kind] = link
        self._add(link)

    def _add(self, link: Link) -> None:
        self._links.append(link)
        link.events = link.wanted_events(flushed=True)
        self.descriptors.watch(
            link.fileno(), link.events, lambda events: self._on_events(link, events)
        )
        self._wake_ns = 0

    def _connected(self, link: Link) -> None:
        failed = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._lose(link, f"it cannot be reached ({os.strerror(failed)})")
            return
        try:
            if link.sock.getpeername() == link.sock.getsockname():
                self._close(link, None)  # The kernel joined the socket to itself.
                return
        except OSError:
            return  # Not yet.
        link.state = State.GREETING
        link.stream = self._stream(accepted=False, host=host_of(link.where))
        self._say_hello(link)

    def _accept(self, events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, caller = self.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._reports.tell(
                    "listener", f"No call of a replica is taken: {error.strerror}.", self._now_ns
                )
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host = str(caller[0])
            stream = self._stream(accepted=True, host=host)
            self._add(Link(sock, stream, State.GREETING, 0, 0, host, self._now_ns, dialled=False))
            ungreeted = [link for link in self._links if not link.dialled and not link.peer]
            if len(ungreeted) > UNGREETED_MAX:
                self._end(ungreeted[0], "it was one of too many callers that had not greeted")

    def _say_hello(self, link: Link) -> None:
        hello = evolve(self.own, target=link.peer, link=link.kind)
        posted = self._say(link, hello.encode())
        assert posted, "the greeting is the first frame of a link"

    def _say(self, link: Link, frame: bytes) -> bool:
        self._dirty.add(link)
        return link.post(frame, self.limits.queued_bytes_max, self._now_ns)

    def _greet(self, link: Link) -> None:
        found = read_hello(link.input)
        if found is None:
            return
        hello, length = found
        objection = self._admission.objection(
            self.own, link, hello, self.addresses, any_build=self.any_build
        )
        if objection is None and self._is_one_too_many(hello.source):
            objection = (
                f"Replica {hello.source} at {hello.address} is one of too many that are no members."
            )
        if objection is not None:
            self._refuse(link, hello, objection)
            return
        del link.input[:length]
        link.hello = hello
        if not link.dialled:
            link.peer, link.kind = hello.source, hello.link
            older = self._by_peer.get((link.peer, link.kind))
            if older is not None:
                self._close(older, None)
            self._by_peer[link.peer, link.kind] = link
            self._say_hello(link)
        link.state = State.OPEN
        link.heard_ns = self._now_ns
        self._wake_ns = 0
        self._news.due = True
        if link.kind == RAFT_LINK:
            self._reports.good(
                f"replica {link.peer}",
                f"Replica {link.peer} at {hello.address} is linked.",
                self._now_ns,
            )

    def _is_one_too_many(self, replica: int) -> bool:
        strangers = {peer for peer, _ in self._by_peer if peer not in self.addresses}
        unknown = replica not in self.addresses and replica not in strangers
        return unknown and len(strangers) >= STRANGERS_MAX

    def _refuse(self, link: Link, hello: Hello, sentence: str) -> None:
        self.refused += 1
        if not self._admission.is_quiet(hello):
            self._reports.tell(self._key(link, hello), sentence, self._now_ns)
        self._say(link, refusal(sentence))
        self._begin_closing(link, refused=True)

    # Ends

    def _end(self, link: Link, clause: str) -> None:
        """It broke a rule: it is told, as far as it can be, and disconnected."""
        if link.state is State.CLOSING:
            return
        refused = clause.startswith("it refuses")
        self.refused += 1
        self._tell_trouble(link, clause)
        if not refused and link.stream.ready:
            self._say(link, refusal(f"Disconnected: {clause}."))
        self._begin_closing(link, refused=True)

    def _begin_closing(self, link: Link, *, refused: bool) -> None:
        if self._by_peer.get((link.peer, link.kind)) is link:
            del self._by_peer[link.peer, link.kind]
        self._retries.ended(link, self._now_ns, refused=refused)
        self._uncarry(link)
        link.state = State.CLOSING
        link.paused = False
        self._paused.discard(link)
        self._news.due = True
        link.input.clear()
        link.since_ns = self._now_ns
        self._dirty.add(link)
        self._wake_ns = 0

    def _shut(self, link: Link) -> bool:
        try:
            link.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._forget(link)
            return False
        return True

    def _lose(self, link: Link, clause: str) -> None:
        if link.state is not State.CLOSING:
            self._tell_trouble(link, clause)
        self._close(link, None)

    def _close(self, link: Link, clause: str | None) -> None:
        if clause is not None:
            self._tell_trouble(link, clause)
        closing = link.state is State.CLOSING
        self._forget(link)
        if not closing:
            self._retries.ended(link, self._now_ns)

    def _forget(self, link: Link) -> None:
        if link not in self._links:
            return
        self._uncarry(link)
        self._links.remove(link)
        self._dirty.discard(link)
        self._paused.discard(link)
        self._news.due = True
        if self._by_peer.get((link.peer, link.kind)) is link:
            del self._by_peer[link.peer, link.kind]
        self.descriptors.forget(link.fileno())
        link.sock.close()
        self._wake_ns = 0

    def _uncarry(self, link: Link) -> None:
        if self.carriers is not None:
            self.carriers.detach(link)

    # What is due

    def _look_after(self) -> None:
        now_ns, limits = self._now_ns, self.limits
        for link in [*self._links]:
            age_ns = now_ns - link.since_ns
            if link.state is State.CLOSING:
                if age_ns > limits.linger_ns:
                    self._forget(link)
            elif link.state is not State.OPEN:
                if age_ns > limits.hello_ns:
                    self._close(
                        link,
                        "it does not answer" if link.dialled else "it called and did not greet",
                    )
            elif not link.paused and now_ns - link.last_heard_ns > limits.silent_ns:
                self._close(link, "it has fallen silent")
            elif now_ns - link.last_said_ns >= limits.alive_ns and not link.queued_bytes:
                self._say(link, ALIVE_FRAME)
        if self.own.build:
            for place, at_ns in [*self._retries.missing(self._by_peer)]:
                if now_ns >= at_ns:
                    self._dial(*place)
            self._look_for_callers()
        dialling = self._retries.missing(self._by_peer) if self.own.build else ()
        self._wake_ns = min([now_ns + limits.alive_ns // 2, *(at_ns for _, at_ns in dialling)])

    def _look_for_callers(self) -> None:
        for replica, missed_ns in self._missed_ns.items():
            if not missed_ns or self.is_linked(replica):
                self._missed_ns[replica] = self._now_ns
            elif self._now_ns - missed_ns > self.limits.absent_ns:
                sentence = (
                    f"Replica {replica} at {self.addresses[replica]} is missing: it has not called."
                )
                self._reports.tell(f"replica {replica}", sentence, self._now_ns, unless_told=True)
                self._missed_ns[replica] = self._now_ns

    # What is said

    def _key(self, link: Link, hello: Hello | None = None) -> str:
        if link.peer:
            return f"replica {link.peer}"
        if hello is not None and hello.cluster_id == self.own.cluster_id:
            return f"replica {hello.source}"
        return f"host {link.where}"

    def _tell_trouble(self, link: Link, clause: str) -> None:
        who = f"Replica {link.peer} at {link.where}" if link.peer else f"A caller from {link.where}"
        self._reports.tell(self._key(link), f"{who}: {clause.removesuffix('.')}.", self._now_ns)
