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

"""A robot that stands still goes on mapping, as navigation expects."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import yaml

from box_room import BoxRoom
from mvdust3r_ros.config import KeyframeSettings, MapperConfig
from mvdust3r_ros.datatypes import Verdict
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.mapper import Mapper

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_standing_robot_gets_clouds_in_time_for_nav2(room: BoxRoom) -> None:
    """With the interval of the launch file: a costmap that waits longer would stop the robot."""
    launch = ast.parse((ROOT / "launch" / "nav2.launch.py").read_text())
    (interval_s,) = [
        float(ast.literal_eval(node.elts[1]))
        for node in ast.walk(launch)
        if isinstance(node, ast.Tuple)
        and isinstance(node.elts[0], ast.Constant)
        and node.elts[0].value == "max_interval_s"
        and isinstance(node.elts[1], ast.Constant)
    ]
    mapper = Mapper(
        MapperConfig(keyframes=KeyframeSettings(max_interval_s=interval_s)), OracleEngine()
    )
    walk = room.walk(60)[:20]
    committed_s = []
    for i, T in enumerate([*walk, *[walk[-1]] * 60]):
        update = mapper.process(room.frame((i + 1) * 500_000_000, T))
        if update is not None:
            assert update.verdict == Verdict.COMMITTED, update.message
            committed_s.append(i / 2)
    longest_s = max(np.diff([*committed_s, 40.0]))
    nav2 = yaml.safe_load((ROOT / "config" / "nav2_params.yaml").read_text())
    costmap = nav2["local_costmap"]["local_costmap"]
    waits_s = costmap["ros__parameters"]["voxel_layer"]["marker"]["expected_update_rate"]
    assert longest_s < waits_s / 2
