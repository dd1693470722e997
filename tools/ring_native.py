"""How fast a ring carries messages of 8 bytes between C processes, beside the Disruptor between Java threads.

ring_native.c and DisruptorOneToOne.java do the same: batches of one size, numbers that are added up and checked, waiting by
spinning and yielding. Both are compiled here, when they are measured; what is missing for one is said in its place, as a
sentence, and the other is measured all the same. A slot of ours has 8 bytes more, its header.
"""

import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from .. import shm

RING = "leftfold ring, C"
DISRUPTOR = "Disruptor, one to one, Java"
BATCH = 1024
PASSES = 5
SETTLED = 2
"""The first passes do not count: pages are new, and Java has not compiled yet."""
JARS = (
    Path("/usr/share/java/disruptor.jar"),
    Path("/usr/share/maven-repo/com/lmax/disruptor/debian/disruptor-debian.jar"),
)
HERE = Path(__file__).parent
MAIN_CLASS = "DisruptorOneToOne"


class Absent(Exception):
    """Something is missing here: a sentence."""


def measure(messages: int, batch: int = BATCH) -> tuple[dict[str, float], dict[str, str]]:
    """Messages per second of each, the median of the settled passes; and why what was not measured was not."""
    rates: dict[str, float] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-") as place:
        for name, compiled in ((RING, _compiled_ring), (DISRUPTOR, _compiled_disruptor)):
            try:
                command = compiled(Path(place))
            except Absent as reason:
                absent[name] = str(reason)
                continue
            rates[name] = _run(command, messages, batch)
    return rates, absent


def _run(command: list[str], messages: int, batch: int) -> float:
    words = [*command, str(messages), str(batch), str(PASSES)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    passes = [float(line) for line in done.stdout.split()]
    assert len(passes) == PASSES
    return statistics.median(passes[SETTLED:])


def _compiled_ring(place: Path) -> list[str]:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Absent("there is no C compiler: apt install gcc")
    sources = Path(shm.__file__).parent
    files = [sources / name for name in ("ring.c", "doorbell.c", "histogram.c")]
    if not all(file.exists() for file in files):
        raise Absent("the sources of the ring are not installed: run it in a clone")
    program = place / "ring_native"
    options = ["-std=gnu11", "-O3", f"-I{sources}", "-o", str(program)]
    libraries = ["-lrt", "-lpthread"]
    subprocess.run(
        [compiler, *options, str(HERE / "ring_native.c"), *map(str, files), *libraries], check=True
    )
    return [str(program)]


def _compiled_disruptor(place: Path) -> list[str]:
    java, compiler = shutil.which("java"), shutil.which("javac")
    if java is None or compiler is None:
        raise Absent("there is no java and javac: apt install default-jdk-headless")
    jar = next((jar for jar in JARS if jar.exists()), None)
    if jar is None:
        raise Absent("the Disruptor is not installed: apt install libdisruptor-java")
    source = str(HERE / f"{MAIN_CLASS}.java")
    subprocess.run([compiler, "-cp", str(jar), "-d", str(place), source], check=True)
    return [java, "-cp", f"{jar}:{place}", MAIN_CLASS]
