"""How a client trusts a replica, and is trusted: the authority that signed the replicas' certificates, and a token.

With an authority everything goes over TLS, and a replica must show a certificate for the host that was asked; without, nothing is
encrypted. The replica's side is tls.py.
"""

import os
import ssl
from pathlib import Path

from attrs import field, frozen

from .errors import OperatorError
from .frames import TOKEN_BYTES_MAX

AUTHORITY_VARIABLE, TOKEN_VARIABLE = "LEFTFOLD_TLS_AUTHORITY", "LEFTFOLD_TOKEN"


def _path(given: "Path | str | None") -> Path | None:
    return Path(given) if given else None


@frozen
class Trust:
    """PEM file of the authority, and the token; empty: none."""

    authority: Path | None = field(default=None, converter=_path)
    token: str = field(default="", repr=False)

    def __attrs_post_init__(self) -> None:
        if len(self.token.encode()) > TOKEN_BYTES_MAX:
            raise OperatorError(f"No replica knows a token of more than {TOKEN_BYTES_MAX} bytes.")

    @classmethod
    def from_environment(cls) -> "Trust":
        """What an operator's shell says; a token on a command line could be read by everybody on the machine."""
        return cls(os.environ.get(AUTHORITY_VARIABLE), os.environ.get(TOKEN_VARIABLE, ""))

    def context(self) -> ssl.SSLContext | None:
        """None: without TLS. Raises OperatorError."""
        if self.authority is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror if not isinstance(error, ssl.SSLError) else "it is not PEM"
            raise OperatorError(
                f"{self.authority} is no authority's certificate: {why}."
            ) from error
        return context
