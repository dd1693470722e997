"""A network for tests: a namespace of its own, in which replicas can be cut off from each other.

A thread that enters it takes with it whatever it starts: threads, processes, sockets. The rules are nftables' and act where a
packet arrives, so that who sends it learns nothing, as on a real wire. Clients have 127.0.0.1 and are cut off only where a test
says so. Leaving it is going back; the kernel ends it with the last process inside.

There is no delay: that takes netem, or a queue in the rules (NFQUEUE), and kernels that CI may have know neither. Lost packets
delay what TCP sends again, and a process that stands still delays all that it would answer.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Generator, Iterable

import pytest

CLONE_NEWNET = 0x40000000
CLIENTS = "127.0.0.1"


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
