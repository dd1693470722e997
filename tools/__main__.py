"""Where `leftfold` begins and ends: Ctrl-C is quiet from the first moment to the last.

Importing the command line takes a third of a second, and a signal that came in it, or while the interpreter is taken apart,
would be shown as a traceback. What a command does about Ctrl-C while it runs is its own (cli.py).
"""

import os
import signal
import sys

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its code."""
    # Whoever started us with Ctrl-C ignored, as a shell does for a job in the background, keeps that.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    code = EXIT_INTERRUPTED
    try:
        from . import cli

        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = cli.call(sys.argv[1:])
    except KeyboardInterrupt:
        pass
    finally:
        if heeded:
            signal.signal(signal.SIGINT, _leave)
    raise SystemExit(code)


def _leave(number: int, frame: object) -> None:
    del number, frame
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
