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

from pathlib import Path

import numpy as np
import pytest
import yaml

from mvdust3r_ros.cli import main
from mvdust3r_ros.config import (
    ConfigError,
    config_to_yaml,
    flat_settings,
    load_config,
    with_values,
)
from mvdust3r_ros.ros.settings import NodeConfig, RosSettings

CONFIG = Path(__file__).parents[1] / "config" / "mapper.yaml"


def test_the_parameter_file_is_that_of_the_settings() -> None:
    assert CONFIG.read_text() == config_to_yaml(NodeConfig(), "/**"), (
        "run: mvdust3r_ros params > config/mapper.yaml"
    )


def test_the_command_prints_the_parameter_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params"]) == 0
    assert capsys.readouterr().out == CONFIG.read_text()


def test_the_parameter_file_holds_every_setting_and_the_core_reads_it() -> None:
    sections = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    names = {f"{s}.{k}" for s, values in sections.items() for k in values}
    assert names == {s.name for s in flat_settings(NodeConfig())}
    assert load_config(CONFIG).map == NodeConfig().map


@pytest.mark.parametrize("frame", ["odom_frame", "camera_frame", "base_frame"])
def test_the_map_frame_is_a_frame_of_its_own(frame: str) -> None:
    with pytest.raises(ConfigError, match="map_frame"):
        with_values(NodeConfig(), {f"ros.{frame}": "map"})


def test_the_mounting_of_the_camera_in_six_numbers() -> None:
    assert RosSettings().mounting() is None
    T = RosSettings(T_base_cam="0.1 0 1.2 0 0 0").mounting()
    assert T is not None
    np.testing.assert_allclose(T @ [0, 0, 2, 1], [2.1, 0, 1.2, 1], atol=1e-12)  # ahead
    np.testing.assert_allclose(T @ [0, 1, 0, 1], [0.1, 0, 0.2, 1], atol=1e-12)  # down
    left = RosSettings(T_base_cam=f"0 0 0 0 0 {np.pi / 2}").mounting()
    assert left is not None
    np.testing.assert_allclose(left @ [0, 0, 1, 1], [0, 1, 0, 1], atol=1e-12)
    for bad in ("1 2 3", "0 0 0 0 0 nan", "a b c d e f"):
        with pytest.raises(ConfigError, match="six numbers"):
            RosSettings(T_base_cam=bad)


def test_camera_names_are_checked() -> None:
    assert RosSettings().camera_names == [""]
    assert RosSettings(cameras="front, left").camera_names == ["front", "left"]
    for bad in ("front,front", "a,b,c,d,e,f,g", "front,", "fr/ont", "2d"):
        with pytest.raises(ConfigError, match="cameras"):
            RosSettings(cameras=bad)
    with pytest.raises(ConfigError, match="camera_frame"):
        RosSettings(cameras="front,left", camera_frame="front_optical")
