"""Where a client connects next, and how long it pauses before: sans-IO, for both clients.

Guarantees: every known address is tried in turn until one serves; a round over all of them is followed by a pause, which
grows by a half each time, up to a limit, and is drawn at random from its upper half, so that clients do not come back in step.
A hint (the leader's address, from a replica that is not the leader) is followed at once, but it counts as a try: a circle
of hints is as slow as any other failure. An address that timed out is left alone for a while, whoever hints at it; one
that belongs to another cluster, or speaks another version, is never tried again.

Left to the clients: sockets, and the time, which is given to each call.
"""

import random
from collections.abc import Iterable

from attrs import define, field

from .errors import OperatorError

Address = tuple[str, int]

PAUSE_S = (0.01, 0.5)
"""The first and the longest pause after a round of tries."""

PAUSE_GROWTH = 1.5
COLD_S = (1.0, 8.0)
"""How long an address that timed out is left alone: the first time, and at most."""

ADDRESSES_MAX = 64


def parse(addresses: "str | Iterable[str | Address]") -> tuple[Address, ...]:
    """`"127.0.0.1:7700,127.0.0.2:7700"`, or a list of such addresses or of (host, port)."""
    listed = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    found = tuple(dict.fromkeys(_parse_one(one) for one in listed))
    if not found or len(found) > ADDRESSES_MAX:
        raise OperatorError(f"A client needs from 1 to {ADDRESSES_MAX} addresses; give host:port.")
    return found


def _parse_one(text: "str | Address") -> Address:
    host, _, port = (
        text.strip().rpartition(":") if isinstance(text, str) else (text[0], "", str(text[1]))
    )
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OperatorError(f"{text!r} is no address: write host:port, as in 127.0.0.1:7700.")
    return host, int(port)


def shown(address: Address) -> str:
    """As it is written."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@define
class _Cold:
    """An address that timed out, until when it is left alone, and for how long the next time."""

    until_s: float
    next_s: float


@define(eq=False)
class Addresses:
    """The addresses of one cluster; see the file's text."""

    known: list[Address]
    rng: random.Random = field(factory=random.Random)
    why: dict[Address, str] = field(factory=dict[Address, str], init=False)
    """What was last wrong with each, for a person."""
    current: Address | None = field(default=None, init=False)
    _at: int = field(default=0, init=False)
    _hinted: Address | None = field(default=None, init=False)
    _tries: int = field(default=0, init=False)
    _pause_s: float = field(default=PAUSE_S[0], init=False)
    _cold: dict[Address, _Cold] = field(factory=dict[Address, _Cold], init=False)
    _banned: set[Address] = field(factory=set[Address], init=False)

    @property
    def several(self) -> bool:
        """Whether there is another one to go to."""
        return len(self.known) > 1

    @property
    def none_left(self) -> bool:
        """Every address was banned."""
        return not self.known

    def next(self, now_s: float) -> tuple[Address, float]:
        """The address to try now, and the pause before."""
        assert self.known, "nothing is left to be tried"
        pause_s = 0.0
        if self._tries and self._tries % len(self.known) == 0:
            pause_s = self.pause_s()
        self._tries += 1
        hinted, self._hinted = self._hinted, None
        if hinted is not None and not self._is_cold(hinted, now_s):
            self.current = hinted
        else:
            self.current = self._turn(now_s)
        return self.current, pause_s

    def pause_s(self) -> float:
        """The next pause, for whoever waits where it is."""
        pause_s, self._pause_s = (
            self._pause_s,
            min(self._pause_s * PAUSE_GROWTH, PAUSE_S[1]),
        )
        return pause_s * self.rng.uniform(0.5, 1.0)

    def served(self) -> None:
        """The current one took a request or answered one: what went before is forgotten."""
        address = self.current
        assert address is not None
        self._tries, self._pause_s = 0, PAUSE_S[0]
        self._cold.pop(address, None)
        self.why.pop(address, None)
        if address not in self.known and len(self.known) < ADDRESSES_MAX:
            self.known.append(address)
        if address in self.known:
            self._at = self.known.index(address)

    def failed(self, why: str, now_s: float, *, timed_out: bool = False) -> None:
        """The current one cannot be reached, or hung up, or fell silent."""
        address = self.current
        assert address is not None
        if address in self.known or self._tries:
            self.why[address] = why
        if timed_out:
            wait_s = self._cold[address].next_s if address in self._cold else COLD_S[0]
            self._cold[address] = _Cold(now_s + wait_s, min(2 * wait_s, COLD_S[1]))
        self._bound()
        self._go_on(address)

    def redirected(self, hint: str) -> None:
        """The current one is not the leader; the hint may say who is."""
        address = self.current
        assert address is not None
        self.why[address] = f"not the leader{'; it names ' + hint if hint else ''}"
        self._go_on(address)
        try:
            hinted = _parse_one(hint) if hint else None
        except OperatorError:
            hinted = None
        if hinted is not None and hinted != address and hinted not in self._banned:
            self._hinted = hinted

    def ban(self, why: str) -> None:
        """The current one can never serve: another cluster, another version."""
        address = self.current
        assert address is not None
        self.why[address] = why
        if len(self._banned) < ADDRESSES_MAX:
            self._banned.add(address)
        if address in self.known:
            self.known.remove(address)
        self._at = 0

    def report(self) -> str:
        """What is wrong with each of them, for a sentence."""
        addresses = [*self.known, *(one for one in self.why if one not in self.known)]
        return "; ".join(
            f"{shown(one)}{': ' + self.why[one] if one in self.why else ''}" for one in addresses
        )

    def _turn(self, now_s: float) -> Address:
        """The next in turn that is not cold; if all are, the one that is so for the least time."""
        order = [
            self.known[(self._at + offset) % len(self.known)] for offset in range(len(self.known))
        ]
        for address in order:
            if not self._is_cold(address, now_s):
                return address
        return min(order, key=lambda address: self._cold[address].until_s)

    def _go_on(self, address: Address) -> None:
        if address in self.known:
            self._at = (self.known.index(address) + 1) % len(self.known)

    def _is_cold(self, address: Address, now_s: float) -> bool:
        cold = self._cold.get(address)
        return cold is not None and now_s < cold.until_s

    def _bound(self) -> None:
        """Hints may name any number of addresses; what is remembered of them is limited (I10)."""
        for table in (self.why, self._cold):
            while len(table) > 2 * ADDRESSES_MAX:
                del table[next(iter(table))]
