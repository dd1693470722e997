"""A network for tests: a namespace of its own, in which replicas can be cut off from each other.

A thread that enters it takes with it whatever it starts: threads, processes, sockets. The rules are nftables' and act where a
packet arrives, so that who sends it learns nothing, as on a real wire. Clients have 127.0.0.1 and are cut off only where a test
says so. Leaving it is going back; the kernel ends it with the last process inside.

Delay takes neither netem nor a queue in the rules (NFQUEUE), which not every kernel has: what one replica sends to another is routed
into a TUN device, and a thread of the test lets each packet arrive later, by another time each if so wished, and so in another order.
"""

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
CLIENTS = "127.0.0.1"
REPLICAS = "127.0.0.0/28"
"""Where replicas live, and clients."""
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
PACKET_BYTES_MAX = 65_536
TABLE = "77"


def host_of(id: int) -> str:
    """Where replica `id` of cluster.py lives."""
    return f"127.0.0.{id + 1}"


class Network:
    """The rules in force; each call replaces those before it."""

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Nothing passes from the first of a pair to the second."""
        self._rules(f"ip saddr {source} ip daddr {target} drop" for source, target in pairs)

    def isolate(self, id: int, others: Iterable[int], *, clients: bool = False) -> None:
        """Nothing passes between a replica and the others, in either direction."""
        ends = [host_of(other) for other in others if other != id]
        ends += [CLIENTS] if clients else []
        here = host_of(id)
        self.cut([pair for end in ends for pair in ((here, end), (end, here))])

    def lose(self, percent: int) -> None:
        """Of all packets between replicas, some at random are lost."""
        between = "ip saddr 127.0.0.2-127.0.0.9 ip daddr 127.0.0.2-127.0.0.9"
        self._rules([f"{between} numgen random mod 100 < {percent} drop"])

    @contextlib.contextmanager
    def delayed(self, least_s: float, *, jitter_s: float) -> "Generator[SlowLine]":
        """Each packet between two replicas is on its way for that long, and at random for up to `jitter_s` longer."""
        with contextlib.ExitStack() as stack:
            try:
                line = SlowLine(least_s, jitter_s)
            except OSError as error:
                pytest.skip(f"this test needs a TUN device: {error}")
            stack.callback(line.close)
            for rule in RULES:
                _ip("rule", "add", *rule.split())
                stack.callback(_ip, "rule", "del", *rule.split())
            _ip("rule", "del", "pref", "0")
            stack.callback(_ip, "rule", "add", "pref", "0", "lookup", "local")
            yield line

    def heal(self) -> None:
        """Everything passes."""
        self._rules([])

    def _rules(self, rules: Iterable[str]) -> None:
        text = "\n".join(
            [
                "add table inet faults",
                "delete table inet faults",
                "table inet faults {",
                "chain arriving {",
                "type filter hook input priority 0; policy accept;",
                *rules,
                "}",
                "}",
                "",
            ]
        )
        subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


RULES = (
    f"pref 2 to {CLIENTS} lookup local",
    f"pref 3 from {CLIENTS} lookup local",
    f"pref 4 iif lo from {REPLICAS} to {REPLICAS} lookup {TABLE}",
    "pref 5 lookup local",
)
"""What is sent from here to a replica leaves by the device; what comes from there is for us, as everything is without these."""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class SlowLine:
    """A TUN device that gives back what it was given, later."""

    def __init__(self, least_s: float, jitter_s: float) -> None:
        self.least_s, self.jitter_s = least_s, jitter_s
        self.carried = 0
        self._device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._device, TUNSETIFF, struct.pack("16sH14x", b"slow", IFF_TUN | IFF_NO_PI))
        self._end, self._ending = os.pipe2(os.O_CLOEXEC)
        for name, value in (("slow/route_localnet", 1), ("slow/accept_local", 1)):
            _set(name, value)
        for name in ("all/rp_filter", "slow/rp_filter"):
            _set(name, 0)
        _ip("link", "set", "slow", "up")
        _ip("route", "add", REPLICAS, "dev", "slow", "table", TABLE)
        self._thread = threading.Thread(target=self._carry, name="slow line", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What is under way is lost; the kernel removes the device."""
        os.close(self._ending)
        self._thread.join()
        os.close(self._end)
        os.close(self._device)

    def _carry(self) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        numbers = itertools.count()
        while True:
            left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([self._device, self._end], [], [], left_s)
            if self._end in ready:
                return
            if ready:
                packet = os.read(self._device, PACKET_BYTES_MAX)
                due_s = time.monotonic() + self.least_s + random.random() * self.jitter_s
                heapq.heappush(waiting, (due_s, next(numbers), packet))
            while waiting and waiting[0][0] <= time.monotonic():
                os.write(self._device, heapq.heappop(waiting)[2])
                self.carried += 1


def _set(name: str, value: int) -> None:
    Path(f"/proc/sys/net/ipv4/conf/{name}").write_text(str(value))


@contextlib.contextmanager
def network() -> Generator[Network]:
    """This thread, and what it starts, in a network of its own; skips the test where that is not allowed."""
    for program in ("nft", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"this test needs {program}")
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home:
        if os.geteuid() or libc.unshare(CLONE_NEWNET):
            pytest.skip("this test needs the right to make a network namespace")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            found = Network()
            try:
                found.heal()
            except subprocess.CalledProcessError:
                pytest.skip("this kernel has no nftables")
            yield found
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0, "there is no way back"
