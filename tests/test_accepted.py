"""`--accept-build`: what another build wrote and this code answers differently is listed before it is replayed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replica import DEADLINE_S, leavings, wait_until
from written_log import WrittenLog

from leftfold.actors import App
from leftfold.actors.layout import EntryKind
from leftfold.runtime.discovery import load_app
from leftfold.runtime.errors import OperatorError
from leftfold.tools import accepted
from leftfold.tools.accepted import say_what_differs

NAME = "accepted_shop:app"
SHOP = """
from leftfold.actors import App, Command, Context, Rejected, actor, handler, message, on_timer

RATE = 1

@message(id=1)
class Total:
    cents: int

@message(id=2)
class Buy(Command[Total]):
    cents: int

@message(id=3)
class Later(Command[None]):
    pass

@message(id=4)
class Due:
    pass

@message(id=5)
class Told:
    cents: int

@actor(id=1, key=str, emits=(Told,))
class Till:
    cents: int = 0

    @handler
    def buy(self, command: Buy, context: Context) -> Total:
        self.cents += RATE * command.cents
        return Total(self.cents)

    @handler
    def later(self, command: Later, context: Context) -> None:
        context.set_timer(Due(), after_ns=1)

    @on_timer
    def due(self, timer: Due, context: Context) -> None:
        context.emit(Told(self.cents))

app = App(actors=[Till], build=BUILD)
"""


class Shop:
    """A log of the shop, the sources that wrote it, and what is said of other sources."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.monkeypatch = tmp_path, monkeypatch
        self.old = self.sources("old", SHOP)
        self.app = self.load(self.old)
        self.log = WrittenLog(tmp_path / "data", self.app, NAME)
        self.till = self.app.messages

    def sources(self, build: str, text: str) -> Path:
        place = self.place / build
        place.mkdir(exist_ok=True)
        (place / "accepted_shop.py").write_text(text.replace("BUILD", repr(build)))
        return place

    def load(self, sources: Path) -> App:
        self.monkeypatch.delitem(sys.modules, "accepted_shop", raising=False)
        return load_app(NAME, sources)

    def write(self, count: int, build: str = "old") -> None:
        """A term of that build with purchases of 1, 2, … cents."""
        log = self.log
        log.append(EntryKind.TERM_START, [build.encode()])
        if not log.requests:
            log.commands(log.open_session())
        buy = self.till[2]
        for cents in range(1, count + 1):
            log.commands(log.command("a", buy(cents)))

    def said(
        self, sources: Path, old: Path | None, capsys: pytest.CaptureFixture[str], *, json: bool
    ) -> str:
        self.monkeypatch.chdir(sources)
        say_what_differs(self.log.directory, NAME, self.load(sources), old, json=json)
        captured = capsys.readouterr()
        return captured.out if json else captured.err


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path, monkeypatch)
    yield shop
    shop.log.close()


Capture = pytest.CaptureFixture[str]


def test_every_command_that_is_answered_differently_is_listed_with_both_answers(
    shop: Shop, capsys: Capture
) -> None:
    shop.write(3)
    doubled = shop.sources("new", SHOP.replace("RATE = 1", "RATE = 2"))

    said = shop.said(doubled, shop.old, capsys, json=False)

    assert (
        "Of entries 2 to 5, written under build old, this code answers 3 commands differently:"
        in said
    )
    assert (
        "  4.0  Buy(cents=2) to a: was Total(cents=3), would be Total(cents=6)" in said.splitlines()
    )
    assert "recorded nowhere" not in said


def test_the_list_is_bounded_and_the_total_is_not(
    shop: Shop, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepted, "SHOWN_MAX", 2)
    shop.write(5)
    doubled = shop.sources("new", SHOP.replace("RATE = 1", "RATE = 2"))

    assert "  and 3 more." in shop.said(doubled, shop.old, capsys, json=False)
    found: dict[str, Any] = json.loads(shop.said(doubled, shop.old, capsys, json=True))
    assert (found["event"], found["commands"], len(found["shown"])) == ("accepted", 5, 2)
    assert (found["first"], found["last"], found["build"]) == (2, 7, "old")
    assert found["shown"][0]["new"][0]["fields"] == {"cents": 2}


def test_code_that_answers_the_same_is_said_to(shop: Shop, capsys: Capture) -> None:
    shop.write(3)
    same = shop.sources("new", SHOP + "# another build\n")

    assert "this code answers no commands differently." in shop.said(
        same, shop.old, capsys, json=False
    )


def test_events_of_timers_count_as_answers(shop: Shop, capsys: Capture) -> None:
    shop.write(1)
    shop.log.commands(shop.log.command("a", shop.till[3]()))
    time = shop.log.append(EntryKind.TIME)
    doubled = shop.sources("new", SHOP.replace("Told(self.cents)", "Told(7)"))
    silent = shop.sources("silent", SHOP.replace("context.emit(Told(self.cents))", "pass"))

    told = f"  {time}.0  time: was event Told(cents=1), would be "
    assert told + "event Told(cents=7)" in shop.said(doubled, shop.old, capsys, json=False)
    assert told + "nothing" in shop.said(silent, shop.old, capsys, json=False)


def test_without_the_old_sources_only_what_fails_now_is_told_and_that_it_is(
    shop: Shop, capsys: Capture
) -> None:
    """A log holds commands; nobody wrote down what was answered."""
    shop.write(4)
    strict = shop.sources(
        "new",
        SHOP.replace(
            "        self.cents +=",
            "        if command.cents > 2: raise Rejected('dear')\n        self.cents +=",
        ),
    )

    said = shop.said(strict, None, capsys, json=False)

    assert "this code refuses or fails 2 commands:" in said
    assert "Buy(cents=3) to a: would be REJECTED: dear" in said
    assert "recorded nowhere" in said and "--old-sources" in said


def test_a_snapshot_covers_what_is_before_it(shop: Shop, capsys: Capture) -> None:
    shop.write(4)
    shop.log.snapshot(4)
    doubled = shop.sources("new", SHOP.replace("RATE = 1", "RATE = 2"))

    # The snapshot of this log names no build; the next term does.
    assert shop.said(doubled, shop.old, capsys, json=False) == ""
    shop.write(1)
    assert "Of entries 8 to 8" in shop.said(doubled, shop.old, capsys, json=False)


def test_entries_of_a_third_build_are_counted_and_not_compared(shop: Shop, capsys: Capture) -> None:
    shop.write(1)
    shop.write(2, "middle")
    doubled = shop.sources("new", SHOP.replace("RATE = 1", "RATE = 2"))

    said = shop.said(doubled, shop.old, capsys, json=False)

    assert "2 entries behind them, of other builds too, are not compared." in said


def test_a_tail_of_this_build_and_no_directory_say_nothing(
    shop: Shop, tmp_path: Path, capsys: Capture
) -> None:
    shop.write(2)
    assert shop.said(shop.old, None, capsys, json=False) == ""
    say_what_differs(tmp_path / "nowhere", NAME, shop.app, None, json=False)
    assert not (tmp_path / "nowhere").exists()


def test_sources_that_did_not_write_the_tail_are_refused(shop: Shop, capsys: Capture) -> None:
    shop.write(2)
    doubled = shop.sources("new", SHOP.replace("RATE = 1", "RATE = 2"))

    with pytest.raises(OperatorError, match="holds build new of the app, and entries 2 to 4 were"):
        shop.said(doubled, doubled, capsys, json=False)
    with pytest.raises(OperatorError, match="is not a directory"):
        shop.said(doubled, doubled / "no", capsys, json=False)


@pytest.mark.xdist_group("serial")
def test_a_start_lists_it_before_it_is_ready(shop: Shop, tmp_path: Path) -> None:
    shop.write(3)
    shop.log.close()
    doubled = shop.sources("new", SHOP.replace("RATE = 1", "RATE = 2"))
    run = [sys.executable, "-P", "-m", "leftfold.tools", "run", NAME, "--port", "0"]
    run += ["--dir", str(shop.log.directory), "--accept-build", "--old-sources", str(shop.old)]
    run += ["--accept-clock-step"]  # This log was written years ago.
    output = tmp_path / "output"
    with output.open("wb") as file:
        running = subprocess.Popen(run, cwd=doubled, stdout=file, stderr=file)
    try:
        wait_until(lambda: "Ready on" in output.read_text() or running.poll(), "it is ready")
        running.terminate()
        assert running.wait(DEADLINE_S) == 0, output.read_text()
    finally:
        running.kill()
        running.wait()

    said = output.read_text()
    listed, accepted_, ready = (
        said.index(part) for part in ("answers 3 commands differently", "as accepted", "Ready on")
    )
    assert listed < accepted_ < ready
    assert leavings(shop.log.directory) == []
