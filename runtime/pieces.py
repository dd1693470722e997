"""A run of slots, cut into pieces that a ring takes."""

from . import slots


def pieces(run: memoryview, bytes_max: int) -> list[memoryview]:
    """Cut a run between slots into pieces of at most `bytes_max` bytes; a larger slot is a piece by itself."""
    if len(run) <= bytes_max:
        return [run]
    cut: list[memoryview] = []
    start = offset = 0
    while offset < len(run):
        length, _, _ = slots.HEADER.unpack_from(run, offset)
        following = offset + slots.padded(length)
        if following - start > bytes_max and offset > start:
            cut.append(run[start:offset])
            start = offset
        offset = following
    cut.append(run[start:])
    return cut
