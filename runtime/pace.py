"""How fast something goes, and how long it will still take: for what a person waits for."""

import time
from typing import Any

from attrs import define, field

MEASURED_S_MIN = 0.2
"""Before that the first report says too little."""


@define
class Pace:
    """Counted from the first report on; what was done before that says nothing about the pace."""

    began_s: float = field(default=0.0, init=False)
    began_at: int | None = field(default=None, init=False)

    def facts(self, done: int, of: int) -> dict[str, Any]:
        """Rate per second and seconds left; None as long as nobody can know."""
        now_s = time.monotonic()
        if self.began_at is None or done < self.began_at:
            self.began_s, self.began_at = now_s, done
        elapsed_s = now_s - self.began_s
        rate = (done - self.began_at) / elapsed_s if elapsed_s >= MEASURED_S_MIN else 0.0
        left_s = round((of - done) / rate, 1) if rate and of >= done else None
        return {"rate": round(rate, 1), "left_s": left_s}
