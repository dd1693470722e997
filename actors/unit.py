"""One unit: a command, a timer or a query, from its bytes to its answer.

How a unit ends:
- the handler returns: its sends are delivered, then its events and timers take effect, then comes
  the reply. An unencodable reply counts as an exception; one that is too large does not.
- `Rejected` before any output: a normal answer; an actor that came into being for it is forgotten.
- any other exception, or `Rejected` after an output or outside the direct handler: all outputs are
  dropped and every actor that the unit touched is quarantined.
- `Rejected` or an exception in a query is only its answer: a query runs on one replica.
MemoryError, and an interrupt from outside, are raised: the state is then unusable.

Order, sessions and digests are left to the machine.
"""
# This file runs handlers, so it sets the private fields of the context they see:
# pyright: reportPrivateUsage=false

from collections.abc import Callable
from typing import Any, NamedTuple

from . import _fold
from . import strict as strictly
from .app import ActorType, App, Route, decode_key, encode_body
from .context import CancelTimer, Context, Output, Send, SetTimer
from .errors import Rejected, StrictViolation
from .failure import Code, Undecodable, WrongReply, describe_error, encoded_text
from .fold import Quarantine, State
from .layout import HANDLER_WORDS, Status
from .limits import Limits
from .plain import plain
from .timers import Timer

OK = int(Status.OK)

# status, id of the reply's message, body
Answer = tuple[int, int, bytes]
Watch = Callable[[int], None]


class Lane(NamedTuple):
    """A route with the instances of its actor type at hand."""

    decode: Callable[[bytes], Any]
    instances: dict[bytes, Any]
    call: Callable[[Any, Any, Any], Any]
    replies: dict[type, int]
    actor: ActorType
    route: Route
    row: int
    """Of the handlers' figures."""


class Units:
    """Runs units against a state. What the C loop (fold.c) takes from here is public."""

    def __init__(
        self,
        app: App,
        state: State,
        limits: Limits,
        seed: int,
        strict: bool,
        position: memoryview,
        slots: _fold.Slots,
        watch: Watch | None,
        figures: memoryview | None = None,
    ) -> None:
        self._app = app
        self._state = state
        self._limits = limits
        self._reply_bytes_max = limits.reply_bytes_max
        self._strict = strict
        self._position = position
        self._slots = slots
        self._watch = watch
        self.context = Context(app, state, limits, seed, position)
        self.outputs: list[Output] = self.context._outputs
        self.quarantined = state.quarantined
        self.encode = encode_body
        # The actors that the running unit has sent to, and the method that runs, for a failure.
        self._touched: list[tuple[ActorType, bytes]] = []
        self._method = ""
        self.handlers = _fold.Handlers(figures)
        self._rows = _rows(app, figures)
        self._sends = self._lanes(app.commands)
        # What clients may send.
        self.commands = {
            id: lane for id, lane in self._sends.items() if not lane.route.method.internal
        }
        self._queries = self._lanes(app.queries)
        self._timers = self._lanes(app.timers)

    def begin_entry(self, index: int, time_ns: int) -> None:
        """The units that follow belong to this entry."""
        self.context._index = index
        self.context.time_ns = time_ns
        self._position[0] = index

    def run_command(self, ordinal: int, id: int, version: int, key: bytes, body: bytes) -> Answer:
        """Run a command from a client, all of it. What fold.c does is the same, less what is rare."""
        lane = self.commands.get(id)
        if lane is None:
            return Status.UNKNOWN_MESSAGE, 0, b"no actor takes message %d from a client" % id
        decode, instances, call, replies, actor, route, row = lane
        if self._watch is not None:
            self._watch(ordinal)
        self._position[1] = ordinal
        self._position[2] = id
        if version != route.versions.current:
            refusal = route.versions.refusal(version)
            if refusal is not None:
                return self._text(Status.BAD_REQUEST, refusal)
            decode = route.decoder(version)
        try:
            message = decode(body)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (a validator may raise anything)
            return self.refuse_body(error)
        instance = instances.get(key)
        if instance is None or self._state.quarantined:
            refusal = self._refusal(actor, key)
            if refusal is not None:
                return refusal
        context = self.context
        context._actor = actor
        context._key = key
        before = strictly.encoded(actor, key, instance) if self._strict else b""
        created = instance is None
        try:
            if created:
                instance = self._create(actor, key)
            result: object = self.handlers.call(row, call, instance, message, context)
            reply_id = replies.get(type(result))
            if reply_id is None:
                raise WrongReply(f"returned {type(result).__name__}, which it does not promise")
            # Before the sends, which may change what the reply refers to.
            text = encode_body(result) if reply_id else b""
            if self.outputs:
                self.commit()
        except (MemoryError, KeyboardInterrupt, StrictViolation):
            raise
        except BaseException as error:  # noqa: BLE001 (the handler's, whatever it is)
            return self._end(error, lane, key, created, before)
        if self._strict:
            strictly.check_unit(self._app, self._state, (actor, key), self._touched, result)
            self._touched.clear()
        if len(text) > self._reply_bytes_max:
            return Status.REPLY_TOO_LARGE, 0, b"the reply has %d bytes" % len(text)
        return OK, reply_id, text

    def run_timer(self, ordinal: int, timer: Timer) -> None:
        """Run a timer's method. Nobody is answered; a failure shows as a quarantine."""
        actor = self._app.actor_types[timer.actor_type]
        key = timer.key
        if (actor.id, key) in self._state.quarantined:
            return
        lane = self._timers[timer.message_id]
        if self._watch is not None:
            self._watch(ordinal)
        self._position[1] = ordinal
        self._position[2] = timer.message_id
        context = self.context
        context._actor = actor
        context._key = key
        try:
            instance = lane.instances[key]
            message = self._decode(lane, timer.body)
            result = self.handlers.call(lane.row, lane.call, instance, message, context)
            if result is not None:
                raise WrongReply(f"returned {type(result).__name__}; a timer returns None")
            if self.outputs:
                self.commit()
        except (MemoryError, KeyboardInterrupt, StrictViolation):
            raise
        except BaseException as error:  # noqa: BLE001 (the handler's, whatever it is)
            code = Code.REJECTED_INSIDE if isinstance(error, Rejected) else None
            self._fail(error, lane, key, code)
            return
        if self._strict:
            strictly.check_unit(self._app, self._state, (actor, key), self._touched, None)
            self._touched.clear()

    def run_query(self, id: int, version: int, key: bytes, body: bytes) -> Answer:
        """Run a query on the state as it is."""
        lane = self._queries.get(id)
        if lane is None:
            return Status.UNKNOWN_MESSAGE, 0, b"no actor takes message %d as a query" % id
        actor = lane.actor
        refusal = lane.route.versions.refusal(version)
        if refusal is not None:
            return self._text(Status.BAD_REQUEST, refusal)
        try:
            message = lane.route.decoder(version)(body)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (a validator may raise anything)
            return self.refuse_body(error)
        instance = lane.instances.get(key)
        if instance is None:
            return Status.NO_SUCH_ACTOR, 0, b"no command has reached this actor"
        quarantine = self._state.quarantined.get((actor.id, key))
        if quarantine is not None:
            return self._text(Status.QUARANTINED, quarantine)
        before = strictly.encoded(actor, key, instance) if self._strict else b""
        answer = self._answer_query(lane, instance, message, key)
        if self._strict and strictly.encoded(actor, key, instance) != before:
            raise StrictViolation(f"{lane.route.method.name} is a query and changed its actor")
        return answer

    def _answer_query(self, lane: Lane, instance: Any, message: Any, key: bytes) -> Answer:
        context = self.context
        context._actor = lane.actor
        context._key = key
        context._mode = "query"
        try:
            result: object = self.handlers.call(lane.row, lane.call, instance, message, context)
            reply_id = lane.replies.get(type(result))
            if reply_id is None:
                raise WrongReply(f"returned {type(result).__name__}, which it does not promise")
            text = encode_body(result) if reply_id else b""
        except Rejected as rejected:
            return self._text(Status.REJECTED, rejected.reason)
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 (the handler's, whatever it is)
            name = lane.route.method.name
            return self._text(Status.FAILED, f"{Code.RAISED} {name}: {describe_error(error)}")
        finally:
            context._mode = "handler"
        if len(text) > self._limits.reply_bytes_max:
            return Status.REPLY_TOO_LARGE, 0, b"the answer has %d bytes" % len(text)
        return OK, reply_id, text

    # Actors

    def lanes(self) -> dict[int, tuple[Any, ...]]:
        """What fold.c needs of `commands`."""
        return {
            id: (
                *lane[:5],
                lane.actor.id,
                lane.route.versions.current,
                lane.row,
                plain(lane.route.message),
                {reply: plain(reply) for reply in lane.replies},
            )
            for id, lane in self.commands.items()
        }

    def _lanes(self, routes: dict[int, Route]) -> dict[int, Lane]:
        lanes: dict[int, Lane] = {}
        for id, route in routes.items():
            instances = self._state.actors.setdefault(route.actor.id, {})
            lanes[id] = Lane(
                route.decode,
                instances,
                route.call,
                route.replies,
                route.actor,
                route,
                self._rows[id],
            )
        return lanes

    def _refusal(self, actor: ActorType, key: bytes) -> Answer | None:
        """Why a command may not reach this actor: quarantined, or it cannot come into being."""
        quarantine = self._state.quarantined.get((actor.id, key))
        if quarantine is not None:
            return self._text(Status.QUARANTINED, quarantine)
        if key in self._state.actors[actor.id]:
            return None
        if len(key) > self._limits.key_bytes_max:
            return self._text(Status.BAD_REQUEST, "the key is too long")
        try:
            decode_key(actor.key, key)
        except ValueError as error:
            return self._text(Status.BAD_REQUEST, describe_error(error))
        if self._state.actors_count >= self._limits.actors_max:
            return self._text(Status.TOO_MANY_ACTORS, "there are too many actors")
        return None

    def _create(self, actor: ActorType, key: bytes) -> Any:
        instance = actor.cls()
        self._state.actors[actor.id][key] = instance
        self._state.actors_count += 1
        return instance

    # Outputs

    def commit(self) -> None:
        """Deliver the sends, and what they send, in order; then let events and timers happen."""
        outputs = self.outputs
        for output in outputs:  # It grows while it is walked.
            if type(output) is Send:
                self._deliver(output)
        number = 0
        for output in outputs:
            if type(output) is tuple:
                number += 1
                self._emit(*output, number)
            elif type(output) is SetTimer:
                self._state.timers.set(
                    Timer(
                        output.id,
                        output.deadline_ns,
                        output.actor_type,
                        output.key,
                        output.message_id,
                        output.body,
                    )
                )
            elif type(output) is CancelTimer:
                self._state.timers.cancel(output.id, output.actor_type, output.key)
        outputs.clear()
        if not self._strict:
            self._touched.clear()
        self.context._depth = 0
        self._method = ""

    def _deliver(self, send: Send) -> None:
        lane = self._sends[send.route.message_id]
        actor = lane.actor
        self._method = lane.route.method.name
        self._touched.append((actor, send.key))
        instance = lane.instances.get(send.key)
        if instance is None:
            instance = self._create(actor, send.key)
        context = self.context
        context._actor = actor
        context._key = send.key
        context._depth = send.depth
        message = self._decode(lane, send.body)
        result = self.handlers.call(lane.row, lane.call, instance, message, context)
        if type(result) not in lane.replies:
            raise WrongReply(f"returned {type(result).__name__}, which it does not promise")

    def _emit(self, actor_type: int, key: bytes, id: int, body: bytes, number: int) -> None:
        if self._strict:
            strictly.check_decodes(self._app, id, body)
        position = (self.context._index, self._position[1], number)
        version = self._app.versions.get(id, 0)
        time_ns, kept = self.context.time_ns, self._state.events.kept
        _fold.put_event(self._slots, kept, position, actor_type, key, id, version, time_ns, body)

    def _decode(self, lane: Lane, body: bytes) -> Any:
        try:
            return lane.decode(body)
        except MemoryError:
            raise
        except Exception as error:
            name = lane.route.message.__qualname__
            raise Undecodable(f"{name} was sent with a wrong value: {error}") from error

    # Failures

    def refuse_body(self, error: BaseException) -> Answer:
        """The answer to a command or query whose body does not decode."""
        return self._text(Status.BAD_REQUEST, describe_error(error))

    def wrong_reply(self, result: object) -> None:
        """Raise for what a handler returned."""
        raise WrongReply(f"returned {type(result).__name__}, which it does not promise")

    def end_command(self, error: BaseException, id: int, key: bytes) -> Answer:
        """The answer to a command whose handler, or what came after it, raised."""
        if isinstance(error, (MemoryError, KeyboardInterrupt, StrictViolation)):
            raise error
        return self._end(error, self.commands[id], key, False, b"")

    def _end(
        self, error: BaseException, lane: Lane, key: bytes, created: bool, before: bytes
    ) -> Answer:
        """The answer to a command whose unit raised."""
        if not isinstance(error, Rejected):
            return self._fail(error, lane, key, None)
        if self._method:
            return self._fail(error, lane, key, Code.REJECTED_INSIDE)
        if self.outputs:
            return self._fail(error, lane, key, Code.REJECTED_LATE)
        if key not in lane.instances:  # A default of the class rejected.
            return self._fail(error, lane, key, Code.RAISED)
        actor = lane.actor
        if self._strict:
            instance = lane.instances[key]
            old = before if not created else strictly.encoded(actor, key, actor.cls())
            if strictly.encoded(actor, key, instance) != old:
                raise StrictViolation(f"{lane.route.method.name} changed its actor, then rejected")
        if created:
            del lane.instances[key]
            self._state.actors_count -= 1
        return self._text(Status.REJECTED, error.reason)

    def _fail(self, error: BaseException, lane: Lane, key: bytes, code: Code | None) -> Answer:
        """Drop the outputs and quarantine every actor that the unit touched."""
        if code is None:
            code = CODES.get(type(error), Code.RAISED)
        context = self.context
        name = self._method or lane.route.method.name
        quarantine = Quarantine(
            context._index, self._position[1], str(code), name, describe_error(error)
        )
        for actor, touched in [(lane.actor, key), *self._touched]:
            self._state.quarantined.setdefault((actor.id, touched), quarantine)
        self.outputs.clear()
        self._touched.clear()
        self._method = ""
        context._depth = 0
        return self._text(Status.FAILED, quarantine)

    def _text(self, status: Status, text: object) -> Answer:
        return status, 0, encoded_text(text, self._limits.reason_bytes_max)


CODES: dict[type[BaseException], Code] = {
    WrongReply: Code.WRONG_REPLY,
    Undecodable: Code.UNDECODABLE,
}


def _rows(app: App, figures: memoryview | None) -> dict[int, int]:
    """The row of each message that a handler takes; those that find none of their own share the last, which has no id."""
    ids = sorted({*app.commands, *app.queries, *app.timers})
    if figures is None:
        return dict.fromkeys(ids, 0)
    rows = len(figures) // HANDLER_WORDS
    for row, id in enumerate(ids[:rows]):
        figures[row * HANDLER_WORDS] = id
    if len(ids) > rows:
        figures[(rows - 1) * HANDLER_WORDS] = 0
    return {id: min(row, rows - 1) for row, id in enumerate(ids)}
