"""The bond of Nav2's lifecycle manager, where `bondpy` is installed."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode

TOPIC = "bond"
HEARTBEAT_PERIOD_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0
"""Of Nav2's own nodes."""


def make_bond(node: LifecycleNode) -> Any | None:
    """A bond that has begun to beat; None without bondpy (then set `bond_timeout: 0.0`)."""
    try:
        from bondpy.bondpy import Bond
    except ImportError:
        return None
    bond = Bond(node, TOPIC, node.get_name())
    bond.heartbeat_period = HEARTBEAT_PERIOD_S
    bond.heartbeat_timeout = HEARTBEAT_TIMEOUT_S
    bond.start()
    return bond
