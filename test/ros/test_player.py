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

"""The player of bags: how it ends when the bag or the context does not last."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

import rclpy
from rclpy.publisher import Publisher

from mvdust3r_ros.ros.play.player import main as play
from short_drive import Drive, large_images, mcap_records


def test_the_player_says_in_a_line_that_a_bag_is_damaged(
    drive: Drive, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = drive.write(tmp_path, large_images(drive)) / "bag.mcap"
    content = bytearray(file.read_bytes())
    records = mcap_records(bytes(content), 8)
    last_chunk = max(n for n, (opcode, _) in enumerate(records) if opcode == 6)
    begin = 8 + sum(9 + len(data) for _, data in records[:last_chunk])
    content[begin + 9 + 24 : begin + 9 + 28] = b"\xa5" * 4  # its checksum
    file.write_bytes(content)
    assert play([str(file), "--wait", "0", "--rate", "50"]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith(f"bag_player: bag {file} is damaged after ")
    assert "`mcap recover`" in last


def test_a_player_that_is_stopped_just_before_a_message_ends_well(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Publisher.publish

    def stopped(publisher: Publisher, message: object) -> None:
        rclpy.try_shutdown()
        send(publisher, message)

    monkeypatch.setattr(Publisher, "publish", stopped)
    assert play([str(drive.write(tmp_path, drive.items())), "--wait", "0"]) == 0
