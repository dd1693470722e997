"""The keys of one cache database: strings, integers and hashes, with the log times at which they expire.

A string that INCR made is kept as an integer; since only canonical numerals become one, it reads back as the same bytes.
A key is gone as soon as log time has passed its deadline, whether or not it was removed: reads pass it over, writes remove
it first, and `collect` frees the memory of those that nobody touches. The order of keys is that of their creation.
"""

from heapq import heapify, heappop, heappush

from attrs import Factory

from .actor import state

Value = bytes | int | dict[bytes, bytes]

KEYS_MAX = 16_000_000
FIELDS_MAX = 1_000_000
VALUE_BYTES_MAX = 48 << 10
"""So that any value fits into a reply."""
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
SLACK = 64


@state
class Keyspace:
    """One database."""

    values: dict[bytes, Value] = Factory(dict[bytes, Value])
    # Milliseconds of log time after which the key is gone.
    deadlines: dict[bytes, int] = Factory(dict[bytes, int])
    # A heap of (deadline, key); what does not agree with `deadlines` is out of date.
    queue: list[tuple[int, bytes]] = Factory(list[tuple[int, bytes]])

    def find(self, key: bytes, now_ms: int) -> Value | None:
        """The value of a key, for a read."""
        if self.deadlines and self.deadlines.get(key, now_ms) < now_ms:
            return None
        return self.values.get(key)

    def take(self, key: bytes, now_ms: int) -> Value | None:
        """The value of a key, for a write: a key that has expired is removed."""
        if self.deadlines and self.deadlines.get(key, now_ms) < now_ms:
            self.remove(key)
            return None
        return self.values.get(key)

    def has_room(self, keys: int = 1) -> bool:
        """Whether so many keys may be added."""
        return len(self.values) + keys <= KEYS_MAX

    def remove(self, key: bytes) -> None:
        """Forget a key that is there."""
        del self.values[key]
        self.deadlines.pop(key, None)

    def expire_at(self, key: bytes, deadline_ms: int) -> None:
        """Let the key go after this time."""
        self.deadlines[key] = deadline_ms
        heappush(self.queue, (deadline_ms, key))
        if len(self.queue) > 2 * len(self.deadlines) + SLACK:
            self.queue = [(deadline, name) for name, deadline in self.deadlines.items()]
            heapify(self.queue)

    def next_deadline_ms(self) -> int | None:
        """When the first key goes; out-of-date places in front are dropped."""
        queue, deadlines = self.queue, self.deadlines
        while queue:
            deadline, key = queue[0]
            if deadlines.get(key) == deadline:
                return deadline
            heappop(queue)
        return None

    def collect(self, now_ms: int, count_max: int) -> None:
        """Remove up to so many keys that have expired."""
        for _ in range(count_max):
            deadline = self.next_deadline_ms()
            if deadline is None or deadline >= now_ms:
                return
            _, key = heappop(self.queue)
            self.remove(key)

    def clear(self) -> None:
        """Forget everything."""
        self.values.clear()
        self.deadlines.clear()
        self.queue.clear()


def parse_integer(text: bytes | int) -> int | None:
    """The signed 64-bit integer that this numeral stands for; None for any other text, as Redis reads it."""
    if type(text) is int:
        return text
    assert isinstance(text, bytes)
    if len(text) > 20:
        return None
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or (digits[:1] == b"0" and (len(digits) > 1 or digits is not text)):
        return None
    value = int(text)
    return value if INT64_MIN <= value <= INT64_MAX else None
