"""The ring against a model of a deque, step by step, in rings so small that every step is a
corner."""

import random
import struct
from collections import deque

import pytest

from leftfold.shm import Consumer, Producer, format_ring, padded, ring_bytes

MASK = 2**64 - 1


class Model:
    """What the ring should answer: whole runs in a deque, None for padding."""

    def __init__(self, capacity: int, position: int) -> None:
        self.capacity = capacity
        self.tail = self.head = position
        self.slots: deque[tuple[int, bytes | None]] = deque()  # size, bytes

    def space(self, minimum: int, maximum: int) -> int:
        """Return what a claim gets; where it must, publish padding as the ring does."""
        rest = self.capacity - self.tail % self.capacity
        free = self.capacity - (self.tail - self.head)
        padding = rest if rest < minimum else 0
        if free >= padding + minimum:
            return min(maximum, free - padding if padding else min(free, rest))
        if padding and free >= padding:
            self.pad()
        return 0

    def pad(self) -> None:
        rest = self.capacity - self.tail % self.capacity
        self.slots.append((rest, None))
        self.tail += rest

    def publish(self, minimum: int, slots: list[bytes]) -> None:
        if self.capacity - self.tail % self.capacity < minimum:
            self.pad()
        for slot in slots:
            self.slots.append((len(slot), slot))
            self.tail += len(slot)

    def peek(self, maximum: int) -> list[bytes]:
        if self.slots and self.slots[0][1] is None:
            self.head += self.slots.popleft()[0]
        run: list[bytes] = []
        position, size = self.head, 0
        for length, slot in self.slots:
            if slot is None or (run and size + length > maximum):
                break
            if run and position % self.capacity == 0:
                break
            run.append(slot)
            position, size = position + length, size + length
        return run

    def release(self, count: int) -> None:
        for _ in range(count):
            self.head += self.slots.popleft()[0]


def some_slots(chance: random.Random, capacity: int) -> list[bytes]:
    slots: list[bytes] = []
    room = capacity // 2
    for _ in range(chance.randint(1, 5)):
        length = chance.randint(8, capacity // 8)
        slot = padded(struct.pack("<IHH", length, 7, 0) + chance.randbytes(length - 8))
        if sum(map(len, slots)) + len(slot) > room:
            break
        slots.append(slot)
    return slots


def step(chance: random.Random, model: Model, producer: Producer, consumer: Consumer) -> None:
    capacity = model.capacity
    match chance.randrange(6):
        case 0 | 1:
            slots = some_slots(chance, capacity)
            size = sum(map(len, slots))
            fits = model.space(size, size) > 0
            assert producer.write(b"".join(slots)) == fits
            if fits:
                model.publish(size, slots)
        case 2:
            slots = some_slots(chance, capacity)
            minimum = sum(map(len, slots))
            maximum = chance.randrange(minimum, capacity // 2 + 1)
            room = model.space(minimum, maximum // 8 * 8)
            assert producer.claim_upto(minimum, maximum)[1] == room
            if room:
                kept = slots[: chance.randint(0, len(slots))]
                run = b"".join(kept)
                producer.claimed_view()[: len(run)] = run
                producer.commit(len(run))
                if run:
                    model.publish(minimum, kept)
        case _:
            maximum = chance.choice([capacity, capacity, chance.randint(1, capacity)])
            slots = model.peek(maximum)
            assert consumer.peek_bytes(maximum) == b"".join(slots)
            count = chance.randint(0, len(slots))
            consumer.release(sum(len(slot) for slot in slots[:count]))
            model.release(count)
    assert producer.position == model.tail & MASK
    assert producer.used() == model.tail - model.head
    assert consumer.position == model.head & MASK


def compare(seed: int, steps: int, capacity: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    position = (chance.choice([0, 2**32, 2**63]) - chance.randrange(0, 1024, 8)) % 2**64
    memory = bytearray(ring_bytes(capacity))
    format_ring(memory, capacity, position)
    model = Model(capacity, position)
    producer, consumer = Producer(memory), Consumer(memory)
    for number in range(steps):
        if number % 97 == 96:  # An end is reopened now and then; its caches start anew.
            if chance.random() < 0.5:
                producer.close()
                producer = Producer(memory)
            else:
                consumer.close()
                consumer = Consumer(memory)
        step(chance, model, producer, consumer)


@pytest.mark.parametrize("capacity", [64, 128, 256])
def test_a_ring_answers_like_a_deque(capacity: int) -> None:
    for _ in range(20):
        compare(random.randrange(2**32), 2_000, capacity)


@pytest.mark.campaign
@pytest.mark.parametrize("capacity", [64, 128, 256, 512])
def test_a_ring_answers_like_a_deque_for_a_million_steps(capacity: int) -> None:
    for _ in range(100):
        compare(random.randrange(2**32), 10_000, capacity)
