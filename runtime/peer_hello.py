"""How two replicas get to know each other: the first frame each way on every connection between them. Sans-IO.

A PEER slot, little-endian and padded as all between replicas; its tag says what it is:

    HELLO     8  8s "leftpeer" | u16 protocol version | u16 link | u16 Python major | u16 minor
             24  16s cluster id | u64 source | u64 target | u64 instance
             64  u16 address bytes | u16 serves bytes | u16 build bytes | u16 0, then the three texts
    REFUSED   8  text: why, one sentence; the connection is closed behind it
    ALIVE     nothing: somebody is there, though Raft has nothing to say

Magic and version stand where they are in every version to come, so that another version can be named. `instance` is drawn
by each start of a gateway: two of them that take turns under one replica id are two replicas, not one that restarted.
Guarantees: `read_hello` takes any bytes and raises NotAPeer, nothing else; `object_to` says in one sentence why a replica
must not be spoken with, or nothing.
"""

import sys
from struct import Struct

from attrs import field, frozen

from . import slots
from .errors import LeftfoldError

PROTOCOL_VERSION = 1
MAGIC = b"leftpeer"
HELLO, REFUSED, ALIVE = 1, 2, 3
RAFT_LINK, BULK_LINK = 1, 2
LINKS = {RAFT_LINK: "messages", BULK_LINK: "bulk"}
TEXT_BYTES_MAX = 255
REFUSAL_BYTES_MAX = 1024

_HELLO = Struct("<IHH8sHHHH16sQQQHHHH")
_FIXED_ALWAYS = Struct("<IHH8sH")
HELLO_BYTES_MAX = _HELLO.size + 3 * TEXT_BYTES_MAX
ALIVE_FRAME = slots.HEADER.pack(slots.HEADER_BYTES, slots.PEER, ALIVE)


class NotAPeer(LeftfoldError):
    """These bytes are no replica's greeting; the text is a clause about the other side: 'it …'."""


@frozen(kw_only=True)
class Hello:
    """What a replica says of itself, and to whom it thinks that it speaks."""

    cluster_id: bytes
    source: int
    target: int
    instance: int
    link: int
    address: str
    """Where it listens for peers, as its members' list has it."""
    serves: str
    """Where it listens for clients."""
    build: str
    python: tuple[int, int] = field(default=sys.version_info[:2])
    version: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        """The frame."""
        texts = [text.encode()[:TEXT_BYTES_MAX] for text in (self.address, self.serves, self.build)]
        length = _HELLO.size + sum(map(len, texts))
        head = _HELLO.pack(
            length,
            slots.PEER,
            HELLO,
            MAGIC,
            self.version,
            self.link,
            *self.python,
            self.cluster_id,
            self.source,
            self.target,
            self.instance,
            *map(len, texts),
            0,
        )
        return head + b"".join(texts) + bytes(-length % 8)


def read_hello(data: bytes | bytearray) -> tuple[Hello, int] | None:
    """The greeting at the start of what came, and the bytes that it takes; None: not all of it came yet. Raises NotAPeer."""
    if data[:1] == b"\x16" and data[1:2] in (b"", b"\x03"):
        if len(data) > 1:
            raise NotAPeer("it speaks TLS, and this replica was started without certificates")
        return None
    if len(data) < slots.HEADER_BYTES:
        return None
    length, kind, tag = slots.HEADER.unpack_from(data)
    if kind == slots.PEER and tag == REFUSED and length <= REFUSAL_BYTES_MAX:
        if len(data) < length:
            return None
        raise NotAPeer(f"it refuses this replica: {read_text(data[slots.HEADER_BYTES : length])}")
    if kind != slots.PEER or tag != HELLO or length < _FIXED_ALWAYS.size:
        raise NotAPeer("it does not speak as a replica")
    if len(data) < _FIXED_ALWAYS.size:
        return None
    _, _, _, magic, version = _FIXED_ALWAYS.unpack_from(data)
    if magic != MAGIC:
        raise NotAPeer("it does not speak as a replica")
    if version != PROTOCOL_VERSION:
        raise NotAPeer(
            f"it speaks version {version} of the replicas' protocol, and this replica version "
            f"{PROTOCOL_VERSION}: run the same leftfold on both"
        )
    if not _HELLO.size <= length <= HELLO_BYTES_MAX:
        raise NotAPeer(f"it sent a greeting of {length} bytes")
    if len(data) < slots.padded(length):
        return None
    return _read(bytes(data[:length])), slots.padded(length)


def _read(frame: bytes) -> Hello:
    fields = _HELLO.unpack_from(frame)
    link, major, minor, cluster_id, source, target, instance = fields[5:12]
    texts: list[str] = []
    at = _HELLO.size
    for size in fields[12:15]:
        texts.append(read_text(frame[at : at + size]))
        at += size
    if at != len(frame) or link not in LINKS or not source or fields[15]:
        raise NotAPeer("it sent a greeting that makes no sense")
    address, serves, build = texts
    return Hello(
        cluster_id=cluster_id,
        source=source,
        target=target,
        instance=instance,
        link=link,
        address=address,
        serves=serves,
        build=build,
        python=(major, minor),
    )


def read_text(data: bytes | bytearray) -> str:
    """Text from somebody else, fit to be shown on one line."""
    text = bytes(data).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def refusal(sentence: str) -> bytes:
    """The REFUSED frame."""
    text = sentence.encode()[: REFUSAL_BYTES_MAX - slots.HEADER_BYTES]
    head = slots.HEADER.pack(slots.HEADER_BYTES + len(text), slots.PEER, REFUSED)
    return head + text + bytes(-len(text) % 8)


def object_to(
    own: Hello, hello: Hello, expected: int | None, known_address: str | None, *, any_build: bool
) -> str | None:
    """One sentence why `hello` must be refused, or None.

    `expected` is the id that was dialled, None when the other side called; `known_address` is the address that the
    members' list has for the id that it says.
    """
    who = f"Replica {hello.source} at {hello.address}"
    if hello.cluster_id != own.cluster_id:
        return (
            f"{who} belongs to another cluster ({hello.cluster_id.hex()[:8]}, this one is "
            f"{own.cluster_id.hex()[:8]}): correct the list of members, or give it a directory of its own."
        )
    if hello.source == own.source:
        return (
            f"Two replicas have the id {own.source}: this one at {own.address} and one at {hello.address}: "
            "stop one of them, and let it join under a new id with an empty directory."
        )
    if expected is not None and hello.source != expected:
        return f"{who} answers where replica {expected} is expected: correct the list of members."
    if hello.target != own.source:
        return (
            f"{who} takes this replica, {own.source}, for replica {hello.target}: "
            "correct the list of members."
        )
    if known_address is not None and hello.address != known_address:
        return (
            f"Two replicas have the id {hello.source}: one is a member at {known_address}, and one speaks for "
            f"{hello.address}: stop one of them, and let it join under a new id."
        )
    if hello.python != own.python:
        return (
            f"{who} runs Python {_dotted(hello.python)}, and this one {_dotted(own.python)}: the same code may answer "
            "differently there, so run the same minor version everywhere."
        )
    if hello.build != own.build and not any_build:
        return (
            f"{who} runs build {hello.build} of the app, and this one build {own.build}: run the same code everywhere, or "
            "tell all replicas that the build changes."
        )
    return None


def _dotted(python: tuple[int, int]) -> str:
    return ".".join(map(str, python))
