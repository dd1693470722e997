"""Which replica an operator's command goes to: one that answers, or the leader."""

import json
import time
from pathlib import Path
from typing import Any

from ..runtime.errors import OperatorError
from ..runtime.slots import CONTROL_MEMBERS
from ..runtime.trust import Trust
from .cluster import Layout
from .inquiry import Address, Inquiry, parse_address

LEADER_S = 10.0
POLL_S = 0.1
ANSWER_S = 5.0


def candidates(directory: Path, address: str | None) -> list[Address]:
    """Where to ask: the address that was given, or the replicas of the cluster in the directory."""
    return [parse_address(address)] if address else Layout.load(directory).addresses


def ask(where: Address, control: int, *, trust: Trust | None = None, **body: Any) -> dict[str, Any]:
    """One control, and its answer. Raises OperatorError."""
    with Inquiry(where, ANSWER_S, trust or Trust.from_environment()) as inquiry:
        found: dict[str, Any] = json.loads(inquiry.control(control, json.dumps(body).encode()).body)
    return found


def members_of(where: list[Address]) -> dict[str, Any]:
    """What the first that answers says of the members. Raises OperatorError."""
    failure = OperatorError("No address of a replica was given.")
    for address in where:
        try:
            return ask(address, CONTROL_MEMBERS)
        except OperatorError as error:
            failure = error
    raise failure


def find_leader(where: list[Address], trust: Trust | None = None) -> tuple[Address, dict[str, Any]]:
    """The leader's address, and what it says of the members; waits a little for an election."""
    deadline = time.monotonic() + LEADER_S
    why = ""
    while time.monotonic() < deadline:
        for address in where:
            try:
                found = ask(address, CONTROL_MEMBERS, trust=trust)
                if found["leader"] == found["id"]:
                    return address, found
                if found["leader_serves"]:
                    leader = parse_address(found["leader_serves"])
                    led = ask(leader, CONTROL_MEMBERS, trust=trust)
                    if led["leader"] == led["id"]:
                        return leader, led
            except OperatorError as error:
                why = f" {error}"
        time.sleep(POLL_S)
    raise OperatorError(f"No replica leads now.{why}")
