"""A place in the log as a person writes it: INDEX or INDEX.ORDINAL."""

import re

from ..runtime.errors import OperatorError

PLACE = re.compile(r"(\d{1,19})(?:\.(\d{1,9}))?")


def parse_place(text: str) -> tuple[int, int | None]:
    """(index, ordinal); the ordinal is None where only the index was given."""
    matched = PLACE.fullmatch(text)
    if matched is None or int(matched[1]) == 0:
        raise OperatorError(
            f"{text!r} is not a place in the log: write INDEX or INDEX.ORDINAL, for example 1042.3."
        )
    index, ordinal = matched.groups()
    return int(index), None if ordinal is None else int(ordinal)


def parse_command(text: str) -> tuple[int, int]:
    """(index, ordinal) of one command, both given."""
    index, ordinal = parse_place(text)
    if ordinal is None:
        raise OperatorError(
            f"{text!r} names a whole entry: write INDEX.ORDINAL, for example {index}.0."
        )
    return index, ordinal
