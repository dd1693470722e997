"""`leftfold doctor`: it measures, names a remedy beside each warning, leaves nothing behind."""

import json
from pathlib import Path

import attrs
import pytest

from leftfold.runtime.errors import OperatorError
from leftfold.tools import doctor as doctor_module
from leftfold.tools.cli import call
from leftfold.tools.doctor import doctor, filesystem_of, measure_syncs_ns


def test_every_finding_is_in_the_json_and_a_warning_has_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["doctor", str(tmp_path), "--json"])

    report = json.loads(capsys.readouterr().out)
    names = {finding["name"] for finding in report["findings"]}
    assert code == 0
    assert {"python", "compiler", "kernel", "clock", "cores"} <= names
    assert {"/dev/shm", "open files", "disk", "fsync"} <= names
    assert report["ok"] == all(finding["ok"] for finding in report["findings"])
    for finding in report["findings"]:
        assert finding["ok"] == (finding["remedy"] is None), finding


def test_the_table_says_the_same_as_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor(tmp_path)

    table = capsys.readouterr().out
    assert "fdatasync p50" in table
    assert "/dev/shm" in table


def test_measuring_leaves_no_file(tmp_path: Path) -> None:
    times_ns = measure_syncs_ns(tmp_path)

    assert 1 <= len(times_ns) <= doctor_module.SYNCS_MAX
    assert min(times_ns) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_memory_is_warned_about() -> None:
    findings = list(doctor_module._examine(Path("/dev/shm")))

    fsync = next(finding for finding in findings if finding.name == "fsync")
    assert filesystem_of(Path("/dev/shm")) == "tmpfs"
    assert not fsync.ok
    assert "power cut" in str(fsync.remedy)


def test_scarce_shared_memory_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures come from the limits: with larger rings the same machine is too small."""
    huge = attrs.evolve(doctor_module.TransportLimits(), egress_bytes=1 << 60)
    monkeypatch.setattr(doctor_module, "TransportLimits", lambda: huge)

    finding = doctor_module._shared_memory()

    assert not finding.ok
    assert "--shm-size" in str(finding.remedy)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="is not a directory"):
        doctor(tmp_path / "nowhere")
