"""Snapshot files for tests: whole ones of any content, small enough to be broken at every byte."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from attrs import evolve
from journal_samples import snapshot_of

from leftfold.runtime.snapshotfile import Encoder, SnapshotHeader
from leftfold.runtime.snapshots import snapshot_name


def pieces_of(index: int, count: int = 3, piece_bytes: int = 700) -> list[bytes]:
    """Content that says whose it is; a part of it does not compress."""
    text = [(b"entry %d piece %d " % (index, at)) * (piece_bytes // 16) for at in range(count)]
    noise = [Random(index * count + at).randbytes(600) for at in range(count)]
    return [one + other for one, other in zip(text, noise, strict=True)]


def encoded(header: SnapshotHeader, pieces: Sequence[bytes]) -> bytes:
    """A whole file."""
    encoder = Encoder(header)
    return b"".join([encoder.header(), *(encoder.chunk(piece) for piece in pieces), encoder.end()])


def sample(index: int, term: int = 1, **changes) -> bytes:
    """A whole file of the sample content of `index`."""
    return encoded(evolve(snapshot_of(index, term), **changes), pieces_of(index))


def put(directory: Path, index: int, **changes) -> Path:
    """Write a sample where a store finds it."""
    directory.mkdir(exist_ok=True)
    path = directory / snapshot_name(index)
    path.write_bytes(sample(index, **changes))
    return path
