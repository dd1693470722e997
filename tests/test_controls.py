"""Answers to operators: kept until there is room, and then sent in their order."""

import json

from leftfold.actors.layout import Status
from leftfold.runtime import frames, slots
from leftfold.runtime.controls import ANSWERS_WAITING_MAX, Controls
from leftfold.shm import Consumer, Producer, format_ring, ring_bytes

SESSION = bytes(range(16))


def controls() -> tuple[Controls, Consumer]:
    memory = bytearray(ring_bytes(1024))
    format_ring(memory, 1024)
    return Controls(Producer(memory)), Consumer(memory)


def received(ring: Consumer) -> list[frames.Frame]:
    run = ring.peek()
    slot_list = [bytes(slot) for _, _, slot in slots.slots_of(run)]
    ring.release(len(run))
    return frames.Decoder().receive(b"".join(slot_list))


def test_an_answer_is_json_and_a_refusal_its_reason() -> None:
    answering, ring = controls()

    answering.answer(slots.Control(1, SESSION, 7, b""), 41, {"index": 41})
    answering.refuse(slots.Control(1, SESSION, 8, b""), 41, "One is being written.")

    assert answering.flush() == 2
    answer, refusal = received(ring)
    assert isinstance(answer, frames.Answer) and isinstance(refusal, frames.Answer)
    assert (answer.session, answer.request, answer.index) == (SESSION, 7, 41)
    assert (answer.status, json.loads(answer.body)) == (Status.OK, {"index": 41})
    assert (refusal.request, refusal.status) == (8, Status.REJECTED)
    assert refusal.body == b"One is being written."


def test_what_does_not_fit_is_kept_and_sent_in_order() -> None:
    answering, ring = controls()
    for request in range(ANSWERS_WAITING_MAX):
        answering.answer(slots.Control(4, SESSION, request, b""), 1, {"text": "x" * 40})
    assert not answering.room

    found: list[frames.Frame] = []
    while answering.flush():
        found += received(ring)

    assert [frame.request for frame in found if isinstance(frame, frames.Answer)] == list(
        range(ANSWERS_WAITING_MAX)
    )
    assert answering.room
