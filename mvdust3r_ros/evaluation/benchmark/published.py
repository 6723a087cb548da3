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

"""Trajectory errors that others have published, each with its source.

ATE RMSE in metres after alignment with scale. Only averages, where nothing else was at hand. Those
of other years and machines: beside ours to compare, not measured by us.
"""

from __future__ import annotations

from dataclasses import dataclass

TUM = ("360", "desk", "desk2", "floor", "plant", "room", "rpy", "teddy", "xyz")
SCENES = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
REPLICA = ("room0", "room1", "room2", "office0", "office1", "office2", "office3", "office4")
MAST3R_SLAM = "MASt3R-SLAM (arXiv:2412.12392)"


@dataclass(frozen=True)
class Published:
    """A row that others have published.

    Attributes:
        method: name of the system.
        calibrated: whether it was given the intrinsics.
        ate_m: sequence -> ATE RMSE, metres.
        average_m: over the sequences, as published.
        source: paper and table.
    """

    method: str
    calibrated: bool
    ate_m: dict[str, float]
    average_m: float
    source: str


def _row(names: tuple[str, ...], text: str) -> dict[str, float]:
    return dict(zip(names, map(float, text.split()), strict=True))


_VGGT_SLAM_TUM = "VGGT-SLAM (arXiv:2505.12549), table 2"
_VGGT_SLAM_SCENES = "VGGT-SLAM (arXiv:2505.12549), table 1"
_VIA = f"{MAST3R_SLAM}, also in"
PUBLISHED = {
    "tum": (
        Published(
            "MASt3R-SLAM", True,
            _row(TUM, "0.049 0.016 0.024 0.025 0.020 0.061 0.027 0.041 0.009"), 0.030,
            f"{_VIA} {_VGGT_SLAM_TUM}",
        ),
        Published(
            "MASt3R-SLAM", False,
            _row(TUM, "0.070 0.035 0.055 0.056 0.035 0.118 0.041 0.114 0.020"), 0.060,
            f"{_VIA} {_VGGT_SLAM_TUM}",
        ),
        Published(
            "VGGT-SLAM, SL(4)", False,
            _row(TUM, "0.071 0.025 0.040 0.141 0.023 0.102 0.030 0.034 0.014"), 0.053,
            _VGGT_SLAM_TUM,
        ),
        Published(
            "VGGT-SLAM 2.0", False,
            _row(TUM, "0.050 0.025 0.029 0.102 0.026 0.063 0.026 0.038 0.014"), 0.041,
            "VGGT-SLAM 2.0 (arXiv:2601.19887), table I",
        ),
        Published(
            "AMB3R-VO", False,
            _row(TUM, "0.039 0.017 0.023 0.027 0.027 0.055 0.022 0.028 0.008"), 0.027,
            "benchmark/README.md of github.com/HengyiWang/amb3r (in centimetres)",
        ),
        Published(
            "DA3-Streaming", False,
            _row(TUM, "0.059 0.034 0.042 0.107 0.060 0.105 0.206 0.126 0.044"), 0.087,
            "da3_streaming/README.md of github.com/ByteDance-Seed/Depth-Anything-3",
        ),
    ),
    "7scenes": (
        Published(
            "MASt3R-SLAM", True, _row(SCENES, "0.053 0.025 0.015 0.097 0.088 0.041 0.011"), 0.047,
            f"{_VIA} {_VGGT_SLAM_SCENES}",
        ),
        Published(
            "MASt3R-SLAM", False, _row(SCENES, "0.063 0.046 0.029 0.103 0.114 0.074 0.032"), 0.066,
            f"{_VIA} {_VGGT_SLAM_SCENES}",
        ),
        Published(
            "VGGT-SLAM, SL(4)", False,
            _row(SCENES, "0.036 0.028 0.018 0.103 0.133 0.058 0.093"), 0.067, _VGGT_SLAM_SCENES,
        ),
    ),
    "euroc": (
        Published(
            "MASt3R-SLAM", True, {}, 0.041,
            f"{_VIA} AIM-SLAM (arXiv:2603.05097), table II",
        ),
        Published(
            "MASt3R-SLAM", False, {}, 0.164,
            f"{_VIA} AIM-SLAM (arXiv:2603.05097), table II; images undistorted by the calibration",
        ),
    ),
    "replica": (
        Published(
            "VGGT-SLAM", False,
            _row(REPLICA, "0.030 0.167 0.086 0.042 0.064 0.095 0.039 0.043"), 0.071,
            "run by the authors of SLAM-Former (arXiv:2509.16909), table 3",
        ),
    ),
}  # fmt: skip
