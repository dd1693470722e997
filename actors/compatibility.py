"""Compatibility: what a change of the schema does to what was written before it.

`compare(old, new)` names every message and actor type whose old bytes the new classes would refuse
or read as something else (`breaks`), and what is lost or answered differently without being refused
(a warning). Old bytes are in logs, snapshots, kept replies and events, and come from old clients.

Within one version, fields are compared as reading.py says. Between two versions stand the upcasters,
which are code: all that is compared is that there are some.
"""

from collections.abc import Collection, Iterator

import msgspec
from attrs import frozen

from .reading import Fault, Reading, Schema
from .schema import FORMAT


@frozen
class Incompatibility:
    """One thing that a change does."""

    # "message" or "actor"
    kind: str
    id: int
    # Old bytes are refused or read as something else; otherwise it is a warning.
    breaks: bool
    sentence: str


def compare(old: Schema, new: Schema) -> list[Incompatibility]:
    """Everything that the change from the old schema does, actors first, by id."""
    found: list[Incompatibility] = []
    for kind, table, rules in (("actor", "actors", _actor), ("message", "messages", _message)):
        for id in sorted(old[table], key=int):
            was, now = old[table][id], new[table].get(id)
            for fault in rules(Reading(old, new), was, now):
                remedy = f"; {fault.remedy}" if fault.remedy else ""
                sentence = f"{was['name']} ({kind} {id}): {fault.what}{remedy}."
                found.append(Incompatibility(kind, int(id), fault.breaks, sentence))
        found += _revived(old, new, kind, table)
    return found


def of_stored(
    written: bytes, new: Schema, actors: Collection[int], messages: Collection[int]
) -> list[Incompatibility]:
    """What code with the new schema does to these types, of which something is stored.

    It goes by the types, not by the values: one may decode, and be read as something else.
    """
    held = {"actor": actors, "message": messages}
    found = compare(decode_schema(written), new)
    return [one for one in found if one.id in held[one.kind]]


def _revived(old: Schema, new: Schema, kind: str, table: str) -> Iterator[Incompatibility]:
    """Ids that were given up, and belong to another class now."""
    for id, name in sorted(retired(old)[table].items(), key=lambda item: int(item[0])):
        now = new[table].get(id)
        if now is not None and now["name"] != name:
            sentence = (
                f"{now['name']} ({kind} {id}): the id was {name}'s, which is gone, and what is "
                "stored may still hold it; take an id that was never used."
            )
            yield Incompatibility(kind, int(id), True, sentence)


def retired(schema: Schema) -> dict[str, dict[str, str]]:
    """The ids that a kept schema says are given up, with the names of their classes."""
    found = schema.get("retired", {})
    return {table: dict(found.get(table, {})) for table in ("messages", "actors")}


def kept(old: Schema | None, new: Schema) -> Schema:
    """The new schema as it is to be kept: it remembers the ids that were given up."""
    if old is None:
        return new
    gone = retired(old)
    for table, names in gone.items():
        names |= {id: was["name"] for id, was in old[table].items()}
        gone[table] = {id: name for id, name in names.items() if id not in new[table]}
    return new | {"retired": gone} if any(gone.values()) else new


def _message(reading: Reading, was: Schema, now: Schema | None) -> Iterator[Fault]:
    taken = was.get("taken")
    if now is None:
        yield _message_gone(was, taken)
        return
    yield from _versions_and_fields(reading, was, now)
    if taken is None:
        if now["version"] > was["version"]:
            yield Fault(
                f"its version rises to {now['version']}, and clients with the old code cannot read it",
                False,
                "give them the newer code first",
            )
        return
    present = now.get("taken")
    if present is None:
        yield Fault(
            "no method takes it any more",
            taken["kind"] != "query",
            f"keep {taken['method']}; it may raise Rejected",
        )
        return
    if present["actor"] != taken["actor"]:
        yield Fault(
            f"it went to {taken['method']} (actor {taken['actor']}) and goes to {present['method']} "
            f"(actor {present['actor']}), whose keys and state are others",
            remedy="give the new one a message of its own",
        )
    if present["kind"] != taken["kind"]:
        yield Fault(
            f"a {taken['kind']} took it and a {present['kind']} takes it",
            remedy="give the new one a message of its own",
        )
    if present["internal"] and not taken["internal"]:
        yield Fault(
            "clients may not send it any more, and logs hold it from clients",
            remedy="keep it as it was, and send a message of its own internally",
        )
    for id in was["replies"]:
        if id not in now["replies"]:
            name = _reply(reading.old, id)
            yield Fault(f"it promises no {name} any more, and kept replies may hold one", False)
    for id in now["replies"]:
        if id not in was["replies"]:
            name = _reply(reading.new, id)
            yield Fault(f"it may be answered with {name}, which old clients do not expect", False)


def _message_gone(was: Schema, taken: Schema | None) -> Fault:
    match taken and taken["kind"]:
        case "handler":
            return Fault(
                "it is gone, and logs may hold it and clients send it",
                remedy="keep the class and its handler, which may raise Rejected",
            )
        case "on_timer":
            return Fault(
                "it is gone, and timers in snapshots may hold it",
                remedy="keep the class and its method, which may do nothing",
            )
        case "query":
            return Fault("it is gone, and old clients that ask it are refused", False)
        case _:
            return Fault("it is gone, and kept replies and events may hold it", False)


def _reply(schema: Schema, id: int) -> str:
    return schema["messages"][str(id)]["name"] if id else "None"


def _actor(reading: Reading, was: Schema, now: Schema | None) -> Iterator[Fault]:
    if now is None:
        yield Fault(
            "it is gone, and snapshots may hold actors of it",
            remedy="keep the class, with its fields and one handler",
        )
        return
    if now["key"] != was["key"]:
        yield Fault(
            f"its keys were {was['key']} and are {now['key']}",
            remedy="give the type with the new keys an id of its own",
        )
    yield from _versions_and_fields(reading, was, now)


def _versions_and_fields(reading: Reading, was: Schema, now: Schema) -> Iterator[Fault]:
    name, version = now["name"], was["version"]
    is_renamed = name != was["name"]
    if now["version"] == version:
        faults = list(reading.fields(was, now, name))
        if is_renamed and faults:
            yield Fault(
                f"its id is {name}'s now",
                remedy=f"give {name} an id that was never used, and keep {was['name']}",
            )
            return
        lift = (
            f"raise the version to {version + 1} and lift version {version} with "
            f"@upcast(from_version={version})"
        )
        for fault in faults:
            remedy = f"{fault.remedy} {lift}" if fault.remedy else lift
            hooked = not fault.breaks and not fault.remedy
            yield Fault(fault.what, fault.breaks, "" if hooked else remedy)
    elif now["version"] < version:
        yield Fault(
            f"its version was {version} and is {now['version']}",
            remedy="a version only rises: run the newer code",
        )
    elif now["oldest"] > version:
        yield Fault(
            f"it was written in version {version} and is read from version {now['oldest']} on",
            remedy=f"keep the upcasters from version {version} on",
        )
    if now["version"] == version and now["oldest"] > was["oldest"]:
        yield Fault(
            f"version {was['oldest']} is not read any more: logs, snapshots and clients must be "
            "past it",
            False,
        )
    if is_renamed:
        yield Fault(f"its class is called {name} now, which is only a name", False)


def decode_schema(text: bytes) -> Schema:
    """A schema from its JSON; ValueError if it is none, or of a later format."""
    found: Schema = {}
    try:
        found = msgspec.json.decode(text, type=Schema)
        # Everything in it is looked at.
        is_whole = kept(found, found) == found and not compare(found, found)
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError):
        is_whole = False
    form = found.get("format")
    if isinstance(form, int) and form > FORMAT:
        raise ValueError(f"it has format {form}, of a later leftfold; this one reads {FORMAT}")
    if form != FORMAT or not is_whole:
        raise ValueError("it is not a schema, or was changed by hand")
    return found
