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

"""The node's state for /diagnostics (REP-107), one status per subsystem."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from mvdust3r_ros.datatypes import ENGINE_FAULTS, MapUpdate, Verdict
from mvdust3r_ros.messages.input_counts import KINDS
from mvdust3r_ros.ros.health.arrivals import CLOCK_HINT, Arrivals, Silence
from mvdust3r_ros.ros.outputs import status_msg
from mvdust3r_ros.ros.pipeline import PipelineCounters
from mvdust3r_ros.wording import plural

OK, WARN, ERROR, STALE = 0, 1, 2, 3
"""Levels of diagnostic_msgs/DiagnosticStatus."""
BUSY_S = 60.0
"""A window in the network for longer than this hangs: an engine that takes a tenth of it is too
slow to map for a robot."""
LOST_WINDOWS = 10
"""After this many rejected windows in a row the camera is lost. A chosen limit: a few in a row are
normal at a bare wall or in a turn."""
ENGINE_REASONS = {"ladder", "hang"}
TF_CONFLICT_REASON = "rival"
ODOMETRY_REASONS = ("no_odometry", "odometry", "mounting")
OUTPUT_REASONS = ("tf", "internal", "save")
Values = list[tuple[str, object]]


@dataclass(frozen=True)
class Health:
    """All inputs of the diagnostics.

    Attributes:
        state: lifecycle state of the node.
        paused: whether images are dropped on purpose.
        counters: outcomes of images and windows.
        recent: reason -> message of recent faults.
        counts: reason -> number of faults since the start.
        arrivals: input -> its arrivals.
        silences: input -> why nothing arrives, for inputs silent for too long.
        clock_stopped: whether simulated time is used and has no publisher.
        blocked: why the node cannot be configured; empty if it can.
        engine: name of the engine; empty without one.
        ladder: current degradation and its reason; empty without any.
        busy_s: time that the window in the network has taken so far.
        last: the last outcome of a window; None before the first.
        rejected_in_a_row: windows rejected since the last one that was committed.
        outputs: output topic -> number of subscribers.
        figures: numbers about the outputs.
        tf_conflicts: other publishers of the node's transforms; empty without any.
        looking_in: keyframes of a loaded map in which the camera is not relocalised yet.
        namesakes: other nodes of the same name.
        readouts_s: camera -> rolling-shutter readout time of its images.
    """

    state: str
    paused: bool = False
    counters: PipelineCounters = field(default_factory=PipelineCounters)
    recent: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    arrivals: dict[str, Arrivals] = field(default_factory=dict)
    silences: dict[str, Silence] = field(default_factory=dict)
    clock_stopped: bool = False
    blocked: str = ""
    engine: str = ""
    ladder: str = ""
    busy_s: float = 0.0
    last: MapUpdate | None = None
    rejected_in_a_row: int = 0
    outputs: dict[str, int] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)
    tf_conflicts: str = ""
    looking_in: int = 0
    namesakes: int = 0
    readouts_s: dict[str, float] = field(default_factory=dict)


def diagnose(health: Health, name: str) -> list[DiagnosticStatus]:
    """Return one status for each subsystem.

    Args:
        health: the state.
        name: node name; the statuses are called "name: input" and so on.
    """
    return [
        _input_status(health, f"{name}: input"),
        _odometry_status(health, f"{name}: odometry"),
        _engine_status(health, f"{name}: engine"),
        _stitching_status(health, f"{name}: stitching"),
        _scale_status(health, f"{name}: scale"),
        _map_status(health, f"{name}: map"),
        _outputs_status(health, f"{name}: outputs"),
    ]


def diagnostics_msg(statuses: list[DiagnosticStatus], stamp: object) -> DiagnosticArray:
    """Make a diagnostic_msgs/DiagnosticArray with a stamp."""
    msg = DiagnosticArray(status=statuses)
    msg.header.stamp = stamp
    return msg


def _input_status(health: Health, name: str) -> DiagnosticStatus:
    counters = health.counters
    elsewhere = {v.name.lower() for v in Verdict} | ENGINE_REASONS | {TF_CONFLICT_REASON}
    recent = [m for r, m in health.recent.items() if r not in elsewhere]
    recent += [CLOCK_HINT] if health.clock_stopped else []
    images = health.arrivals.get("image")
    level, message = OK, "images arrive"
    if health.state != "active":
        message = f"the node is {health.state}"
    elif health.paused:
        message = "paused"
    elif missing := [s.message for n, s in health.silences.items() if n.endswith("/image")]:
        level, message = WARN, "; ".join(missing)
    elif "image" in health.silences:
        level = STALE if images is not None and images.count else WARN
        message = health.silences["image"].message
    elif recent:
        level, message = WARN, "; ".join(recent)
    values: Values = [
        ("images received", counters.received),
        ("keyframes", counters.keyframes),
        ("images skipped", counters.skipped),
        ("images dropped", counters.dropped.total()),
        ("images waiting", counters.waiting),
        *((f"images with {kind}", counters.had[kind]) for kind in KINDS),
    ]
    values += [(f"images dropped: {r}", n) for r, n in sorted(counters.dropped.items())]
    values += [(f"faults: {r}", n) for r, n in sorted(health.counts.items())]
    values += _arrival_values(health, "image")
    return status_msg(level, name, message, values)


def _arrival_values(health: Health, source: str) -> Values:
    arrivals = health.arrivals.get(source)
    if arrivals is None:
        return []
    return [
        ("topic", arrivals.topic),
        ("messages", arrivals.count),
        ("messages lost on the way", arrivals.lost),
        ("callback p99 (ms)", f"{arrivals.durations.percentile(0.99) * 1e3:.3f}"),
    ]


def _odometry_status(health: Health, name: str) -> DiagnosticStatus:
    arrivals, silence = health.arrivals.get("odom"), health.silences.get("odom")
    recent = [health.recent[r] for r in ODOMETRY_REASONS if r in health.recent]
    level, message = OK, "odometry arrives"
    if health.state != "active":
        message = f"the node is {health.state}"
    elif recent:
        level, message = WARN, "; ".join(recent)
    elif arrivals is None:
        message = "no topic: from TF or none, as ros.odom_source says"
    elif silence is not None:
        level, message = OK, silence.message
        if arrivals.count:
            level = STALE
        elif silence.published:
            level = WARN
    elif not arrivals.count:
        message = "nothing yet"
    return status_msg(level, name, message, _arrival_values(health, "odom"))


def _engine_status(health: Health, name: str) -> DiagnosticStatus:
    counters, last = health.counters, health.last
    level, message = OK, health.engine or "no engine loaded"
    if health.blocked:
        level, message = ERROR, health.blocked
    elif health.busy_s > BUSY_S:
        level = ERROR
        message = f"the network has not answered for {health.busy_s:.0f} s; restart the process"
    elif last is not None and last.verdict in ENGINE_FAULTS:
        level, message = ERROR, last.message
    elif health.ladder:
        level, message = WARN, health.ladder
    values: Values = [
        ("engine", health.engine),
        ("windows complete", counters.windows),
        ("windows superseded", counters.superseded),
        ("windows waiting", counters.windows_waiting),
        ("ladder", health.ladder or "as configured"),
    ]
    if last is not None:
        values += [("note on the last window", last.note)] if last.note else []
        values += [
            (f"rows of {name or 'the camera'} take (ms)", f"{1e3 * readout_s:.1f}")
            for name, readout_s in health.readouts_s.items()
        ]
        values += [(f"latency of {s} (ms)", f"{v:.1f}") for s, v in last.latency_ms.items()]
    return status_msg(level, name, message, values)


def _stitching_status(health: Health, name: str) -> DiagnosticStatus:
    last, rejected = health.last, health.rejected_in_a_row
    level, message = OK, "no window yet"
    if last is not None and last.verdict == Verdict.COMMITTED:
        message = "the last window fits the map"
        if last.rolled_back:
            level, message = WARN, last.message
    elif last is not None:
        level, message = WARN, f"{plural(rejected, 'window')} rejected in a row: {last.message}"
    elif health.looking_in:
        level, message = WARN, _looking(health)
    if rejected >= LOST_WINDOWS:
        level = ERROR
        message += "; go back to known ground, or call ~/reset"
    values: Values = [("windows rejected in a row", rejected)]
    if last is not None:
        values += [("residual (m)", f"{last.residual_m:.4f}"), ("verdict", last.verdict.name)]
        values += [("loop closures", last.loop_closures)]
        values += [("windows rolled back by the last one", last.rolled_back)]
    return status_msg(level, name, message, values)


def _looking(health: Health) -> str:
    return (
        f"looking for the camera in the loaded map of {health.looking_in} keyframes; nothing is "
        "added to it before: go to a place that it shows"
    )


def metres_hint(update: MapUpdate) -> str:
    """Explain why a committed window's map has no metres to navigate by, and the remedy."""
    views = [keyframe.view for keyframe in update.window.keyframes]
    said = f" (the engine says: {update.note})" if update.note else ""
    if all(view.T_odom_cam is None for view in views):
        return update.gate_hint + said
    remedy = "drive 1 to 2 m, or set map.camera_height_m"
    if math.isinf(update.scale.rel_sigma):
        return f"the robot has not moved enough for metres from its odometry: {remedy}{said}"
    return f"{remedy}: {update.gate_hint}{said}"


def _scale_status(health: Health, name: str) -> DiagnosticStatus:
    last = health.last
    if last is None or last.verdict != Verdict.COMMITTED:
        return status_msg(OK, name, "nothing new: no window was committed last", [])
    level, message = WARN, metres_hint(last)
    if last.gate_open:
        level, message = OK, f"metres from {last.scale.source.name.lower()}"
    return status_msg(level, name, message, _scale_values(last))


def _scale_values(last: MapUpdate) -> Values:
    return [
        ("scale", f"{last.scale.scale:.4f}"),
        ("scale relative sigma", f"{last.scale.rel_sigma:.3f}"),
        ("scale source", last.scale.source.name.lower()),
    ]


def _map_status(health: Health, name: str) -> DiagnosticStatus:
    counters, last = health.counters, health.last
    level, message = OK, "no window yet"
    if last is not None and last.verdict == Verdict.COMMITTED:
        message = "the map grows"
    elif last is not None:
        level, message = WARN, f"last window rejected: {last.message}"
    elif health.looking_in:
        level, message = WARN, _looking(health)
    if last is not None and last.verdict == Verdict.COMMITTED and not last.gate_open:
        level, message = (
            WARN,
            f"~/occupancy_grid and ~/obstacle_points are withheld: {metres_hint(last)}",
        )
    values: Values = [
        (f"windows {v.name.lower()}", n) for v, n in sorted(counters.verdicts.items())
    ]
    if last is not None and last.verdict == Verdict.COMMITTED:
        values += _scale_values(last)
    return status_msg(level, name, message, values)


def _outputs_status(health: Health, name: str) -> DiagnosticStatus:
    recent = [health.recent[r] for r in OUTPUT_REASONS if r in health.recent]
    level, message = OK, plural(sum(health.outputs.values()), "subscriber")
    if health.tf_conflicts:
        level, message = ERROR, health.tf_conflicts
    elif health.namesakes:
        level = WARN
        message = (
            f"{health.namesakes} more node(s) of this name: their topics and services mix; "
            "rename one with -r __node:=NAME or stop it (a killed one fades after 20 s)"
        )
    elif recent:
        level, message = WARN, "; ".join(recent)
    values: Values = [(f"subscribers of {t}", n) for t, n in sorted(health.outputs.items())]
    values += health.figures.items()
    return status_msg(level, name, message, values)
