"""Why a unit failed, as a stable code and a text that is the same on every replica.

The text never holds a traceback, and an address in it is blanked: both differ between processes.
"""

import re
from enum import StrEnum

TEXT_MAX = 300
ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


class Code(StrEnum):
    """The first word of a FAILED reply."""

    RAISED = "A101"  # the handler raised something other than Rejected
    REJECTED_LATE = "A102"  # Rejected after a send, an event or a timer
    REJECTED_INSIDE = "A103"  # Rejected by a timer's method or by the receiver of a send
    WRONG_REPLY = "A104"  # the reply is of a class that the command does not promise
    UNDECODABLE = "A105"  # a message it sent, or put into a timer, holds a wrong value


class WrongReply(TypeError):
    """A handler returned something that its command does not promise."""


class Undecodable(TypeError):
    """A message that was sent, or put into a timer, cannot be decoded again."""


def describe_error(error: BaseException) -> str:
    """The error's type and text, shortened, without addresses."""
    if isinstance(error, RecursionError):
        # What it says depends on which call met the limit, and so on how deep the machine itself stands.
        return type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001
        # Its __str__ is the application's and may fail as well.
        text = "(no text)"
    if len(text) > TEXT_MAX:
        text = text[:TEXT_MAX] + "..."
    return f"{type(error).__name__}: {ADDRESS.sub('0x', text)}"


def encoded_text(text: object, bytes_max: int) -> bytes:
    """A text for a reply: UTF-8, cut to so many bytes between two characters."""
    found = str(text).encode("utf-8", "backslashreplace")
    return found[:bytes_max].decode("utf-8", "ignore").encode()
