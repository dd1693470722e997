"""The answers to what operators ask of consensus: kept until `send` has room, and never waited for (I12).

A control is a request like a query, numbered in its session, with JSON for its body; it is in no log. An answer is an
ANSWER slot: JSON, or the reason why not with the status of a rejection.
"""

import json
from collections import deque
from typing import Any

from attrs import define, field

from ..actors.layout import SlotType, Status, reply_slot
from ..raft import Raft
from ..shm import Producer
from . import slots
from .snapshot_points import SnapshotPoints

ANSWERS_WAITING_MAX = 64
STATUS_TEXT_MAX = 150


@define(eq=False)
class Controls:
    """What has been answered and not been sent yet."""

    send: Producer
    waiting: deque[bytes] = field(factory=deque[bytes], init=False)

    @property
    def room(self) -> bool:
        """Whether more may be taken in."""
        return len(self.waiting) < ANSWERS_WAITING_MAX

    def answer(self, control: slots.Control, index: int, facts: dict[str, Any]) -> None:
        """Say what was asked for."""
        self._put(control, index, Status.OK, json.dumps(facts, ensure_ascii=False).encode())

    def refuse(self, control: slots.Control, index: int, why: str) -> None:
        """Say why not."""
        self._put(control, index, Status.REJECTED, why.encode())

    def flush(self) -> int:
        """Send what there is room for; how many."""
        sent = 0
        while self.waiting and self.send.write(self.waiting[0]):
            self.waiting.popleft()
            sent += 1
        return sent

    def _put(self, control: slots.Control, index: int, status: Status, body: bytes) -> None:
        slot = reply_slot(
            SlotType.ANSWER, 0, control.session, control.request, (index, 0), status, body
        )
        assert len(slot) <= self.send.slot_bytes_max, "an answer fits a slot of `send`"
        self.waiting.append(slot)


def status(raft: Raft, points: SnapshotPoints, refusing: str) -> dict[str, Any]:
    """What consensus knows of itself, small enough for any ring."""
    log, running = raft.log, points.running
    return {
        "role": raft.role.value,
        "term": raft.term,
        "log": {"first": log.first, "last": log.last, "commit": raft.commit},
        "applied": raft.applied_index,
        "snapshot": {
            "index": points.taken,
            "file_bytes": points.file_bytes,
            "running": None if running is None else running.index,
            "failure": points.failure[:STATUS_TEXT_MAX],
        },
        "refusing": refusing[:STATUS_TEXT_MAX],
    }
