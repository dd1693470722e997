"""`leftfold replay --until`: the first command after which a Python expression holds."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_bank import Account, Deposit, Hold, Transfer, app
from written_log import WrittenLog

from leftfold.actors.layout import EntryKind
from leftfold.actors.machine import Machine
from leftfold.runtime.errors import OperatorError
from leftfold.tools.condition import COMMAND_NAMES, Condition, names_of
from leftfold.tools.fold import fold
from leftfold.tools.history import open_history
from leftfold.tools.until import first_place

APP = "sample_bank:app"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Entry 3 has four commands, the second of which overdraws; 4 a hold, whose timer fires in 7."""
    log = WrittenLog.begun(tmp_path / "data", app, APP)
    log.commands(
        log.command("alice", Deposit(100)),
        log.command("alice", Transfer("bob", 500)),
        log.command("alice", Transfer("bob", 70)),
        log.command("bob", Deposit(1)),
    )
    log.commands(log.command("alice", Hold(20, 2)))
    for _ in range(3):
        log.append(EntryKind.TIME)
    yield log.directory
    log.close()


def place(
    directory: Path,
    text: str,
    first: tuple[int, int] = (1, 0),
    index: int = 7,
    ordinal: int | None = None,
) -> tuple[int, int]:
    condition = Condition.compile(text, app)
    return first_place(open_history(directory), app, condition, first, index, ordinal)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Account["alice"].cents == 30', (3, 2)),
        ('state(Account, "alice").cents < 100', (3, 2)),
        ('state("Account", "bob").cents == 71', (3, 3)),
        ('Account.get("bob") is not None', (3, 2)),
        ("len(Account) == 2", (3, 2)),
        ("any(account.cents > 70 for account in Account.values())", (3, 0)),
        ('"bob" in Account and index > 3', (4, 0)),
        ("status == 'REJECTED'", (3, 1)),
        ("reason and 'only 100' in reason", (3, 1)),
        ("reply == Balance(30)", (3, 2)),
        ("isinstance(message, Deposit) and key == 'bob'", (3, 3)),
        ("message.to == 'bob' and status == 'OK'", (3, 2)),
        ("actor == 'Account'", (3, 0)),
        ("(index, ordinal) == (3, 1)", (3, 1)),
        ("time_ns >= 1_700_000_004_000_000_000", (4, 0)),
        ("True", (2, 0)),
        ('Account["alice"].held', (4, 0)),
        ('Account["alice"].cents == 30 and index > 4', (6, 0)),
    ],
)
def test_it_is_the_first_command_after_which_the_expression_holds(
    directory: Path, text: str, found: tuple[int, int]
) -> None:
    assert place(directory, text) == found


@pytest.mark.parametrize("cents", [100, 30, 10])
def test_each_place_agrees_with_the_state_folded_to_every_place(
    directory: Path, cents: int
) -> None:
    """The slow way: fold to one place after the other, until it holds."""
    history = open_history(directory)

    def holds(machine: Machine) -> bool:
        try:
            return bool(machine.instance(Account, "alice").cents == cents)
        except KeyError:
            return False

    places = [(2, 0), *((3, ordinal) for ordinal in range(4)), (4, 0)]
    slowly = next(one for one in places if holds(fold(history, app, *one)))

    assert place(directory, f'Account["alice"].cents == {cents}') == slowly


def test_from_and_to_bound_the_search(directory: Path) -> None:
    assert place(directory, "status == 'OK'", first=(3, 1)) == (3, 2)
    assert place(directory, "Account['alice'].cents == 30", first=(3, 3)) == (3, 3)
    with pytest.raises(OperatorError, match=r"holds at none of the 3 commands from 1\.0 to 3\.1"):
        place(directory, "Account['alice'].cents == 30", index=3, ordinal=1)


def test_an_expression_that_is_none_is_a_sentence() -> None:
    with pytest.raises(OperatorError, match="is not a Python expression"):
        Condition.compile("Account[", app)
    with pytest.raises(OperatorError, match="is not a Python expression"):
        Condition.compile("cents = 3", app)


def test_a_name_that_is_not_there_is_answered_with_the_right_one() -> None:
    with pytest.raises(OperatorError, match=r"did you mean Account\?"):
        Condition.compile("Acount['alice'].cents < 0", app)
    with pytest.raises(OperatorError, match=r"it has .*Account.*index.*message"):
        Condition.compile("zzz == 1", app)
    assert {"Account", "Deposit", "state", *COMMAND_NAMES} <= names_of(app)


def test_an_expression_that_fails_everywhere_is_told_apart_from_one_that_never_holds(
    directory: Path,
) -> None:
    with pytest.raises(OperatorError, match=r"could not be evaluated.*AttributeError at 3\.0"):
        place(directory, "Account['alice'].cent == 1", first=(3, 0))
    with pytest.raises(OperatorError, match=r"could not be evaluated at 2 of them; first Attr"):
        place(directory, "message.cents == 99", first=(2, 0))
    with pytest.raises(OperatorError, match="the key must be str"):
        place(directory, "Account[5].cents == 99")


def replay(directory: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", "replay", str(directory), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent,
    )


def test_the_command_shows_the_state_of_that_place(directory: Path) -> None:
    until = replay(directory, "--json", "--until", 'Account["alice"].cents < 100')
    to = replay(directory, "--json", "--to", "3.2")

    assert until.returncode == 0, until.stderr
    assert until.stdout == to.stdout
    found = json.loads(until.stdout)
    assert (found["index"], found["ordinal"]) == (3, 2)


def test_the_debugger_opens_in_the_handler_that_made_it_hold(directory: Path) -> None:
    ended = replay(
        directory, "--pdb", "--until", "'bob' in Account", typed="p command.cents\ncontinue\n"
    )

    assert ended.returncode == 0, ended.stderr
    assert "transfer(" in ended.stdout
    assert "\n(Pdb) 70\n" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--until", "Acount"), "did you mean Account?"),
        (("--until", "1 +"), "is not a Python expression"),
        (("--until", "index > 99"), "holds at none of the"),
        (("--from", "3"), "give --until as well"),
        (("--until", "True", "--from", "x"), "is not a place in the log"),
    ],
)
def test_a_wrong_search_is_one_sentence(
    directory: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = replay(directory, *arguments)

    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
