"""Certificates for tests, made by the openssl command when a test wants them."""

import subprocess
from pathlib import Path

from leftfold.runtime.tls import TlsFiles

CONFIG = """
[ca]
default_ca = here
[here]
database = {directory}/index
serial = {directory}/serial
new_certs_dir = {directory}
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, words)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Authority:
    """One authority in a directory of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.certificate = self.directory / "authority.pem"
        self._key = self.directory / "authority.key"
        (self.directory / "index").touch()
        (self.directory / "serial").write_text("01\n")
        self._config = self.directory / "config"
        self._config.write_text(CONFIG.format(directory=self.directory))
        _openssl(
            *(
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *(
                "-subj",
                f"/CN={name}",
                "-days",
                "30",
                "-keyout",
                self._key,
                "-out",
                self.certificate,
            ),
        )

    def issue(self, name: str, *hosts: str, end: str = "20991231235959Z") -> TlsFiles:
        """A certificate for these hosts, numeric or not, which ends at the time given."""
        key, request = self.directory / f"{name}.key", self.directory / f"{name}.csr"
        certificate = self.directory / f"{name}.pem"
        names = [
            f"IP:{host}" if host.replace(".", "").isdigit() else f"DNS:{host}" for host in hosts
        ]
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName={','.join(names)}"),
            *("-keyout", key, "-out", request),
        )
        _openssl(
            *("ca", "-batch", "-config", self._config, "-cert", self.certificate),
            *("-keyfile", self._key, "-in", request, "-out", certificate, "-notext"),
            *("-startdate", "20200101000000Z", "-enddate", end),
        )
        return TlsFiles(certificate, key, self.certificate)
