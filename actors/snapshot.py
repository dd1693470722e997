"""Writing snapshots: a machine's state as the stream that content.py lays out.

Actors are encoded many at a time, large dicts and lists within them in parts, so that a writer
needs little memory beside the state. With `verify` each record is decoded at once, by the code that
restores it, encoded again and compared: bytes with bytes, and live values with decoded ones in
type and identity. What would not come back is refused, by actor, key and field. A quarantined actor
that would not come back is written as a fresh one, with or without `verify`: no handler will see it
again, and its quarantine is what counts.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import Factory, define

from . import content, fidelity, parts
from .app import ActorType, App, decode_key, encode_body
from .batch import cut
from .content import Kind
from .errors import StateNotEncodable
from .events import Events
from .fold import State
from .limits import Limits
from .sessions import Sessions
from .stored import StoredType


def empty(limits: Limits) -> State:
    """The state before the first entry."""
    return State(
        sessions=Sessions(limits.sessions_max, limits.session_timeout_ns),
        events=Events(limits.events_kept_max, limits.events_kept_bytes_max),
    )


def write(app: App, state: State, seed: int, *, chunk_bytes: int, verify: bool) -> Iterator[bytes]:
    """The chunks, each of exactly `chunk_bytes` but the last. StateNotEncodable names an actor."""
    buffer = bytearray()
    digest = content.Digest()
    for record in Writing(app, state, seed, verify).records():
        digest.add(record)
        buffer += record
        while len(buffer) >= chunk_bytes:
            yield bytes(buffer[:chunk_bytes])
            del buffer[:chunk_bytes]
    buffer += content.record(Kind.END, digest.end())
    for start in range(0, len(buffer), chunk_bytes):
        yield bytes(buffer[start : start + chunk_bytes])


def digest(app: App, state: State, seed: int) -> bytes:
    """BLAKE2b over the records of the state."""
    found = content.Digest()
    for record in Writing(app, state, seed, False).records():
        found.add(record)
    return found.value()


@define(eq=False)
class Actors:
    """A run of actors of one type, encoded."""

    keys: list[bytes]
    # As written: some stand in for actors with parts, or for quarantined ones.
    states: list[Any]
    cuts: list[tuple[bytes, parts.Cut, parts.Container]]
    encoded_keys: bytes
    payload: bytes


@define(eq=False)
class Items:
    """A run of anything else, encoded."""

    payload: bytes


@define(eq=False)
class Writing:
    """One pass over a state; see the file's text."""

    app: App
    state: State
    seed: int
    verify: bool
    # Mutable objects that may be held twice, over all actors.
    seen: fidelity.Seen = Factory(fidelity.Seen)

    def records(self) -> Iterator[bytes]:
        """Everything but the end."""
        state = self.state
        yield self._header()
        for id in sorted(state.actors):
            if state.actors[id]:
                yield from self._actors(StoredType(self.app.actor_types[id]), state.actors[id])
        quarantines = (content.Quarantined(*at, q) for at, q in state.quarantined.items())
        yield from self._items(Kind.QUARANTINES, quarantines, content.decode_quarantines)
        sessions = ((s.id, s.last, s.floor, s.active_ns, s.replies) for s in state.sessions)
        yield from self._items(Kind.SESSIONS, sessions, content.decode_sessions)
        yield from self._items(Kind.TIMERS, state.timers.by_id.values(), content.decode_timers)
        yield from self._items(Kind.EVENTS, state.events.all(), content.decode_events)

    def _header(self) -> bytes:
        state, app = self.state, self.app
        counts = {id: len(found) for id, found in state.actors.items() if found}
        for id, _ in state.quarantined:
            counts.setdefault(id, 0)
        types: dict[int, content.HeldType] = {}
        for id in sorted(counts):
            actor = app.actor_types[id]
            version = StoredType(actor).version
            types[id] = content.HeldType(actor.name, actor.key.__name__, version, counts[id])
        waiting = {(t.message_id, t.actor_type) for t in state.timers.by_id.values()}
        timers = {
            id: content.HeldTimer(
                app.messages[id].__qualname__, actor_type, app.versions.get(id, 0)
            )
            for id, actor_type in sorted(waiting)
        }
        header = content.Header(
            app.name,
            self.seed,
            state.index,
            state.time_ns,
            state.jumps_ns,
            state.digest,
            state.timers.next_id,
            state.events.floor,
            types,
            timers,
            app.schema_json(),
        )
        payload = content.encode_header(header)
        assert not self.verify or content.decode_header(payload) == header
        return content.record(Kind.HEADER, payload)

    def _items(self, kind: Kind, items: Iterable[Any], decode: Any) -> Iterator[bytes]:
        """The records of what is not an actor."""

        def encode(batch: list[Any]) -> Items:
            return Items(encode_body(batch))

        for piece in cut((items,), encode):
            payload = piece.payload
            # These classes are ours, and so is the bug if one does not come back.
            assert not self.verify or encode_body(decode(payload)) == payload, kind
            yield content.record(kind, payload)

    # Actors

    def _actors(self, stored: StoredType, instances: dict[bytes, Any]) -> Iterator[bytes]:
        """The records of one type, each followed by the parts of its actors."""
        actor = stored.actor
        quarantined = {key for id, key in self.state.quarantined if id == actor.id}

        def encode(keys: list[bytes], states: list[Any]) -> Actors:
            return self._encode(stored, keys, states, quarantined)

        for found in cut((instances.keys(), instances.values()), encode):
            if self.verify:
                self._verify(stored, found)
            head = content.ACTORS.pack(
                actor.id, stored.version, len(found.keys), len(found.encoded_keys)
            )
            yield content.record(Kind.ACTORS, head, found.encoded_keys, found.payload)
            for key, place, container in found.cuts:
                yield from self._parts(stored, key, place, container, instances[key])

    def _encode(
        self, stored: StoredType, keys: list[bytes], states: list[Any], quarantined: set[bytes]
    ) -> Actors:
        replaced: dict[int, Any] = {}
        cuts: list[tuple[bytes, parts.Cut, parts.Container]] = []
        if quarantined or stored.cuts:
            for number, (key, instance) in enumerate(zip(keys, states, strict=True)):
                if key in quarantined and not comes_back(stored, instance):
                    replaced[number] = stored.actor.cls()
                elif found := stored.large(instance):
                    cuts += [(key, place, held) for place, held in found]
                    paths = [place.path for place, _ in found]
                    replaced[number] = parts.stand_in(instance, paths)
        if replaced:
            states = [replaced.get(number, state) for number, state in enumerate(states)]
        try:
            payload = encode_body(states)
        except MemoryError:
            raise
        except Exception as error:
            raise self._refusal(stored, keys, states, error) from error
        return Actors(keys, states, cuts, encode_body(keys), payload)

    def _verify(self, stored: StoredType, found: Actors) -> None:
        """Refuse a record that would not come back as it is."""
        try:
            decoded = stored.decode(stored.version, found.payload)
            same = (
                encode_body(decoded) == found.payload
                and content.decode_keys(found.encoded_keys) == found.keys
                and fidelity.alike(found.states, decoded, self.seen)
            )
        except MemoryError:
            raise
        except Exception as error:
            raise self._refusal(stored, found.keys, found.states, error) from error
        if not same:
            raise self._refusal(stored, found.keys, found.states, None)

    def _parts(
        self,
        stored: StoredType,
        key: bytes,
        place: parts.Cut,
        container: parts.Container,
        instance: Any,
    ) -> Iterator[bytes]:
        """The records of one large container."""

        def encode(*run: list[Any]) -> parts.Part:
            try:
                return parts.encode_part(*run)
            except MemoryError:
                raise
            except Exception as error:
                raise self._refusal(stored, [key], [instance], error) from error

        path = place.path.encode()
        for part in cut(parts.columns(container), encode):
            if self.verify:
                self._verify_part(stored, key, place, part, instance)
            head = content.PART.pack(
                stored.actor.id,
                stored.version,
                len(part.values),
                len(key),
                len(path),
                len(part.encoded_keys),
            )
            yield content.record(Kind.PART, head, key, path, part.encoded_keys, part.payload)

    def _verify_part(
        self, stored: StoredType, key: bytes, place: parts.Cut, part: parts.Part, instance: Any
    ) -> None:
        try:
            keys, values = place.decode_keys(part.encoded_keys), place.decode(part.payload)
            same = (
                encode_body(keys) == part.encoded_keys
                and encode_body(values) == part.payload
                and fidelity.alike(part.keys, keys, self.seen)
                and fidelity.alike(part.values, values, self.seen)
            )
        except MemoryError:
            raise
        except Exception as error:
            raise self._refusal(stored, [key], [instance], error) from error
        if not same:
            raise self._refusal(stored, [key], [instance], None)

    def _refusal(
        self, stored: StoredType, keys: list[bytes], states: list[Any], error: Exception | None
    ) -> StateNotEncodable:
        """What to say of these actors, one of which would not come back."""
        actor = stored.actor
        found = None
        for key, instance in zip(keys, states, strict=True):
            found = trouble(actor, named(actor, key), instance)
            if found is not None:
                break
        else:
            found = f"{actor.name}: {error}" if error is not None else self._shared()
        return StateNotEncodable(
            f"no snapshot can hold the state: {found}; correct the handler that put it there, and replace the value by a "
            "command or fold the log again with the corrected code"
        )

    def _shared(self) -> str:
        """Which two actors hold one object."""
        places: dict[int, str] = {}
        for id, instances in sorted(self.state.actors.items()):
            actor = self.app.actor_types[id]
            for key, instance in instances.items():
                found = fidelity.shared(instance, named(actor, key), places)
                if found is not None:
                    return found
        raise AssertionError("a record does not come back, and each value in it does")


def named(actor: ActorType, key: bytes) -> str:
    """An actor in a sentence."""
    return f"{actor.name} {decode_key(actor.key, key)!r}"


def trouble(actor: ActorType, name: str, instance: Any) -> str | None:
    """What in this actor would not come back; None if all would."""
    try:
        return fidelity.fault(actor.cls, instance, name) or fidelity.shared(instance, name, {})
    except RecursionError:
        return f"{name} holds itself"


def comes_back(stored: StoredType, instance: Any) -> bool:
    """Whether one actor comes back from its bytes as it is."""
    try:
        payload = encode_body([instance])
        decoded = stored.decode(stored.version, payload)
        return encode_body(decoded) == payload and fidelity.alike(
            [instance], decoded, fidelity.Seen()
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (whatever the handler left behind)
        return False
