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

"""The node's parameters: declared from the settings, validated on change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from mvdust3r_ros.config import ConfigError, Setting, check_value, flat_settings, with_values
from mvdust3r_ros.ros.settings import NodeConfig

FOREIGN_PREFIXES = ("use_sim_time", "qos_overrides", "start_type_description_service")


class NodeParameters:
    """All settings as parameters of a node.

    The node must be made with `automatically_declare_parameters_from_overrides=True`. A value
    refused at start leaves the default in place and is recorded in `faults`, so that the node
    stays up and can report it; setting the parameter clears the fault.

    Attributes:
        config: the current settings.
        faults: parameter with a refused start value -> the error.
        unknown: given parameter that does not exist -> the error, with similar names.
    """

    def __init__(
        self,
        node: Node,
        is_configured: Callable[[], bool],
        on_change: Callable[[NodeConfig], None],
    ) -> None:
        """Declare all parameters.

        Args:
            node: the node.
            is_configured: whether structural settings are fixed now.
            on_change: called with the new settings.
        """
        self.config = NodeConfig()
        self.faults: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self._is_configured = is_configured
        self._on_change = on_change
        self._known = {s.name: s for s in flat_settings(self.config)}
        self._take_start_values({n: p.value for n, p in node.get_parameters_by_prefix("").items()})
        for item in flat_settings(self.config):
            if node.has_parameter(item.name):
                node.undeclare_parameter(item.name)
            node.declare_parameter(
                item.name, item.value, describe_parameter(item), ignore_override=True
            )
        node.add_on_set_parameters_callback(self._on_set)

    def _take_start_values(self, given: Mapping[str, object]) -> None:
        """Apply the valid values given on the command line or in a file."""
        good: dict[str, object] = {}
        for name, value in given.items():
            try:
                if name in self._known:
                    check_setting(self._known[name], value)
                    good[name] = value
                elif not name.startswith(FOREIGN_PREFIXES):
                    with_values(self.config, {name: value})
            except ConfigError as error:
                wrong = self.faults if name in self._known else self.unknown
                wrong[name] = str(error)
        try:
            self.config = with_values(self.config, good)
        except ConfigError as error:
            self.faults.update(dict.fromkeys(good, str(error)))

    def _on_set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Accept or refuse a change as a whole."""
        values = {p.name: p.value for p in parameters if p.name in self._known}
        now = {s.name: s.value for s in flat_settings(self.config)}
        fixed = [n for n, v in values.items() if self._known[n].structural and v != now[n]]
        if fixed and self._is_configured():
            reason = f"{', '.join(fixed)}: can only change while the node is unconfigured"
            return SetParametersResult(successful=False, reason=reason)
        try:
            self.config = with_values(self.config, values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for name in values:
            self.faults.pop(name, None)
        if values:
            self._on_change(self.config)
        return SetParametersResult(successful=True)


def check_setting(item: Setting, value: object) -> None:
    """Raise ConfigError, naming the setting, if a value is invalid."""
    meta = {
        "choices": item.choices, "low": item.low, "high": item.high, "auto": item.auto
    }  # fmt: skip
    check_value(item.name, value, item.default, meta)


def describe_parameter(item: Setting) -> ParameterDescriptor:
    """Describe a setting and its range; a float setting accepts integers too."""
    limits: dict[str, Any] = {}
    if item.low is not None and item.high is not None and type(item.default) in (int, float):
        low, high = item.low, item.high
        if item.auto is not None:
            low, high = min(low, item.auto), max(high, item.auto)
        if isinstance(item.default, int):
            limits["integer_range"] = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            float_range = FloatingPointRange(from_value=float(low), to_value=float(high))
            limits["floating_point_range"] = [float_range]
    notes = []
    if item.choices:
        notes.append("one of " + ", ".join(item.choices))
    if not limits and item.low is not None:
        notes.append(f"at least {item.low:g}")
    if not limits and item.high is not None:
        notes.append(f"at most {item.high:g}")
    if item.auto is not None:
        notes.append(f"{item.auto:g} leaves it to the engine")
    if item.structural:
        notes.append("can only change while the node is unconfigured")
    return ParameterDescriptor(
        description=item.description,
        additional_constraints="; ".join(notes),
        dynamic_typing=isinstance(item.default, float),
        **limits,
    )
