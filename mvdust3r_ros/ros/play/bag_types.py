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

"""Message types as a bag describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mvdust3r_ros.ros.message_types import MessageTypeError


def typestore_with(names: list[str]) -> Typestore:
    """Return definitions of the common types and of the packages of the given ones.

    Raises:
        MessageTypeError: a type has no definition on this machine.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    for package in {name.partition("/")[0] for name in names if name not in store.types}:
        try:
            folder = Path(get_package_share_directory(package)) / "msg"
        except PackageNotFoundError:
            raise MessageTypeError(f"package {package} is not installed") from None
        types: dict[str, Any] = {}
        for path in sorted(folder.glob("*.msg")):
            types.update(get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}"))
        store.register(types)
    missing = [name for name in names if name not in store.types]
    if missing:
        raise MessageTypeError(f"no definition for {', '.join(missing)}")
    return store


def bag_qos(*, reliable: bool, latched: bool) -> Qos:
    """Return a QoS profile in the form that a bag stores."""
    forever = QosTime(0x7FFFFFFF, 0xFFFFFFFF)
    return Qos(
        QosHistory.KEEP_LAST,
        10,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
