"""`leftfold dev`: a replica that starts again when its app is saved, and shows what changes.

A copy of the sources is kept from the start of the replica. On each save the log is folded twice,
by the kept sources and by the new ones, each in a process of its own, and the answers to the last
commands are compared. Then the replica is started again; its state is what the *new* code makes of
the log, which is why no snapshot is taken between the two. A save that does not import leaves the replica running as it is.

The sources are the Python files under the current directory; what is installed elsewhere is not
watched.
"""

import importlib.util
import json as json_module
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from attrs import define, field, frozen
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..runtime.errors import OperatorError
from . import elsewhere
from .history import open_history
from .outputs import said, said_command
from .paper import paper
from .ranges import Port, between
from .scratch import scratch
from .terminated import terminated_like_interrupted

LEFT_OUT = (".git", ".venv", "venv", "node_modules", "__pycache__", "build", "dist")
SOURCES_MAX = 5_000
REPLIES_SHOWN_MAX = 40
FOLD_S_MAX = 3_600
DEFAULT_DIRECTORY = Path("leftfold-data")

Reply = dict[str, Any]


def dev(
    app: str,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    host: str = "127.0.0.1",
    port: Port = 7700,
    last: Annotated[int, between(1, 100_000)] = 200,
) -> int:
    """Run a replica that starts again on every save, and show which answers the new code changes.

    Parameters
    ----------
    app
        The app as module:attribute, in the current directory.
    directory
        The replica's data.
    host
        The address to listen on.
    port
        The port to listen on; 0 takes a free one.
    last
        How many of the last commands are compared.
    """
    watch = _watchfiles()
    root = Path.cwd()
    _check_sources(app, root)
    session = Session(app, directory.resolve(), root, ["--host", host, "--port", str(port)], last)
    with (
        terminated_like_interrupted(),
        scratch("leftfold-dev") as kept,
    ):
        session.kept = kept
        try:
            session.begin()
            for changes in watch(root, watch_filter=session.is_source, raise_interrupt=True):
                forget_compiled(Path(path) for _, path in changes)
                session.saved()
        except KeyboardInterrupt:
            return 0
        finally:
            session.stop()
    return 0


def _watchfiles() -> Any:
    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        raise OperatorError(
            "`leftfold dev` needs watchfiles to see what is saved: pip install 'leftfold[dev]'."
        ) from None
    return watch


def _check_sources(app: str, root: Path) -> None:
    """The app's module must lie where the watching is."""
    module = app.partition(":")[0]
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin:
        raise OperatorError(
            f"There is no module {module} in {root}: go to the directory that holds it."
        )
    if not Path(found.origin).resolve().is_relative_to(root):
        raise OperatorError(
            f"`leftfold dev` watches {root}, and module {module} lies in {found.origin}: go there, "
            "or use `leftfold run`."
        )


@frozen
class Difference:
    """One command that the new code answers differently."""

    place: str
    command: str
    old: str
    new: str


@define
class Session:
    """One run of `leftfold dev`."""

    app: str
    directory: Path
    root: Path
    address: list[str]
    last: int
    kept: Path = field(init=False)
    replica: subprocess.Popen[bytes] | None = field(default=None, init=False)
    console: Console = field(factory=lambda: paper(soft_wrap=True), init=False)

    def begin(self) -> None:
        """Keep the sources and start the replica."""
        keep_sources(self.root, self.kept)
        self.start()

    def saved(self) -> None:
        """Compare, and start the replica again; or say why not."""
        if self.has_log():
            new = self.replies_under(self.root)
            if new is None:
                return
            old = self.replies_under(self.kept)
            if old is not None:
                self.show(compare(old, new), len(new))
        self.stop()
        self.begin()

    def is_source(self, change: object, path: str) -> bool:
        """Whether a change is one to the app's sources."""
        del change
        parts = Path(path).relative_to(self.root).parts
        return path.endswith(".py") and not any(_is_left_out(part) for part in parts)

    def has_log(self) -> bool:
        """Whether there is anything to compare."""
        try:
            return open_history(self.directory).last > 0
        except OperatorError:
            return False

    def replies_under(self, sources: Path) -> list[Reply] | None:
        """The answers to the last commands under these sources; None, after saying why not."""
        identity = open_history(self.directory).identity
        process = elsewhere.start(
            *("replies", identity, sources, subprocess.PIPE),
            *(str(self.directory), self.app, str(sources), str(self.last)),
        )
        try:
            output, errors = process.communicate(timeout=FOLD_S_MAX)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode:
            which = "The saved code" if sources == self.root else "The kept code"
            why = elsewhere.complaint(process, errors)
            self.console.print(f"{which} cannot fold the log: {why}", markup=False)
            return None
        return [json_module.loads(line) for line in output.splitlines()]

    def show(self, differences: list[Difference], compared: int) -> None:
        """Print which answers change."""
        if not differences:
            self.console.print(f"The last {compared} commands are answered as before.")
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("at", "command", "was", "would be"):
            table.add_column(heading, overflow="fold")
        for one in differences[:REPLIES_SHOWN_MAX]:
            table.add_row(one.place, escape(one.command), escape(one.old), escape(one.new))
        self.console.print(
            f"Of the last {compared} commands, the new code answers {len(differences)} differently:"
        )
        self.console.print(table)
        if len(differences) > REPLIES_SHOWN_MAX:
            self.console.print(f"and {len(differences) - REPLIES_SHOWN_MAX} more.")

    def start(self) -> None:
        """Start the replica, in a process group of its own, so that Ctrl-C reaches dev alone."""
        self.replica = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "leftfold.tools", "run", self.app),
                *("--dir", str(self.directory), *self.address),
                *("--accept-build", "--unlisted", "--no-snapshot-at-stop"),
                f"--end-with={os.getpid()}",
            ],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    def stop(self) -> None:
        """End the replica as SIGTERM does, and wait."""
        if self.replica is not None:
            if self.replica.poll() is None:
                self.replica.terminate()
            self.replica.wait()
            self.replica = None


def _is_left_out(name: str) -> bool:
    return name in LEFT_OUT or (name.startswith(".") and name not in (".", ".."))


def forget_compiled(sources: Iterable[Path]) -> None:
    """Remove what Python has compiled: it takes two saves in one second for the same file."""
    for source in sources:
        Path(importlib.util.cache_from_source(source)).unlink(missing_ok=True)


def keep_sources(root: Path, kept: Path) -> None:
    """Copy the Python files under `root` to `kept`, in place of what was there."""
    for old in kept.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    count = 0
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if not _is_left_out(name)]
        for name in files:
            if name.endswith(".py"):
                count += 1
                if count > SOURCES_MAX:
                    raise OperatorError(
                        f"{root} holds more than {SOURCES_MAX} Python files: go to the app's own."
                    )
                target = kept / Path(directory).relative_to(root) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(directory, name), target)


def compare(old: list[Reply], new: list[Reply]) -> list[Difference]:
    """The commands whose answers differ."""
    before = {(reply["index"], reply["ordinal"]): reply for reply in old}
    differences: list[Difference] = []
    for reply in new:
        place = (reply["index"], reply["ordinal"])
        was = before.get(place)
        if was is not None and was["reply"] != reply["reply"]:
            differences.append(
                Difference(
                    f"{place[0]}.{place[1]}",
                    said_command(reply),
                    said(was["reply"]),
                    said(reply["reply"]),
                )
            )
    return differences
