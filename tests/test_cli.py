"""The command line: every way a command can end is one sentence and a code, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import App, Parameter

from leftfold.runtime.errors import OperatorError
from leftfold.tools import cli, doctor
from leftfold.tools.cli import COMMANDS, call
from leftfold.tools.ranges import Range


def leftfold(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = call([name, "--help"])

    shown = capsys.readouterr().out
    assert code == 0
    assert f"leftfold {name}" in shown
    assert any(heading in shown for heading in ("Arguments", "Parameters", "Commands"))
    for nothing in ('""', "()", "False", "None"):
        assert f"[default: {nothing}]" not in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code = call(["--help"])

    shown = capsys.readouterr().out
    assert code == 0
    for name, _ in COMMANDS:
        assert f" {name} " in shown
    assert "--install-completion" in shown


def test_a_misspelt_command_is_answered_with_the_right_one() -> None:
    ended = leftfold("replya")

    assert ended.returncode == cli.EXIT_USAGE
    assert ended.stdout == ""
    assert "replay" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "parameter APP requires an argument. See `leftfold run --help`."),
        (
            ["schema", "check", "a:b", "c", "d"],
            "leftfold schema check takes fewer arguments: 'c' is one too many. See `leftfold schema check --help`.",
        ),
    ],
)
def test_too_few_and_too_many_arguments_are_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == cli.EXIT_USAGE

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith(f"{said}\n")
    assert shown.err.count("\n") == 1


def test_a_misspelt_option_is_answered_with_the_right_one() -> None:
    ended = leftfold("doctor", "--jsom")

    assert ended.returncode == cli.EXIT_USAGE
    assert "--json" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "a:b", "--port", "65536"], "--port. It goes from 0 to 65535."),
        (["run", "a:b", "--resp", "-1"], "--resp. It goes from 0 to 65535."),
        (["run", "a:b", "--handler-budget-ms", "0"], "--handler-budget-ms. It goes from 1 to"),
        (["run", "a:b", "--drain-s", "-1"], "--drain-s. It goes from 0 to 86400."),
        (["run", "a:b", "--drain-s", "nan"], "--drain-s. It goes from 0 to 86400."),
        (["run", "a:b", "--snapshot-log-mib", "nan"], "It goes from 0.001 to 1048576."),
        (["run", "a:b", "--disk-max-gib", "-1"], "--disk-max-gib. It goes from 0.25 to 1024."),
        (["run", "a:b", "--replica", "0"], "--replica. It goes from 1 to 4294967295."),
        (["up", "a:b", "--replicas", "0"], "--replicas. It goes from 1 to 9."),
        (["up", "a:b", "--port", "65500"], "--port. It goes from 0 to 65435."),
        (["up", "a:b", "--restart-s", "inf"], "--restart-s. It goes from 0 to 86400."),
        (["join", "h:1", "--dir", "d", "--peer-address", "h:2", "--port", "-1"], "--port. It goes"),
        (["dev", "a:b", "--port", "-1"], "--port. It goes from 0 to 65535."),
        (["dev", "a:b", "--last", "0"], "--last. It goes from 1 to 100000."),
        (["demo", "--orders", "0"], "--orders. It goes from 1 to 100000000."),
        (["members", "--wait-s", "-1"], "--wait-s. It goes from 0 to 86400."),
        (["transfer", "-1"], "It goes from 0 to 4294967295."),
        (["pause", "1", "--seconds", "-1"], "--seconds. It goes from 0 to 86400."),
        (["metrics", "--port", "70000"], "--port. It goes from 0 to 65535."),
        (["top", "--interval", "nan"], "--interval. It goes from 0.1 to 86400."),
        (["top", "--interval", "inf"], "--interval. It goes from 0.1 to 86400."),
        (["top", "--interval", "0"], "--interval. It goes from 0.1 to 86400."),
        (["stat", "--seconds", "0"], "--seconds. It goes from 0.01 to 3600."),
        (["profile", "--seconds", "0.5"], "--seconds. It goes from 1 to 3600."),
        (["kill", "-1"], "It goes from 1 to 4294967295."),
        (["demo", "--seed", "-1"], "--seed. It goes from 0 to"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == cli.EXIT_USAGE

    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


def options_of(command: App) -> Iterator[tuple[str, Any, Parameter]]:
    """(name, type, how it is checked) of each argument and option of a command, and of the commands below it."""
    if command.default_command is not None:
        for argument in command.assemble_argument_collection():
            yield argument.name, argument.hint, argument.parameter
    for name in command:
        if not name.startswith("-"):
            yield from options_of(command[name])


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_number_of_every_command_has_a_range(name: str) -> None:
    unbounded = [
        option
        for option, hint, parameter in options_of(cli.cli[name])
        if {int, float} & {hint, *get_args(hint)}
        and not any(isinstance(one, Range) for one in parameter.validator)
    ]

    assert unbounded == []


def test_an_operators_mistake_is_one_sentence_and_code_one(tmp_path: Path) -> None:
    ended = leftfold("doctor", str(tmp_path / "nowhere"))

    assert ended.returncode == cli.EXIT_OPERATOR
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("name an existing one to measure.\n")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (OperatorError("Mend it."), cli.EXIT_OPERATOR),
        (KeyboardInterrupt(), cli.EXIT_INTERRUPTED),
    ],
)
def test_each_way_to_end_has_its_code(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def examine(directory: Path) -> None:
        del directory
        raise raised

    monkeypatch.setattr(doctor, "_examine", examine)

    assert call(["doctor", str(tmp_path)]) == code


INTERRUPTED = """
import atexit, os, signal, sys
moment = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            os.kill(os.getpid(), signal.SIGINT)

if moment == "the end":
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from leftfold.tools.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "moment", ["leftfold.tools.cli", "cyclopts", "leftfold.runtime.errors", "the end"]
)
def test_ctrl_c_is_quiet_while_the_command_is_imported_and_when_it_has_ended(moment: str) -> None:
    """The signal comes in the middle of the import, or after the last word of the command."""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPTED, moment, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 130
    assert ended.stderr == ""
    assert ended.stdout == (version("leftfold") + "\n" if moment == "the end" else "")


def test_ctrl_c_stays_ignored_where_the_caller_had_it_ignored() -> None:
    """As a shell has it for a job in the background."""
    shell = f"trap '' INT; exec {sys.executable} -P -c \"$0\" leftfold.tools.cli --version"
    ended = subprocess.run(
        ["/bin/sh", "-c", shell, INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0
    assert ended.stdout == version("leftfold") + "\n"


def test_a_reader_that_goes_away_ends_the_output_without_a_traceback(tmp_path: Path) -> None:
    """`leftfold doctor | true`, with the pipe closed before the first byte is written."""
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", "doctor", "--json", str(tmp_path)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )

    os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_completion_installs_for_the_shell_that_asks(tmp_path: Path) -> None:
    ended = leftfold(
        "--install-completion",
        env={**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"},
    )

    assert ended.returncode == 0, ended.stderr
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("leftfold" in path.read_text() for path in installed)


def test_the_version_is_the_packages() -> None:
    assert leftfold("--version").stdout.strip() == version("leftfold")
