"""The shared memory of one generation of a replica: created by the supervisor, attached by the four processes.

One segment for each ring, so that a process maps the rings of its own and no others, and one for the cells of the
doorbells. Scratch (I11): nothing in it outlives its generation.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from attrs import define, field, frozen

from .. import shm
from ..shm import Consumer, Doorbell, Producer, Segment
from .config import ReplicaConfig
from .topology import GATEWAY, PROCESSES, RINGS, rings_of, segment_name, segment_prefix

BELLS = "bells"


def remove_leftovers(directory: Path) -> list[str]:
    """Unlink what a replica of this directory left behind; only with the directory's lock held."""
    return shm.remove_leftovers(segment_prefix(directory))


@define
class Memory:
    """The supervisor's side: creates everything, and unlinks it once all have attached."""

    segments: list[Segment] = field(factory=list[Segment])
    semaphores: list[str] = field(factory=list[str])
    eventfd: int = -1

    @classmethod
    def create(cls, config: ReplicaConfig, generation: int) -> "Memory":
        """Create the segments and semaphores of a generation, and the gateway's eventfd."""
        memory = cls()
        try:
            memory.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
            for row in RINGS:
                capacity = row.capacity_bytes(config.limits)
                name = segment_name(config.directory, generation, row.name)
                segment = Segment.create(name, shm.ring_bytes(capacity), generation)
                memory.segments.append(segment)
                shm.format_ring(segment, capacity)
            bells = segment_name(config.directory, generation, BELLS)
            size = shm.DOORBELL_BYTES * len(PROCESSES)
            memory.segments.append(Segment.create(bells, size, generation))
            for process in PROCESSES:
                if process != GATEWAY:
                    name = segment_name(config.directory, generation, process)
                    shm.create_semaphore(name)
                    memory.semaphores.append(name)
        except BaseException:
            memory.close()
            raise
        return memory

    def unlink(self) -> None:
        """Remove every name; the memory lives until the last process unmaps it."""
        for segment in self.segments:
            segment.unlink()
        for name in self.semaphores:
            shm.unlink_semaphore(name)
        self.semaphores.clear()

    def close(self) -> None:
        """Unlink and unmap."""
        self.unlink()
        for segment in self.segments:
            segment.close()
        self.segments.clear()
        if self.eventfd >= 0:
            os.close(self.eventfd)
            self.eventfd = -1


@frozen
class Attachment:
    """One process's ends: its own bell, the rings that it reads and the rings that it writes, by name."""

    bell: Doorbell
    consumers: Mapping[str, Consumer]
    producers: Mapping[str, Producer]
    bells: tuple[Doorbell, ...]
    cells: tuple[memoryview, ...]
    segments: tuple[Segment, ...]

    def close(self) -> None:
        """Let go of everything, ends before bells before memory."""
        for end in (*self.consumers.values(), *self.producers.values()):
            end.close()
        for bell in self.bells:
            bell.close()
        for cell in self.cells:
            cell.release()
        for segment in self.segments:
            segment.close()


def attach(config: ReplicaConfig, generation: int, process: str, eventfd: int) -> Attachment:
    """Map what a process needs of a generation."""
    cells = Segment.attach(segment_name(config.directory, generation, BELLS), generation)
    segments, views = [cells], list[memoryview]()
    bells: dict[str, Doorbell] = {}
    for at, name in enumerate(PROCESSES):
        start = at * shm.DOORBELL_BYTES
        cell = cells.memory[start : start + shm.DOORBELL_BYTES]
        views.append(cell)
        if name == GATEWAY:
            bells[name] = Doorbell(cell, event_fd=eventfd)
        else:
            bells[name] = Doorbell(cell, segment_name(config.directory, generation, name))

    def memory_of(ring: str) -> Segment:
        name = segment_name(config.directory, generation, ring)
        segments.append(Segment.attach(name, generation))
        return segments[-1]

    consumed, produced = rings_of(process)
    consumers, producers = (
        {
            row.name: Consumer(memory_of(row.name), bells[process], bells[row.producer])
            for row in consumed
        },
        {
            row.name: Producer(memory_of(row.name), bells[process], bells[row.consumer])
            for row in produced
        },
    )
    return Attachment(
        bells[process],
        consumers,
        producers,
        tuple(bells.values()),
        tuple(views),
        tuple(segments),
    )
