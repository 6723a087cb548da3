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

"""Keep a mapper running while its network fails or is too slow; needs no ROS."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from mvdust3r_ros.config import KeyframeSettings, with_values
from mvdust3r_ros.datatypes import ENGINE_FAULTS, MapUpdate
from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.ros.health.degradation import (
    DegradationLimits,
    DegradationPolicy,
    Outcome,
    ServiceLevel,
)
from mvdust3r_ros.ros.settings import NodeConfig
from mvdust3r_ros.window.keyframes import MIN_WINDOW

OUT_OF_MEMORY = re.compile(r"out of memory|MemoryError|bad_alloc|failed to allocate", re.I)
MakeEngine = Callable[[NodeConfig, bool], Engine]
LEVEL_NAMES = {
    ServiceLevel.FULL: "as configured",
    ServiceLevel.FEWER_VIEWS: "with half the views",
    ServiceLevel.ONE_REFERENCE: "with half the views and one reference view",
    ServiceLevel.FALLBACK_ENGINE: "with the fallback engine",
    ServiceLevel.STOPPED: "not mapping",
}


class Supervisor:
    """Watches the outcomes of windows and degrades the mapper.

    Attributes:
        gave_up: why the node has to stop mapping; empty unless it has to.
    """

    def __init__(
        self,
        mapper: Mapper,
        config: NodeConfig,
        make_engine: MakeEngine,
        report: Callable[[str, str], None],
    ) -> None:
        """Start at the top of the ladder, with the mapper's engine.

        Args:
            mapper: the mapper; the supervisor closes its engine.
            config: all settings.
            make_engine: loads the configured engine, or with True the fallback engine.
            report: called with a reason and a message at each step.
        """
        self.gave_up = ""
        self._mapper, self._config = mapper, config
        self._make_engine, self._report = make_engine, report
        self._lock = threading.RLock()
        self._is_open, self._on_fallback = True, False
        self._policy = self._new_policy()

    @property
    def level(self) -> ServiceLevel:
        """The node's degradation level."""
        return self._policy.level

    @property
    def message(self) -> str:
        """The level and its reason; empty at the top."""
        policy = self._policy
        if policy.level == ServiceLevel.FULL:
            return ""
        return f"mapping {LEVEL_NAMES[policy.level]}: {policy.reason}"

    @property
    def latency_p95_s(self) -> float | None:
        """95th percentile of the time per window; None before there are enough windows."""
        return self._policy.latency_p95_s

    def restart(self) -> None:
        """Start again at the top, with the configured engine.

        Raises:
            EngineError: it cannot be loaded again.
        """
        with self._lock:
            if self._on_fallback or not self._is_open:
                self.close()
                self._use(fallback=False)
            self.gave_up = ""
            self._policy = self._new_policy()
            self._mapper.reconfigure(self._limited())

    def reconfigure(self, config: NodeConfig) -> None:
        """Apply other settings, within the limits of the current level.

        Raises:
            ConfigError: a structural setting differs.
        """
        with self._lock:
            before, self._config = self._config, config
            try:
                self._mapper.reconfigure(self._limited())
            except Exception:
                self._config = before
                raise
            self._policy.rule = self._rule()

    def after(self, update: MapUpdate) -> None:
        """Process the outcome of a window; only the inference thread calls this."""
        failed = update.verdict in ENGINE_FAULTS
        if not failed and "decode" not in update.latency_ms:
            return  # the network did not run
        outcome = Outcome(
            latency_s=sum(update.latency_ms.values()) * 1e-3,
            failure=update.message if failed else "",
            out_of_memory=failed and bool(OUT_OF_MEMORY.search(update.message)),
        )
        with self._lock:
            level = self._policy.record(outcome)
            while level is not None:
                level = self._move_to(level)

    def close(self) -> None:
        """Free the engine, once."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._mapper.engine.close()

    def _new_policy(self) -> DegradationPolicy:
        levels = []
        if self._keyframes.window_size > MIN_WINDOW:
            levels.append(ServiceLevel.FEWER_VIEWS)
        if (self._config.engine.n_ref or self._mapper.engine.describe().n_ref) > 1:
            levels.append(ServiceLevel.ONE_REFERENCE)
        if self._config.ladder.fallback_engine:
            levels.append(ServiceLevel.FALLBACK_ENGINE)
        return DegradationPolicy(self._rule(), levels)

    @property
    def _keyframes(self) -> KeyframeSettings:
        """Keyframe settings as configured, with the engine's defaults filled in."""
        return self._mapper.engine.describe().filled_in(self._config).keyframes

    def _rule(self) -> DegradationLimits:
        rule = self._config.ladder
        return DegradationLimits(rule.failures, rule.healthy_windows, rule.max_latency_s)

    def _limited(self) -> NodeConfig:
        """Return the settings, limited to the current level."""
        values: dict[str, object] = {}
        if self.level >= ServiceLevel.FEWER_VIEWS:
            views = max(MIN_WINDOW, self._keyframes.window_size // 2)
            overlap = min(self._keyframes.window_overlap, max(1, views // 2))
            values["keyframes.window_size"] = values["keyframes.busy_window_size"] = views
            values["keyframes.window_overlap"] = overlap
        if self.level >= ServiceLevel.ONE_REFERENCE:
            values["engine.n_ref"] = 1
        return with_values(self._config, values)

    def _move_to(self, level: ServiceLevel) -> ServiceLevel | None:
        """Move to a level; return the next one if that fails."""
        self._report("ladder", f"mapping {LEVEL_NAMES[level]}: {self._policy.reason}")
        if level == ServiceLevel.STOPPED:
            self.gave_up = self._policy.reason
            return None
        try:
            self._use(fallback=level == ServiceLevel.FALLBACK_ENGINE)
        except Exception as error:  # noqa: BLE001 - a backend may raise anything while it loads
            return self._policy.step_down(f"{type(error).__name__}: {error}")
        self._mapper.reconfigure(self._limited())
        return None

    def _use(self, *, fallback: bool) -> None:
        """Change engines; on the way down, free the old one first for its memory."""
        if fallback == self._on_fallback and self._is_open:
            return
        if fallback:
            self.close()
        engine = self._make_engine(self._config, fallback)
        info, (height, width) = engine.describe(), self._mapper.view_hw
        if not info.takes((height, width)):
            engine.close()
            raise EngineError(
                f"the engine takes views of {info.describe_size()}, the map is made of "
                f"{width}x{height}"
            )
        self.close()
        self._mapper.use_engine(engine)
        self._is_open, self._on_fallback = True, fallback
