"""The supervisor's end of a generation, whatever happens in it."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from replica import leavings

from leftfold.runtime.config import ReplicaConfig
from leftfold.runtime.memory import Memory
from leftfold.runtime.supervisor import Child, Supervisor


def test_no_name_stays_behind_when_a_last_report_cannot_be_told(tmp_path: Path) -> None:
    def observer(event: str, facts: dict[str, Any]) -> None:
        raise OSError(f"nobody listens to {event} {facts}")

    supervisor = Supervisor(ReplicaConfig(directory=tmp_path, app="counting:app"), observer)
    supervisor.memory = Memory.create(supervisor.config, 1)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b'{"warning": "the end of the journal was torn"}\n')
    os.close(writing)
    process = subprocess.Popen(["true"])
    child = Child("journal", process, os.pidfd_open(process.pid), reading)
    supervisor.children["journal"] = child
    assert leavings(tmp_path)

    with pytest.raises(OSError, match="nobody listens"):
        supervisor._end_all()

    assert leavings(tmp_path) == []
    child.close()
    supervisor.selector.close()
