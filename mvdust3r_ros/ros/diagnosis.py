"""The node's state in the words of /diagnostics (REP-107)."""

from __future__ import annotations

from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from mvdust3r_ros.datatypes import MapUpdate, Verdict
from mvdust3r_ros.ros.outputs import status_msg
from mvdust3r_ros.ros.pipeline import Account

OK, WARN, ERROR = 0, 1, 2


@dataclass(frozen=True)
class Health:
    """All that diagnostics are made from.

    Attributes:
        state: lifecycle state of the node.
        paused: whether images are dropped on purpose.
        account: what became of images and windows.
        recent: reason -> message of the faults of the last seconds.
        counts: reason -> number of faults since the start.
        silence: why no image comes, in words; empty while images come.
        blocked: why the node cannot be configured, in words; empty when it can.
        engine: name of the engine; empty without one.
        last: the last outcome of a window; None before the first.
    """

    state: str
    paused: bool = False
    account: Account = field(default_factory=Account)
    recent: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    silence: str = ""
    blocked: str = ""
    engine: str = ""
    last: MapUpdate | None = None


def diagnose(health: Health, name: str) -> list[DiagnosticStatus]:
    """One status each for input, engine and map.

    Args:
        health: the state.
        name: node name; the statuses are called "name: input" and so on.
    """
    return [
        _input_status(health, f"{name}: input"),
        _engine_status(health, f"{name}: engine"),
        _map_status(health, f"{name}: map"),
    ]


def diagnostics_msg(statuses: list[DiagnosticStatus], stamp: object) -> DiagnosticArray:
    """diagnostic_msgs/DiagnosticArray with a stamp."""
    msg = DiagnosticArray(status=statuses)
    msg.header.stamp = stamp
    return msg


def _input_status(health: Health, name: str) -> DiagnosticStatus:
    account = health.account
    window_faults = {v.name.lower() for v in Verdict}
    recent = [m for r, m in health.recent.items() if r not in window_faults]
    level, message = OK, "images arrive"
    if health.state != "active":
        message = f"the node is {health.state}"
    elif health.paused:
        message = "paused"
    elif health.silence:
        level, message = WARN, health.silence
    elif recent:
        level, message = WARN, "; ".join(recent)
    values: list[tuple[str, object]] = [
        ("images received", account.received),
        ("keyframes", account.keyframes),
        ("images skipped", account.skipped),
        ("images dropped", account.dropped.total()),
        ("images waiting", account.waiting),
    ]
    values += [(f"images dropped: {r}", n) for r, n in sorted(account.dropped.items())]
    values += [(f"faults: {r}", n) for r, n in sorted(health.counts.items())]
    return status_msg(level, name, message, values)


def _engine_status(health: Health, name: str) -> DiagnosticStatus:
    account, last = health.account, health.last
    level, message = OK, health.engine or "no engine loaded"
    if health.blocked:
        level, message = ERROR, health.blocked
    elif last is not None and last.verdict in (
        Verdict.REJECTED_ENGINE_ERROR,
        Verdict.REJECTED_NOT_FINITE,
    ):
        level, message = ERROR, last.message
    values: list[tuple[str, object]] = [
        ("engine", health.engine),
        ("windows complete", account.windows),
        ("windows superseded", account.superseded),
        ("windows waiting", account.windows_waiting),
    ]
    if last is not None:
        values += [(f"latency of {s} (ms)", f"{v:.1f}") for s, v in last.latency_ms.items()]
    return status_msg(level, name, message, values)


def _map_status(health: Health, name: str) -> DiagnosticStatus:
    account, last = health.account, health.last
    level, message = OK, "no window yet"
    if last is not None and last.verdict == Verdict.COMMITTED:
        message = "the map grows"
    elif last is not None:
        level, message = WARN, f"last window rejected: {last.message}"
    if last is not None and last.verdict == Verdict.COMMITTED and not last.gate_open:
        level, message = WARN, f"~/occupancy_grid is withheld: {last.gate_hint}"
    values: list[tuple[str, object]]
    values = [(f"windows {v.name.lower()}", n) for v, n in sorted(account.verdicts.items())]
    if last is not None:
        values += [
            ("scale", f"{last.scale.scale:.4f}"),
            ("scale relative sigma", f"{last.scale.rel_sigma:.3f}"),
            ("scale source", last.scale.source.name.lower()),
        ]
    return status_msg(level, name, message, values)
