"""What can be saved of a damaged journal: the log up to the damage, and what the rest still says of itself.

A replica of a cluster may give up the entries from the damage on, since its leader has them; but it may not forget what it
promised. How far its log had gone bounds what it had acknowledged; term and vote it must know exactly, or it could vote twice
in one term. Each is in the records behind the damage. Where the last HARD_STATE may be among what cannot be read (the very
last batch is damaged, say), nothing is saved: such a replica joins again under a new id.

The note of it (`damaged.json`, beside the segments) is durable before the first segment is touched, is added to by further
damage, and goes once Raft has the replica repaired. Until then the replica counts for nothing (raft/core.py).
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, define, frozen

from . import slots
from .contents import Contents, Inconsistent
from .files import replace
from .records import BLOCK_BYTES, Record, Scan, SegmentHeader, records_behind

NOTE_NAME = "damaged.json"
_HARD_STATE = struct.Struct("<IHHQQQ")


@frozen
class Note:
    """Where the damage was, how far the log had gone, and the newest term and vote."""

    file: str
    offset: int
    last: int
    last_term: int
    term: int
    voted_for: int

    @classmethod
    def read(cls, directory: Path) -> "Note | None":
        """The note beside the segments, if there is one."""
        try:
            fields: dict[str, Any] = json.loads((directory / NOTE_NAME).read_bytes())
        except FileNotFoundError:
            return None
        return cls(**fields)

    def write(self, directory: Path) -> None:
        """Durably, in place of an older one."""
        replace(directory / NOTE_NAME, json.dumps(asdict(self)).encode())

    def with_older(self, older: "Note | None") -> "Note":
        """What both know: the damage of before was not repaired when this was found."""
        if older is None:
            return self
        last_term, last = max((self.last_term, self.last), (older.last_term, older.last))
        term, voted_for = max((self.term, self.voted_for), (older.term, older.voted_for))
        return Note(self.file, self.offset, last, last_term, term, voted_for)


@define
class Salvage:
    """One pass over the segments that a log has, oldest first."""

    contents: Contents
    """The fold of what lies before the damage."""
    at: int = 0
    """Which segment the damage is in."""
    end: int = BLOCK_BYTES
    """Where it ends, as far as it is good."""
    note: Note | None = None
    """None: term and vote are not known."""


def salvage(segments: Sequence[tuple[Path, SegmentHeader]], contents: Contents) -> Salvage:
    """Fold what is good into `contents`, which has begun; then look at what lies behind."""
    found = Salvage(contents)
    rest: list[Record] = []
    gap = False
    for at, (path, header) in enumerate(segments):
        sealed = segments[at + 1][1].sealed if at + 1 < len(segments) else None
        content = memoryview(path.read_bytes())
        if not gap:
            fits = (header.first, header.last_term) == (contents.last + 1, contents.last_term)
            found.at, found.end = at, BLOCK_BYTES
            scan = Scan(content, header.seed, sealed)
            for record in scan if fits else ():
                try:
                    contents.fold(record.body, header.segment_id, record.offset)
                    contents.check()
                except Inconsistent:
                    break
                found.end = record.end
            gap = found.end != sealed
        if gap:
            start = found.end if found.at == at else BLOCK_BYTES
            rest.extend(records_behind(content[:sealed], header.seed, start))
    found.note = _note(found, segments, rest)
    return found


def _note(
    found: Salvage, segments: Sequence[tuple[Path, SegmentHeader]], rest: Sequence[Record]
) -> Note | None:
    """From the last run of records without a gap: it must say what term and vote are."""
    state: tuple[int, int] | None = None
    end = -1
    for record in rest:
        if record.offset not in (end, BLOCK_BYTES):
            state = None
        end = record.end
        for kind, _, slot in slots.slots_of(record.body):
            if kind == slots.HARD_STATE:
                _, _, _, term, voted_for, _ = _HARD_STATE.unpack_from(slot)
                state = term, voted_for
    if state is None:
        return None
    path = segments[found.at][0]
    return Note(str(path), found.end, rest[-1].last, rest[-1].last_term, *state)
