"""`leftfold schema`: freeze, check and show, with their texts and exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from test_build import forgotten

from leftfold.tools.cli import call

BANK = """
from leftfold.actors import *

@message(id=1)
class Deposit(Command["Balance"]):
    cents: int

@message(id=2)
class Balance:
    cents: int

@actor(id=1, key=str)
class Account:
    cents: int = 0

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance: ...

app = App(actors=[Account], name="bank")
"""
BROKEN = BANK.replace("    cents: int\n\n@message(id=2)", "    cents: str\n\n@message(id=2)")
GROWN = BANK.replace(
    "class Balance:\n    cents: int", "class Balance:\n    cents: int\n    at: int = 0"
)

Leftfold = Callable[..., tuple[int, str, str]]


@pytest.fixture
def leftfold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Leftfold:
    """Run a command over a version of the app: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, source: str = BANK) -> tuple[int, str, str]:
        Path("bank.py").write_text(source)
        with forgotten():
            code = call(["schema", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_what_was_frozen_passes_the_check(leftfold: Leftfold) -> None:
    code, out, _ = leftfold("freeze", "bank:app")
    assert (code, out) == (
        0,
        "schema.json is up to date: 2 messages and 1 actor types of App 'bank'.\n",
    )
    text = Path("schema.json").read_text()
    assert Path("schema.json").stat().st_mode & 0o777 == Path("bank.py").stat().st_mode & 0o777

    assert leftfold("check", "bank:app") == (0, "App 'bank' reads all that is stored.\n", "")
    assert leftfold("freeze", "bank:app")[0] == 0
    assert Path("schema.json").read_text() == text
    assert leftfold("show", "bank:app", "--json")[1] == text
    assert sorted(path.name for path in Path().iterdir()) == ["bank.py", "schema.json"]


def test_an_incompatible_change_fails_the_check_and_is_not_frozen_by_accident(
    leftfold: Leftfold,
) -> None:
    leftfold("freeze", "bank:app")
    text = Path("schema.json").read_text()
    sentence = (
        "Deposit (message 1): Deposit.cents was int and is str; raise the version to 1 and lift "
        "version 0 with @upcast(from_version=0)."
    )

    assert leftfold("check", "bank:app", source=BROKEN) == (1, f"error: {sentence}\n", "")
    code, out, _ = leftfold("freeze", "bank:app", source=BROKEN)
    assert code == 1 and "schema.json was not changed." in out and sentence in out
    assert Path("schema.json").read_text() == text
    code, out, _ = leftfold("check", "bank:app", "--json", source=BROKEN)
    assert code == 1 and json.loads(out) == {
        "compatible": False,
        "frozen": False,
        "findings": [{"kind": "message", "id": 1, "breaks": True, "sentence": sentence}],
    }
    assert leftfold("freeze", "bank:app", "--accept", source=BROKEN)[0] == 0
    assert leftfold("check", "bank:app", source=BROKEN)[0] == 0


def test_a_compatible_change_passes_and_asks_to_be_frozen(leftfold: Leftfold) -> None:
    leftfold("freeze", "bank:app")

    code, out, _ = leftfold("check", "bank:app", source=GROWN)
    assert code == 0 and out == (
        "App 'bank' reads all that is stored; schema.json is behind: `leftfold schema freeze "
        "bank:app`.\n"
    )
    assert leftfold("freeze", "bank:app", source=GROWN)[0] == 0
    code, out, _ = leftfold("check", "bank:app", source=BANK)
    assert code == 0 and "warning: Balance (message 2): Balance.at is gone" in out


def test_an_id_that_was_given_up_is_remembered_through_freezes(leftfold: Leftfold) -> None:
    event = "@message(id=9)\nclass Moved:\n    cents: int\n\n@actor"
    source = BANK.replace("@actor", event).replace("key=str", "key=str, emits=(Moved,)")
    leftfold("freeze", "bank:app", source=source)
    assert leftfold("freeze", "bank:app", source=BANK)[0] == 0
    assert leftfold("freeze", "bank:app", source=GROWN)[0] == 0

    code, out, _ = leftfold("check", "bank:app", source=source.replace("Moved", "Other"))
    assert code == 1 and "Other (message 9): the id was Moved's, which is gone" in out


def test_the_schema_can_be_looked_at(leftfold: Leftfold) -> None:
    code, out, _ = leftfold("show", "bank:app")

    assert code == 0
    assert "message 1 Deposit -> Balance, handler Account.deposit\n    cents: int\n" in out
    assert "actor 1 Account, key str\n    cents: int = ...\n" in out


def test_without_a_file_the_check_says_how_to_get_one(leftfold: Leftfold) -> None:
    code, _, error = leftfold("check", "bank:app", "--file", "kept.json")

    assert code == 1
    assert "leftfold schema freeze bank:app --file kept.json" in error


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "<<<<<<< HEAD\n", '{"format": 2}', '{"format": 1, "messages": {}}']
)
def test_what_is_no_schema_file_is_refused_and_kept(text: str, leftfold: Leftfold) -> None:
    Path("schema.json").write_text(text)

    for command in ("check", "freeze"):
        code, _, error = leftfold(command, "bank:app")
        assert code == 1 and error.startswith("leftfold: schema.json cannot be read as a schema: ")
        assert error.count("\n") == 1
    assert Path("schema.json").read_text() == text


def test_any_damage_to_the_file_is_one_sentence(leftfold: Leftfold) -> None:
    leftfold("freeze", "bank:app")
    schema = json.loads(Path("schema.json").read_text())
    for damage in (
        {"actors": {"1": 5}},
        {"messages": {"x": schema["messages"]["1"]}},
        {"messages": {"1": {**schema["messages"]["1"], "fields": [{"name": "cents"}]}}},
        {
            "messages": {
                "1": {
                    **schema["messages"]["1"],
                    "fields": [{"name": "cents", "type": {"dict": ["int"]}, "default": 1}],
                }
            }
        },
        {
            "messages": {
                "1": {
                    **schema["messages"]["1"],
                    "fields": [{"name": "cents", "type": {"class": "Gone"}, "default": False}],
                }
            }
        },
        {"retired": 5},
    ):
        Path("schema.json").write_text(json.dumps(schema | damage))
        code, _, error = leftfold("check", "bank:app")
        assert code == 1 and "not a schema, or was changed by hand" in error, damage


def test_a_file_that_cannot_be_written_is_one_sentence(leftfold: Leftfold) -> None:
    code, _, error = leftfold("freeze", "bank:app", "--file", "no/where.json")

    assert (
        code == 1
        and error == "leftfold: no/where.json cannot be written: No such file or directory.\n"
    )
