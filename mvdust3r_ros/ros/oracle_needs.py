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

"""Check that the oracle engine has the inputs it needs before anything starts."""

from __future__ import annotations

from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import needs_truth
from mvdust3r_ros.ros.settings import NodeConfig


def require_depth_and_poses(*, depth: str, poses: str) -> None:
    """Require the inputs that the oracle engine uses in place of a network.

    Args:
        depth: the remedy if there is no depth; empty if there is.
        poses: the same for camera poses.

    Raises:
        EngineError: one of them is missing; the message ends with the remedies.
    """
    missing = [name for name, remedy in (("depth", depth), ("camera poses", poses)) if remedy]
    if missing:
        remedies = "; ".join(remedy for remedy in (depth, poses) if remedy)
        raise EngineError(f"the oracle engine needs recorded {' and '.join(missing)}: {remedies}")


def check_node(config: NodeConfig, engine: str) -> None:
    """Check that the node subscribes to the inputs of its engine.

    Raises:
        EngineError: the oracle engine would lack an input; the message names the parameters.
    """
    if not needs_truth(engine):
        return
    ros = config.ros
    require_depth_and_poses(
        depth="" if ros.use_depth else "set ros.use_depth:=true and remap depth",
        poses="" if ros.odom_source != "none" else "set ros.odom_source to topic or tf",
    )
