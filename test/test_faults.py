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

from __future__ import annotations

from mvdust3r_ros.ros.health.faults import FaultLog


def test_each_reason_is_said_at_once_and_then_seldom_and_all_are_counted() -> None:
    now = [100.0]
    said: list[str] = []
    log = FaultLog(said.append, lambda: now[0])
    for _ in range(5):
        log.report("encoding", "encoding 'nv12'")
        now[0] += 1
    log.report("qos", "no link")
    now[0] += 6
    log.report("encoding", "encoding 'nv21'")
    assert said == [
        "encoding 'nv12' [encoding]",
        "no link [qos]",
        "encoding 'nv21' [encoding, 4 more since]",
    ]
    assert log.counts() == {"encoding": 6, "qos": 1}


def test_recent_faults_fade() -> None:
    now = [0.0]
    log = FaultLog([].append, lambda: now[0])
    log.report("a", "old")
    now[0] = 4.0
    log.report("b", "new")
    assert log.recent(5.0) == {"a": "old", "b": "new"}
    now[0] = 6.0
    assert log.recent(5.0) == {"b": "new"}
