from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Position: TypeAlias = tuple[int, int, int]

class Slots:
    def append(self, slot: bytes, /) -> None: ...
    def clear(self) -> None: ...
    def list(self) -> list[bytes]: ...
    def run(self) -> bytes: ...

class Sessions:
    def __init__(self, sessions_max: int, timeout_ns: int, /) -> None: ...
    def __len__(self) -> int: ...
    def open(self, id: bytes, clock_ns: int, /) -> int | None: ...
    def close(self, id: bytes, /) -> None: ...
    def expire(self, clock_ns: int, /) -> None: ...
    def find(self, id: bytes, /) -> tuple[bytes, int, int, int, list[bytes]] | None: ...
    def ids(self) -> list[bytes]: ...
    def restore(
        self, id: bytes, last: int, floor: int, active_ns: int, replies: list[bytes], /
    ) -> None: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def next_check_ns(self) -> int | None: ...

class Events:
    floor: Position
    def __init__(self, kept_max: int, kept_bytes_max: int, /) -> None: ...
    @property
    def memory_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def keep(self, slot: bytes, /) -> None: ...
    def all(self) -> list[bytes]: ...
    def after(
        self,
        index: int,
        ordinal: int,
        number: int,
        actor_type: int,
        key: bytes,
        bytes_max: int,
        /,
    ) -> tuple[bytes, int, bool]: ...

class Plain:
    def __init__(self, cls: type, fields: tuple[tuple[str, int], ...], /) -> None: ...
    def decode(self, body: bytes, /) -> Any: ...
    def encode(self, message: object, /) -> bytes | None: ...

class Handlers:
    def __init__(self, words: memoryview | None, /) -> None: ...
    def call(
        self,
        row: int,
        function: Callable[..., Any],
        instance: object,
        message: object,
        context: object,
        /,
    ) -> Any: ...

class Commands:
    def __init__(
        self,
        units: object,
        sessions: Sessions,
        events: Events,
        slots: Slots,
        lanes: Mapping[int, tuple[Any, ...]],
        versions: Mapping[int, int],
        position: memoryview,
        refusals: Mapping[Any, bytes],
        control: Callable[[int, bytes, int], None],
        session_window: int,
        session_replies_bytes_max: int,
        reply_bytes_max: int,
        slow: bool,
        /,
    ) -> None: ...
    def apply(
        self,
        body: bytes | memoryview,
        index: int,
        time_ns: int,
        clock_ns: int,
        skips: set[tuple[int, int]] | None,
        /,
    ) -> None: ...

def put_event(
    slots: Slots,
    events: Events,
    position: Position,
    actor_type: int,
    key: bytes,
    message_id: int,
    version: int,
    time_ns: int,
    body: bytes,
    /,
) -> None: ...
