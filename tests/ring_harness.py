"""What tests/c/ring_harness.c is to the tests: how it is compiled, run, and spoken to.

The messages of a test are those of the harness: the sequence says every byte, see message().
"""

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from attrs import define, field

from leftfold.shm import (
    DOORBELL_BYTES,
    Consumer,
    Doorbell,
    Producer,
    Segment,
    create_semaphore,
    format_ring,
    padded,
    ring_bytes,
    unlink_semaphore,
)

ROOT = Path(__file__).parent.parent
SEGMENT_HEADER_BYTES = 4096
RING_OFFSET = 1024  # within the segment's memory; the cells of the two bells are before it
PRODUCER_CELL, CONSUMER_CELL = 0, DOORBELL_BYTES
NEVER = ("-", 0, 0)


def compile_harness(directory: Path, *flags: str, sources: Path = ROOT / "shm") -> Path:
    """Compile the harness with its crash points; `sources` may hold a mutant of ring.c."""
    program = directory / "ring_harness"
    names = ("ring.c", "doorbell.c", "histogram.c")
    files = [*(sources / name for name in names), ROOT / "tests/c/ring_harness.c"]
    options = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-DLEFTFOLD_CRASH_POINTS"]
    libraries = ["-lrt", "-lpthread"]
    subprocess.run(
        ["gcc", *options, *flags, f"-I{sources}", *files, "-o", program, *libraries], check=True
    )
    return program


def message(sequence: int) -> bytes:
    """Return the slot that the harness writes for a sequence number, padded."""
    length = 16 + sequence * 7 % 17
    pattern = bytes((sequence * 31 + i) % 256 for i in range(length - 16))
    return padded(struct.pack("<IHHQ", length, 7, 0, sequence) + pattern)


def sequences(run: bytes) -> Iterator[int]:
    """Yield the sequence numbers of a run, each message checked to its last byte."""
    offset = 0
    while offset < len(run):
        (sequence,) = struct.unpack_from("<Q", run, offset + 8)
        slot = message(sequence)
        assert run[offset : offset + len(slot)] == slot, f"message {sequence} is torn"
        yield sequence
        offset += len(slot)


@define(eq=False)
class Meeting:
    """A segment with a ring and the bells of both ends, for a process on either side."""

    name: str
    segment: Segment
    opened: list[Doorbell | Producer | Consumer] = field(factory=list)
    started: list[subprocess.Popen[str]] = field(factory=list)

    @classmethod
    def create(cls, capacity: int, position: int = 0) -> Self:
        name = f"/leftfold-test-{os.getpid()}-{os.urandom(4).hex()}"
        segment = Segment.create(name, RING_OFFSET + ring_bytes(capacity))
        format_ring(segment.memory[RING_OFFSET:], capacity, position)
        for who in ("producer", "consumer"):
            create_semaphore(f"{name}-{who}")
        return cls(name, segment)

    def bell(self, who: str) -> Doorbell:
        cell = PRODUCER_CELL if who == "producer" else CONSUMER_CELL
        bell = Doorbell(self.segment.memory[cell : cell + DOORBELL_BYTES], f"{self.name}-{who}")
        self.opened.insert(0, bell)
        return bell

    def producer(self) -> Producer:
        ring = self.segment.memory[RING_OFFSET:]
        producer = Producer(ring, self.bell("producer"), self.bell("consumer"))
        self.opened.insert(0, producer)
        return producer

    def consumer(self) -> Consumer:
        ring = self.segment.memory[RING_OFFSET:]
        consumer = Consumer(ring, self.bell("consumer"), self.bell("producer"))
        self.opened.insert(0, consumer)
        return consumer

    def start(
        self,
        program: Path,
        who: str,
        first: int,
        count: int,
        stop: tuple[str, int, int] = NEVER,
    ) -> subprocess.Popen[str]:
        """Start the harness at one end; `stop` is a label, how often it passes, and the signal."""
        own, peer = "producer", "consumer"
        cells = [PRODUCER_CELL, CONSUMER_CELL]
        if who == "consume":
            own, peer = peer, own
            cells.reverse()
        own_cell, peer_cell = (SEGMENT_HEADER_BYTES + cell for cell in cells)
        place = [self.name, SEGMENT_HEADER_BYTES + RING_OFFSET]
        bells = [own_cell, f"{self.name}-{own}", peer_cell, f"{self.name}-{peer}"]
        words = [program, who, *place, *bells, first, count, *stop]
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def end(self) -> None:
        """Unlink, unmap, and end what a failed test left running."""
        for who in ("producer", "consumer"):
            unlink_semaphore(f"{self.name}-{who}")
        self.segment.unlink()
        for process in self.started:
            process.kill()
            if process.stdout and not process.stdout.closed:
                process.communicate()
        for opened in self.opened:
            opened.close()
