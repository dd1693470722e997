"""Restoring: a state out of the content of a snapshot, chunk by chunk.

Nothing of the content is kept once its record is in the state. What the App lacks is refused by the
header, before anything is restored; whatever else is missing, changed or out of place, and whatever
does not decode, is SnapshotRefused too. Actors of an older version are lifted to the App's. Garbage
collection rests meanwhile: a million new objects would be walked again and again for nothing.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from attrs import Factory, define, evolve

from . import content, parts
from .app import App, encode_body
from .compatibility import of_stored
from .content import Header, HeldTimer, HeldType, Kind
from .errors import SnapshotRefused
from .fold import State
from .limits import Limits
from .snapshot import empty, named
from .stored import StoredType

Warn = Callable[[str], None]


def read(
    app: App, limits: Limits, seed: int, chunks: Iterable[bytes], warn: Warn | None = None
) -> State:
    """The state; SnapshotRefused if anything is missing, changed or unknown.

    `warn` is told, before any actor is read, what of them is lost or read otherwise under the App.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        reading = Reading(app, seed, empty(limits), warn)
        reading.read(chunks)
        return reading.state
    finally:
        if collecting:
            gc.enable()


@define(eq=False)
class Older:
    """A record of actors of an older version, whose parts may follow."""

    stored: StoredType
    version: int
    keys: list[bytes]
    states: dict[bytes, dict[str, Any]]


@define(eq=False)
class Reading:
    """One pass over a stream."""

    app: App
    seed: int
    state: State
    warn: Warn | None = None
    # The versions of the messages in timers, by message id.
    _timer_versions: dict[int, int] = Factory(dict[int, int])
    # How many actors were to come, by type.
    _counts: dict[int, int] = Factory(dict[int, int])
    _types: dict[int, StoredType] = Factory(dict[int, StoredType])
    _older: Older | None = None

    def read(self, chunks: Iterable[bytes]) -> None:
        """Take all records, and see that they are all."""
        takers = {
            Kind.HEADER: self._header,
            Kind.ACTORS: self._actors,
            Kind.PART: self._part,
            Kind.QUARANTINES: self._quarantines,
            Kind.SESSIONS: self._sessions,
            Kind.TIMERS: self._timers,
            Kind.EVENTS: self._events,
            Kind.END: self._end,
        }
        digest = content.Digest()
        last = 0
        for kind, whole, payload in content.split(chunks):
            number = digest.records + 1
            if last == Kind.END:
                raise SnapshotRefused("the snapshot goes on after its end")
            if (kind == Kind.HEADER) != (number == 1):
                raise SnapshotRefused("the snapshot does not begin with its header")
            if not Kind.HEADER <= kind <= Kind.END:
                raise SnapshotRefused(
                    f"record {number} of the snapshot has the unknown kind {kind}"
                )
            if kind < last and (last, kind) != (Kind.PART, Kind.ACTORS):
                raise SnapshotRefused(f"record {number} of the snapshot is out of its order")
            last = kind
            if kind == Kind.END and bytes(payload) != digest.end():
                raise SnapshotRefused("the snapshot's digest does not fit its records")
            digest.add(whole)
            try:
                if self._older is not None and kind != Kind.PART:
                    self._lift()
                takers[Kind(kind)](payload)
            except (SnapshotRefused, MemoryError):
                raise
            except Exception as error:
                # The application's classes may raise anything when they are made.
                raise SnapshotRefused(
                    f"record {number} of the snapshot, {Kind(kind).name}: {error}"
                ) from error
        if last != Kind.END:
            raise SnapshotRefused("the snapshot has no end")

    # One method for each kind of record

    def _header(self, payload: memoryview) -> None:
        header = content.decode_header(payload)
        for warning in check_fits(self.app, header):
            if self.warn is not None:
                self.warn(warning)
        if header.seed != self.seed:
            raise SnapshotRefused("the snapshot was made with another seed")
        state = self.state
        state.index = header.index
        state.time_ns = header.time_ns
        state.jumps_ns = header.jumps_ns
        state.digest = header.digest
        state.timers.next_id = header.next_timer_id
        state.events.floor = header.events_floor
        self._timer_versions = {id: held.version for id, held in header.timers.items()}
        self._counts = {id: held.actors for id, held in header.actor_types.items()}

    def _actors(self, payload: memoryview) -> None:
        id, version, count, keys_bytes = content.ACTORS.unpack_from(payload)
        stored = self._type(id)
        states_at = content.ACTORS.size + keys_bytes
        keys = content.decode_keys(payload[content.ACTORS.size : states_at])
        if version == stored.version:
            states = self._decoded(stored, version, keys, payload[states_at:])
        else:
            states = msgspec.msgpack.decode(payload[states_at:], type=list[dict[str, Any]])
            self._older = Older(stored, version, keys, dict(zip(keys, states, strict=True)))
        instances = self.state.actors.setdefault(id, {})
        before = len(instances)
        # Those of an older version hold their place, and are put there when they are whole.
        instances.update(zip(keys, states, strict=True))
        if not len(keys) == count == len(instances) - before:
            raise ValueError(f"{count} actors were to come")
        self.state.actors_count += count

    def _part(self, payload: memoryview) -> None:
        id, version, count, key_bytes, path_bytes, keys_bytes = content.PART.unpack_from(payload)
        stored = self._type(id)
        path_at = content.PART.size + key_bytes
        keys_at = path_at + path_bytes
        values_at = keys_at + keys_bytes
        key = bytes(payload[content.PART.size : path_at])
        path = bytes(payload[path_at:keys_at]).decode()
        if version != stored.version:
            if self._older is None:
                raise ValueError("a part without its actor")
            container = parts.find_untyped(self._older.states[key], path)
            decode, decode_keys = msgspec.msgpack.decode, parts.decode_untyped_keys
        else:
            place = next((cut for cut in stored.cuts if cut.path == path), None)
            if place is None:
                # As with any field that the class has no longer.
                return
            decode, decode_keys = place.decode, place.decode_keys
            container = place.find(self.state.actors[id][key])
        values = decode(payload[values_at:])
        parts.append(container, decode_keys(payload[keys_at:values_at]), values)
        if len(values) != count:
            raise ValueError(f"{count} items were to come")

    def _quarantines(self, payload: memoryview) -> None:
        for found in content.decode_quarantines(payload):
            self.state.quarantined[found.actor_type, found.key] = found.quarantine

    def _sessions(self, payload: memoryview) -> None:
        for id, last, floor, active_ns, replies in content.decode_sessions(payload):
            self.state.sessions.restore(id, last, floor, active_ns, replies)

    def _timers(self, payload: memoryview) -> None:
        for timer in content.decode_timers(payload):
            version = self._timer_versions[timer.message_id]
            if version != self.app.versions.get(timer.message_id, 0):
                body = self.app.lift(timer.message_id, version, timer.body)
                timer = evolve(timer, body=body)
            self.state.timers.restore(timer)

    def _events(self, payload: memoryview) -> None:
        for slot in content.decode_events(payload):
            self.state.events.keep(slot)

    def _end(self, _: memoryview) -> None:
        for id, count in self._counts.items():
            if len(self.state.actors.get(id, ())) != count:
                raise ValueError(f"{count} actors of type {id} were to come")

    # Actors

    def _type(self, id: int) -> StoredType:
        found = self._types.get(id)
        if found is None:
            found = self._types[id] = StoredType(self.app.actor_types[id])
        return found

    def _decoded(
        self, stored: StoredType, version: int, keys: list[bytes], payload: bytes | memoryview
    ) -> list[Any]:
        """The states of a record; SnapshotRefused names the one that does not fit its class."""
        try:
            return stored.decode(version, payload)
        except MemoryError:
            raise
        except Exception as error:
            for key, state in zip(keys, msgspec.msgpack.decode(payload), strict=True):
                try:
                    stored.decode(version, encode_body([state]))
                except Exception as first:
                    raise SnapshotRefused(
                        f"the snapshot's {named(stored.actor, key)} (version {version}) does not "
                        f"fit the class (version {stored.version}): {first}"
                    ) from first
            raise SnapshotRefused(f"actors of type {stored.actor.name}: {error}") from error

    def _lift(self) -> None:
        """Put the actors of an older version in their places."""
        older, self._older = self._older, None
        assert older is not None
        payload = encode_body(list(older.states.values()))
        states = self._decoded(older.stored, older.version, older.keys, payload)
        instances = self.state.actors[older.stored.actor.id]
        instances.update(zip(older.keys, states, strict=True))


def check_fits(app: App, header: Header) -> list[str]:
    """Refuse a snapshot of which the App lacks or misreads something; the text names all of it.

    What is returned are warnings: it can be read, and something is lost or may be refused.
    """
    refusals = [
        *(_actor_refusal(app, id, held) for id, held in header.actor_types.items()),
        *(_timer_refusal(app, id, held) for id, held in header.timers.items()),
    ]
    found = [refusal for refusal in refusals if refusal is not None]
    warnings: list[str] = []
    if not found and header.schema != app.schema_json():
        try:
            stored = of_stored(header.schema, app.schema(), header.actor_types, header.timers)
        except ValueError as error:
            found = [f"the schema in it: {error}"]
        else:
            found = [one.sentence for one in stored if one.breaks]
            warnings = [one.sentence for one in stored if not one.breaks]
    if found:
        raise SnapshotRefused("; ".join(sentence.removesuffix(".") for sentence in found))
    return warnings


def _actor_refusal(app: App, id: int, held: HeldType) -> str | None:
    """Why the App cannot take these actors."""
    actor = app.actor_types.get(id)
    where = f"the snapshot holds {held.actors} actors of type {id} ({held.name})"
    if actor is None:
        return f"{where}, which App {app.name!r} lacks: start an App that has it"
    if actor.key.__name__ != held.key:
        return (
            f"{where} with keys of type {held.key}, and {actor.name} has keys of type "
            f"{actor.key.__name__}: the type of a key cannot change"
        )
    refusal = actor.versions.refusal(held.version)
    return None if refusal is None else f"{where}: {refusal}"


def _timer_refusal(app: App, id: int, held: HeldTimer) -> str | None:
    """Why the App cannot take these timers."""
    where = f"the snapshot holds a timer with message {id} ({held.name})"
    route = app.timers.get(id)
    if route is None or route.actor.id != held.actor_type:
        return (
            f"{where}, which no @on_timer method of actor type {held.actor_type} takes: start an "
            "App that has one"
        )
    refusal = route.versions.refusal(held.version)
    return None if refusal is None else f"{where}: {refusal}"
