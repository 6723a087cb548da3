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

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mvdust3r_ros.graph import depth_levels
from mvdust3r_ros.sfm import solve, two_view, window_poses

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def constants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("constants", ROOT / "benchmarks/constants.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["constants"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_a_number_changes_in_every_module_that_has_it_and_changes_back(
    constants: ModuleType,
) -> None:
    before = solve.GOOD_PX, solve.solve.__defaults__
    with constants.Constant("mvdust3r_ros.sfm.solve", "GOOD_PX", 1).set_to(9.0):
        assert solve.GOOD_PX == window_poses.GOOD_PX == (before[0][0], 9.0)
        assert (before[0][0], 9.0) in (solve.solve.__defaults__ or ())
    assert (solve.GOOD_PX, solve.solve.__defaults__) == before
    assert window_poses.GOOD_PX is solve.GOOD_PX


def test_default_values_of_arguments_change_with_it(constants: ModuleType) -> None:
    with constants.Constant("mvdust3r_ros.sfm.two_view", "EPIPOLAR_PX").set_to(9.0):
        assert two_view.verify_pair.__defaults__ == (9.0, two_view.MIN_MATCHES)


def test_a_number_of_the_same_name_and_value_elsewhere_stays(constants: ModuleType) -> None:
    from mvdust3r_ros import rolling_shutter

    with constants.Constant("mvdust3r_ros.rolling_shutter", "ROUNDS").set_to(9):
        assert depth_levels.ROUNDS == 5
        assert rolling_shutter.ROUNDS == 9


def test_shares_stay_shares_and_whole_numbers_whole(constants: ModuleType) -> None:
    share = constants.Constant("mvdust3r_ros.sfm.window_poses", "MAX_PLANE_SHARE")
    assert share.times(2.0) == 1.0
    seed = constants.Constant("mvdust3r_ros.sfm.two_view", "SEED")
    assert seed.times(1.4) is None
    assert isinstance(seed.times(2.0), int)


def test_the_range_is_where_all_inputs_give_the_same(constants: ModuleType) -> None:
    found = [("a", 0.5, ""), ("a", 2.0, ""), ("b", 0.5, "worse"), ("b", 0.7, ""), ("b", 2.0, "")]
    assert constants.same_until(1.0, found, -1) == 0.7
    assert constants.same_until(1.0, found, 1) == 2.0


def test_what_is_missing_on_one_side_is_a_difference(constants: ModuleType) -> None:
    base = dict.fromkeys((*constants.WITHIN, "ate_m"), 1.0)
    assert not constants.difference(base, base)
    assert "ate_m" in constants.difference(base, {**base, "ate_m": math.nan})
    assert "loops" in constants.difference(base, {**base, "loops": 3.0})
