"""Message types by name."""

from __future__ import annotations

import importlib
from typing import Any

from mvdust3r_ros.datatypes import MvDust3rError


class MessageTypeError(MvDust3rError):
    """A message type is not installed."""


def message_class(name: str) -> Any:
    """Class of a type in rclpy, named as in "sensor_msgs/msg/Image".

    Raises:
        MessageTypeError: the package or the type is not installed.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        raise MessageTypeError(f"message type {name} is not installed") from None
