"""Redis's patterns: `*`, `?`, `[abc]`, `[^a-z]`, and a backslash before a character that stands for itself.

Matching takes at most pattern times text steps, whatever the pattern: it comes from a client.
"""

from collections.abc import Callable

Token = bytes | None
"""The characters that fit, as a table of 256 flags; None is `*`."""

ANY = b"\1" * 256


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """Whether a text matches."""
    tokens = _tokens(pattern)
    return lambda text: _matches(tokens, text)


def _tokens(pattern: bytes) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == ord("*"):
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
        elif character == ord("?"):
            tokens.append(ANY)
        elif character == ord("["):
            token, at = _class(pattern, at)
            tokens.append(token)
        else:
            if character == ord("\\") and at < len(pattern):
                character = pattern[at]
                at += 1
            tokens.append(_one(character))
    return tokens


def _one(character: int) -> bytes:
    flags = bytearray(256)
    flags[character] = 1
    return bytes(flags)


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """A class that is never closed ends with the pattern, as in Redis."""
    flags = bytearray(256)
    excludes = pattern[at : at + 1] == b"^"
    at += excludes
    while at < len(pattern) and pattern[at] != ord("]"):
        if pattern[at] == ord("\\") and at + 1 < len(pattern):
            flags[pattern[at + 1]] = 1
            at += 2
        elif at + 2 < len(pattern) and pattern[at + 1] == ord("-"):
            low, high = sorted((pattern[at], pattern[at + 2]))
            flags[low : high + 1] = b"\1" * (high + 1 - low)
            at += 3
        else:
            flags[pattern[at]] = 1
            at += 1
    if excludes:
        flags = bytearray(1 - flag for flag in flags)
    return bytes(flags), at + 1


def _matches(tokens: list[Token], text: bytes) -> bool:
    """Go on greedily; at a mismatch let the last star take one character more."""
    token = at = 0
    star = -1
    star_at = 0
    while at < len(text):
        found = tokens[token] if token < len(tokens) else b""
        if found is None:
            star, star_at = token, at
            token += 1
        elif found and found[text[at]]:
            token += 1
            at += 1
        elif star >= 0:
            star_at += 1
            token, at = star + 1, star_at
        else:
            return False
    return all(rest is None for rest in tokens[token:])
