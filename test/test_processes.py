# Copyright 2026 mvdust3r_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What the processes of a demo find in their environment."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mvdust3r_ros.ros.play.processes import FASTDDS_VARIABLES, Processes, fastdds_environment


def test_fast_dds_gets_its_profile_unless_a_person_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FASTDDS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = variables_of_a_child(tmp_path / "none")
    for name in FASTDDS_VARIABLES:
        assert "images_in_shared_memory" in Path(found[name]).read_text()
    assert found["RMW_FASTRTPS_USE_QOS_FROM_XML"] == "1"
    for name in FASTDDS_VARIABLES:
        monkeypatch.setenv(name, "/mine.xml")
        found = variables_of_a_child(tmp_path / name)
        assert [found.get(n) for n in FASTDDS_VARIABLES if n in found] == ["/mine.xml"]
        monkeypatch.delenv(name)


def variables_of_a_child(logs: Path) -> dict[str, str]:
    """What a process that the demo starts finds in its environment."""
    logs.mkdir()
    processes = Processes(logs, 1, fastdds_environment())
    processes.run("child", ["-c", "import json, os; print(json.dumps(dict(os.environ)))"])
    while not processes.ended("child"):
        time.sleep(0.01)
    found: dict[str, str] = json.loads((logs / "child.log").read_text())
    return found
