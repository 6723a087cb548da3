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

"""Message types by name."""

from __future__ import annotations

import importlib
from typing import Any

from mvdust3r_ros.datatypes import MvDust3rError


class MessageTypeError(MvDust3rError):
    """A message type is not installed."""


def message_class(name: str) -> Any:
    """Return the rclpy class of a message type, named as in "sensor_msgs/msg/Image".

    Raises:
        MessageTypeError: the package or the type is not installed.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        raise MessageTypeError(f"message type {name} is not installed") from None
