"""`leftfold diff`: where two folds part, by command, by actor and by field."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from written_log import WrittenLog

from leftfold.actors import App
from leftfold.runtime.discovery import load_app
from leftfold.runtime.errors import OperatorError
from leftfold.tools.cli import call
from leftfold.tools.fields import ABSENT, parts
from leftfold.tools.history import open_history
from leftfold.tools.sides import Side

APP = "diffed_bank:app"
BANK = """
from leftfold.actors import App, Command, Context, actor, handler, message
from attrs import field

FEE_FROM = 10**9

@message(id=1)
class Balance:
    cents: int

@message(id=2)
class Moved:
    cents: int

@message(id=3)
class Move(Command[Balance]):
    cents: int

@message(id=4)
class Note(Command[None]):
    text: str

@actor(id=1, key=str, emits=(Moved,))
class Account:
    cents: int = 0
    fees: int = 0
    notes: dict[str, int] = field(factory=dict)

    @handler
    def move(self, command: Move, context: Context) -> Balance:
        fee = 1 if command.cents >= FEE_FROM else 0
        self.cents += command.cents - fee
        self.fees += fee
        context.emit(Moved(command.cents))
        return Balance(self.cents)

    @handler
    def note(self, command: Note, context: Context) -> None:
        self.notes[command.text] = self.notes.get(command.text, 0) + 1

app = App(actors=[Account])
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app as the logs of these tests know it."""
    place = tmp_path_factory.mktemp("sources")
    (place / "diffed_bank.py").write_text(BANK)
    return place


@pytest.fixture(scope="module")
def bank(sources: Path) -> App:
    return load_app(APP, sources)


@pytest.fixture(scope="module")
def charging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same app under another version of the sources: it takes a fee from 500 on."""
    place = tmp_path_factory.mktemp("charging")
    (place / "diffed_bank.py").write_text(BANK.replace("FEE_FROM = 10**9", "FEE_FROM = 500"))
    return place


@pytest.fixture(autouse=True)
def here(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person stands where the sources are."""
    monkeypatch.chdir(sources)


@pytest.fixture
def new_log(tmp_path: Path, bank: App) -> Iterator[Callable[..., WrittenLog]]:
    """Write a log: entries 1 and 2 open the session; then an entry for each list of commands."""
    logs: list[WrittenLog] = []

    def write(name: str, *entries: list[tuple[str, str, Any]]) -> WrittenLog:
        log = WrittenLog.begun(tmp_path / name, bank, APP, segment_bytes=8192)
        logs.append(log)
        add(log, *entries)
        return log

    yield write
    for log in logs:
        log.close()


def add(log: WrittenLog, *entries: list[tuple[str, str, Any]]) -> None:
    messages = {cls.__name__: cls for cls in log.app.messages.values()}
    for entry in entries:
        log.commands(*(log.command(key, messages[name](value)) for key, name, value in entry))


ENTRIES = [
    [("alice", "Move", 100), ("bob", "Move", 200)],
    [("alice", "Note", "x"), ("alice", "Move", 500), ("bob", "Move", 1)],
    [("carol", "Move", 7)],
]


def diff(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 3) -> dict[str, Any]:
    assert call(["diff", *map(str, arguments), "--json"]) == code, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def fields(report: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {
        (one["key"], one["field"]): (one["a"], one["b"]) for one in report["state"]["differences"]
    }


def test_two_places_of_one_log_show_what_changed_between(
    new_log: Callable[..., WrittenLog], capsys: pytest.CaptureFixture[str]
) -> None:
    log = new_log("a", *ENTRIES)

    found = diff(capsys, log.directory, "--from", "3", "--to", "4.1")

    assert fields(found) == {
        ("alice", "cents"): (100, 600),
        ("alice", "notes.x"): (ABSENT, 1),
    }
    assert found["state"]["different_actors"] == 1
    assert (found["state"]["b"]["index"], found["state"]["b"]["ordinal"]) == (4, 1)
    made = fields(diff(capsys, log.directory, "--from", "4"))
    assert made[("carol", "")][0] == ABSENT and made[("carol", "")][1]["cents"] == 7


def test_two_places_that_are_the_same_are_no_difference(
    new_log: Callable[..., WrittenLog], capsys: pytest.CaptureFixture[str]
) -> None:
    log = new_log("a", *ENTRIES)

    found = diff(capsys, log.directory, "--from", "4", "--to", "4", code=0)

    assert found["state"]["differences"] == []
    assert call(["diff", str(log.directory), "--from", "4", "--to", "4"]) == 0
    assert "No actor differs at 4." in capsys.readouterr().out


def test_two_versions_of_the_sources_part_at_the_first_other_answer(
    new_log: Callable[..., WrittenLog], charging: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = new_log("a", *ENTRIES)

    found = diff(capsys, log.directory, "--path-b", charging)

    outputs = found["outputs"]
    assert (outputs["index"], outputs["ordinal"]) == (4, 1)
    assert outputs["command"]["message"] == "Move"
    assert outputs["command"]["fields"] == {"cents": 500}
    assert [line.get("reply") or line["event"] for line in outputs["a"]] == ["Moved", "Balance"]
    assert outputs["a"][1]["fields"] == {"cents": 600}
    assert outputs["b"][1]["fields"] == {"cents": 599}
    # The states are those just there: bob's next command is not in them.
    assert fields(found) == {("alice", "cents"): (600, 599), ("alice", "fees"): (0, 1)}
    assert found["log"] is None


def test_a_person_reads_the_command_both_answers_and_the_fields(
    new_log: Callable[..., WrittenLog],
    charging: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    log = new_log("a", *ENTRIES)

    code = call(["diff", str(log.directory), "--path-b", str(charging)])

    shown = capsys.readouterr().out
    assert code == 3
    assert "The outputs part at 4.1: Move(cents=500) to alice" in shown
    assert "A  Balance(cents=600)" in shown and "B  Balance(cents=599)" in shown
    assert "One actor differs at 4.1:" in shown


def test_versions_that_answer_alike_are_the_same(
    new_log: Callable[..., WrittenLog],
    sources: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = new_log("a", *ENTRIES)
    same = tmp_path / "same"
    same.mkdir()
    (same / "diffed_bank.py").write_text(BANK + "\n# A comment more.\n")

    found = diff(capsys, log.directory, "--path-a", sources, "--path-b", same, code=0)

    assert found["outputs"] is None and found["compared"]["to"] == 5


def test_two_apps_of_one_module_are_two_sides(
    new_log: Callable[..., WrittenLog], charging: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (charging / "other_bank.py").write_text("from diffed_bank import app\n")
    log = new_log("a", *ENTRIES)

    found = diff(
        capsys,
        log.directory,
        "--app-b",
        "other_bank:app",
        "--path-b",
        charging,
        "--to",
        "3",
        code=0,
    )

    assert found["b"]["app"] == "other_bank:app" and found["outputs"] is None


def test_two_directories_part_where_their_logs_do(
    new_log: Callable[..., WrittenLog], capsys: pytest.CaptureFixture[str]
) -> None:
    a = new_log("a", *ENTRIES)
    b = new_log("b", ENTRIES[0], [ENTRIES[1][0], ("alice", "Move", 400), ENTRIES[1][2]])

    found = diff(capsys, a.directory, b.directory)

    assert (found["log"]["index"], found["log"]["ordinal"]) == (4, 1)
    assert found["log"]["b"]["fields"] == {"cents": 400}
    assert (found["outputs"]["index"], found["outputs"]["ordinal"]) == (4, 1)
    assert fields(found) == {("alice", "cents"): (600, 500)}
    assert (found["compared"]["last_a"], found["compared"]["last_b"]) == (5, 4)


def test_a_copy_of_a_directory_is_the_same(
    new_log: Callable[..., WrittenLog], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = new_log("a", *ENTRIES), new_log("b", *ENTRIES)

    found = diff(capsys, a.directory, b.directory, code=0)

    assert (found["log"], found["outputs"], found["state"]["differences"]) == (None, None, [])


def test_states_that_part_without_an_answer_are_found_at_the_end(
    new_log: Callable[..., WrittenLog], capsys: pytest.CaptureFixture[str]
) -> None:
    a = new_log("a", [("alice", "Note", "x")])
    b = new_log("b", [("alice", "Note", "y")])

    found = diff(capsys, a.directory, b.directory)

    assert found["outputs"] is None
    assert (found["log"]["index"], found["log"]["ordinal"]) == (3, 0)
    assert fields(found) == {("alice", "notes.x"): (1, ABSENT), ("alice", "notes.y"): (ABSENT, 1)}


def test_a_log_that_begins_later_is_compared_from_its_snapshot_on(
    new_log: Callable[..., WrittenLog], charging: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = new_log("a", *([("alice", "Move", 1)] * 40 for _ in range(9)))
    add(log, [("alice", "Move", 500)])
    log.snapshot(8)
    assert log.journal.discard_before(9) > 0
    assert open_history(log.directory).first > 1

    found = diff(capsys, log.directory, "--path-b", charging)

    assert found["compared"]["from"] == 9
    assert (found["outputs"]["index"], found["outputs"]["ordinal"]) == (12, 0)
    assert fields(found)[("alice", "fees")] == (0, 1)


def test_an_app_that_cannot_fold_is_named_with_its_side(
    new_log: Callable[..., WrittenLog], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = new_log("a", *ENTRIES)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "diffed_bank.py").write_text("def broken(:\n")

    code = call(["diff", str(log.directory), "--path-b", str(broken)])

    said = capsys.readouterr().err
    assert code == 1
    assert "the second side cannot be folded" in said and "SyntaxError" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is nothing to compare with"),
        (("--from", "9"), "what is kept goes from 1 to 5"),
        (("--from", "x"), "is not a place in the log"),
        (("--path-b", "nowhere"), "is not a directory with the sources"),
        (("nowhere",), "is not the directory of a replica"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    new_log: Callable[..., WrittenLog],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    log = new_log("a", *ENTRIES)

    code = call(["diff", str(log.directory), *arguments])

    shown = capsys.readouterr().err
    assert code == 1
    assert said in shown and len(shown.splitlines()) == 1


def test_the_process_of_a_side_ends_with_the_comparison(
    new_log: Callable[..., WrittenLog], sources: Path
) -> None:
    log = new_log("a", *([("alice", "Move", 1)] for _ in range(50)))
    side = Side("the side", open_history(log.directory), APP, sources)

    with side.trace("outputs", 1, 52) as trace:
        assert next(trace.marks())[0] == 0

    assert trace.process.poll() is not None
    with (
        pytest.raises(OperatorError, match="the side cannot be folded"),
        side.trace("state", 99) as trace,
    ):
        list(trace.lines())


def test_paths_lead_to_the_place_that_differs() -> None:
    a = {"cents": 1, "lines": [{"to": "x"}, 2], "by name": {"é": 1, "a b": 2}, "same": [1]}
    b = {"cents": True, "lines": [{"to": "y"}], "by name": {"é": 1}, "same": [1]}

    assert list(parts("", a, b)) == [
        ("cents", 1, True),
        ("lines[0].to", "x", "y"),
        ("lines[1]", 2, ABSENT),
        ("['by name']['a b']", 2, ABSENT),
    ]
    assert list(parts("", {"d": {"x": 1, "y": 2}}, {"d": {"y": 2, "x": 1}})) == [
        ("d (order)", "x", "y")
    ]
