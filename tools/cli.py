"""The `leftfold` command: which commands there are, and how every one of them ends.

An operator's mistake is one sentence on stderr and exit code 1; Ctrl-C is exit code 130 and a
reader that goes away (`| head`) is the end of the output, both without a traceback. The commands
are in the files of their names, imported when they are called.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from ..runtime.errors import OperatorError

EXIT_OPERATOR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

COMMANDS = (
    ("run", "Run a replica of an app, in the foreground, until Ctrl-C."),
    ("up", "Run a whole cluster of an app on this box, with a live view of it."),
    ("join", "Start a new replica of a running cluster, and make it a member."),
    ("members", "List a cluster's members, or add, promote and remove one."),
    ("transfer", "Have another replica lead."),
    ("kill", "Kill a replica of a cluster on this box, to see what happens."),
    ("pause", "Stop a replica of a cluster on this box for a while."),
    ("dev", "Run a replica that starts again when its app is saved, and shows what changed."),
    ("demo", "Send order flow to an exchange, kill it, start it again and compare."),
    ("status", "Show what a replica does, or did last."),
    ("stat", "Show all figures of a replica once: rates, percentiles, rings; also of a dead one."),
    ("top", "Show a replica's figures live in the terminal, until q."),
    ("profile", "Write a page about where a running replica's time goes, with flame graphs."),
    ("metrics", "Serve a replica's figures to Prometheus until Ctrl-C."),
    ("log", "Print a replica's log as JSON lines; `log stat`: what fills it."),
    ("trace", "Follow one command through a replica by its session and request number."),
    ("replay", "Fold a replica's log to a point; open the debugger in the handler there."),
    ("state", "Print one actor's state as JSON, of a running replica or at any place of a log."),
    ("diff", "Show where two folds part: two places, two directories, two versions of the app."),
    ("snapshot", "Have a running replica write its state now, and wait until that counts."),
    ("backup", "Copy a replica, also while it runs, to a directory or a tar."),
    ("restore", "Make a new replica out of a backup, as it was at any index in it."),
    ("schema", "Write an app's schema to a file, and say what a change of it would break."),
    ("bench", "Measure a ring, or a replica, on this machine, beside what else is installed."),
    ("doctor", "Check whether this machine can run a replica well."),
)


def _worth_showing(default: object) -> str | None:
    """An option that is off, empty or nothing by default says so by not being given."""
    return str(default) if default else None


cli = App(
    name="leftfold",
    help="Replicated domain actors: plain Python folded over a durable log.",
    version=lambda: version("leftfold"),
    help_format="markdown",
    default_parameter=Parameter(negative=(), show_default=_worth_showing),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
GROUPS = {"bench": "benches", "log": "logs", "schema": "schemas"}
"""Commands with commands below them: the name of the group in the file."""

FILES = {"trace": "follow"}
"""Commands that are in a file of another name: trace.py is one side of `diff`."""

for _name, _help in COMMANDS:
    _file = FILES.get(_name, _name)
    cli.command(f"leftfold.tools.{_file}:{GROUPS.get(_name, _name)}", name=_name, help=_help)
cli.register_install_completion_command()  # pyright: ignore[reportUnknownMemberType]


def call(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    try:
        code = _code_of(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return 0
    return code


def _code_of(arguments: Sequence[str]) -> int:
    try:
        outcome = cli(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _complain(_sentence(error), EXIT_USAGE)
    except OperatorError as error:
        return _complain(str(error), EXIT_OPERATOR)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return outcome if isinstance(outcome, int) else 0


def _complain(sentence: str, code: int) -> int:
    print(f"leftfold: {sentence}", file=sys.stderr)
    return code


def _sentence(error: CycloptsError) -> str:
    """Cyclopts' message as plain text, one line, and where more is said."""
    command = " ".join(("leftfold", *(error.command_chain or ())))
    said = " ".join(str(error).split())
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        said = f"{command} takes fewer arguments: {error.unused_tokens[0]!r} is one too many."
    return f"{said} See `{command} --help`."


def _close_stdout() -> None:
    """Nobody reads any more: keep the interpreter from flushing into the closed pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(call(sys.argv[1:]))
