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

"""Write report.html: one standalone file for desktop and phone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from mvdust3r_ros.datatypes import MapSnapshot, Verdict
from mvdust3r_ros.evaluation.caveats import describe_verdict, extent
from mvdust3r_ros.evaluation.report import charts
from mvdust3r_ros.evaluation.report.cloud_view import cloud_view, web_file
from mvdust3r_ros.evaluation.report.metric_catalogue import GROUPS, show
from mvdust3r_ros.evaluation.scoring import RunScores
from mvdust3r_ros.evaluation.window_scores import Thumbnail
from mvdust3r_ros.wording import decimal, plural

TILES = {
    "mapped_share": "of the drive is in the map",
    "ate_m": "path error (ATE)",
    "rpe_m": "error from keyframe to keyframe (RPE)",
    "scale_error": "scale error",
    "grid_iou": "grid overlap (IoU)",
    "nd": "window error (ND)",
    "window_p50_ms": "time of a window",
    "peak_memory_mb": "peak memory",
}
WINDOW_COLUMNS = {
    "nd": "ND", "cd": "CD", "rre": "RRE", "rte": "RTE", "mae": "mAE", "scale_error": "scale error",
}  # fmt: skip
MAX_THUMBNAILS = 12
"""Chosen for appearance, evenly spaced over the drive."""
MAX_ROWS = 200
"""A limit so that a phone can open the page; report.json has all rows."""


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, subtitle: str, body: str) -> str:
    """Build a complete HTML document without external references."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,"><title>{escape(title)}</title>
<style>{web_file("report.css")}</style></head>
<body><header><div><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></div></header>
<main>{body}</main></body></html>
"""


def report_page(
    report: dict[str, Any],
    snapshot: MapSnapshot,
    made: RunScores,
    thumbnails: Sequence[Thumbnail],
) -> str:
    """Build the page of one recording.

    Args:
        report: as in report.json.
        snapshot: the map; may be empty.
        made: data of the plots.
        thumbnails: keyframes to choose from.
    """
    values = {**report["numbers"], **report["timing"]["numbers"]}
    parts = [
        *(f'<p class="warn">{escape(note)}</p>' for note in _warnings(report)),
        _tiles(values),
        _map_section(snapshot, made),
        _trajectory_section(snapshot, made),
        _grid_section(snapshot, made),
        _windows_section(report, made),
        _speed_section(report, made),
        _thumbnails_section(thumbnails, int(report["input"]["first_stamp_ns"] or 0)),
        _numbers_section(values),
        _details_section(report),
    ]
    source = f"{report['input']['kind']}, {report['mode']}, engine {report['engine']['name']}"
    return page(report["input"]["name"], source, "\n".join(p for p in parts if p))


def _warnings(report: dict[str, Any]) -> list[str]:
    found = [] if report["complete"] else [f"Partial report: {report['stopped']}"]
    found += [f"{plural(n, 'image')} not used: {why}" for why, n in report["unusable"].items()]
    found += [f"{plural(n, 'image')} dropped: {why}" for why, n in report["drops"].items()]
    return found + [note[:1].upper() + note[1:] for note in report["notes"]]


def _tiles(values: dict[str, Any]) -> str:
    scopes = _scope_of_tiles(values)
    tiles = [
        f'<div class="tile"><b>{show(name, values.get(name))}</b>'
        f"<span>{escape(label)}</span>"
        + "".join(f"<small>{_nonbreaking(words)}</small>" for words in scopes.get(name, ()))
        + "</div>"
        for name, label in TILES.items()
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _nonbreaking(words: str) -> str:
    """Return a text as HTML in which no line breaks between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(m|%)\b|%)", "&nbsp;", escape(words))


def _scope_of_tiles(values: dict[str, Any]) -> dict[str, list[str]]:
    """Return number -> the extent of the recording it covers, and the value of odometry alone."""
    details: dict[str, list[str]] = {
        "mapped_share": [f"{values['windows_committed']} of {plural(values['windows'], 'window')}"]
    }
    if values["mapped_share"] is not None and values["drive_m"] is not None:
        details["mapped_share"].append(
            f"length of the drive: {show('drive_m', values['drive_m'])}"
        )
    for name in ("ate_m", "rpe_m", "scale_error"):
        if values[name] is not None:
            details[name] = [extent(values)]
    for name in ("ate_m", "rpe_m"):
        alone = values[f"odometry_{name}"]
        if name in details and alone is not None:
            details[name].append(f"odometry alone: {show(name, alone)}")
    if values["grid_iou"] is not None:
        details["grid_iou"] = ["against all that the recording saw"]
    if values["nd"] is not None:
        details["nd"] = [f"mean of {plural(values['windows_scored'], 'window')}, rejected or not"]
    if values["window_p50_ms"] is not None:
        details["window_p50_ms"] = [f"median of {plural(values['windows'], 'window')}"]
    return details


def cards(*items: tuple[str, str]) -> str:
    """Lay out boxes with a title and HTML each, side by side; skip boxes with an empty body."""
    inner = "".join(
        f'<div class="card"><h3>{escape(title)}</h3>{body}</div>' for title, body in items if body
    )
    return f'<div class="cards">{inner}</div>' if inner else ""


def section(title: str, body: str) -> str:
    """Put a body under its title; return nothing for an empty body."""
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _map_section(snapshot: MapSnapshot, made: RunScores) -> str:
    if len(snapshot.points_map) == 0:
        return ""
    view = cloud_view(snapshot, made.true_path, made.stretches)
    return f'<h2>Map</h2><div class="card">{view}</div>'


def _trajectory_section(snapshot: MapSnapshot, made: RunScores) -> str:
    if snapshot.grid is None:
        return ""
    items = [
        ("Cloud and path from above", charts.top_view(snapshot, made)),
        ("Path, coloured by its error", charts.path_view(snapshot, made)),
        ("Position error over time", charts.error_over_time(made)),
        ("Scale error over time", charts.scale_over_time(made)),
        ("Rotation error over time", charts.rotation_over_time(made)),
    ]
    return section("Trajectory", cards(*items))


def _grid_section(snapshot: MapSnapshot, made: RunScores) -> str:
    items = [
        ("Occupancy grid", charts.grid_view(snapshot, made, "estimate")),
        ("Grid of the true cloud", charts.grid_view(snapshot, made, "truth")),
        ("Difference", charts.difference_view(snapshot, made)),
    ]
    return section("Occupancy grid", cards(*items))


def _windows_section(report: dict[str, Any], made: RunScores) -> str:
    if not report["windows"]:
        return ""
    items = [
        ("Distance of each window from the truth", charts.windows_chart(made.windows)),
        ("Confidence against error", charts.confidence_chart(made.confidence)),
    ]
    columns = [c for c in WINDOW_COLUMNS if any(w.get(c) is not None for w in made.windows)]
    head = "<tr><th>window</th><th>verdict</th><th class=n>keyframes</th>" + "".join(
        f"<th class=n>{WINDOW_COLUMNS[c]}</th>" for c in columns
    )
    rows = [_window_row(w, columns) for w in report["windows"][:MAX_ROWS]]
    table = f'<div class="wide"><table>{head}<th>reason</th></tr>{"".join(rows)}</table></div>'
    left = len(report["windows"]) - MAX_ROWS
    more = f'<p class="note">Not shown: {plural(left, "window")} more, in report.json.</p>'
    return section("Windows", f"{cards(*items)}<p></p>{table}{more if left > 0 else ''}")


def _window_row(window: dict[str, Any], columns: Sequence[str]) -> str:
    verdict = window["verdict"]
    cells = "".join(f"<td class=n>{show(c, window.get(c))}</td>" for c in columns)
    kind = "good" if window["in_map"] else "bad"
    left = verdict == "committed" and not window["in_map"]
    words = "left the map again" if left else describe_verdict(Verdict[verdict.upper()])
    return (
        f'<tr class="{kind}"><td>{window["window"]}</td><td>{words}</td>'
        f"<td class=n>{window['keyframes']}</td>{cells}"
        f"<td class=why>{escape(window['reason'])}</td></tr>"
    )


def _speed_section(report: dict[str, Any], made: RunScores) -> str:
    if not made.stages:
        return ""
    head = "<tr><th>stage</th><th class=n>median ms</th><th class=n>95 %</th><th class=n>max</th>"
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td class=n>{decimal(s[k], 1)}</td>" for k in ("p50", "p95", "max"))
        + "</tr>"
        for name, s in made.stages.items()
    )
    machine = report["environment"]
    note = f"{machine['cpu']}, {plural(machine['cores'], 'core')}"
    return "<h2>Speed</h2>" + cards(
        ("Time of each stage", charts.latency_bars(made.stages)),
        (note, f'<div class="wide"><table>{head}</tr>{rows}</table></div>'),
    )


def _thumbnails_section(thumbnails: Sequence[Thumbnail], first_ns: int) -> str:
    if not thumbnails:
        return ""
    count = min(MAX_THUMBNAILS, len(thumbnails))
    chosen = [thumbnails[k * len(thumbnails) // count] for k in range(count)]
    items = "".join(_thumb(t, first_ns) for t in chosen)
    note = (
        '<p class="note">The newest keyframe of a window: image, predicted depth (its scale '
        "fitted to the true one), true depth. Bright is near, grey is unknown.</p>"
    )
    return f'<h2>Keyframes</h2>{note}<div class="thumbs">{items}</div>'


def _thumb(thumb: Thumbnail, first_ns: int) -> str:
    pictures = [("image", thumb.image), ("depth", thumb.depth), ("true depth", thumb.true_depth)]
    inner = "".join(
        f"<p>no {alt}</p>"
        if data is None
        else f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for alt, data in pictures
    )
    color = "#1e8a4c" if thumb.verdict == Verdict.COMMITTED else "#c22f3d"
    words = describe_verdict(thumb.verdict)
    when = (thumb.stamp_ns - first_ns) * 1e-9
    return (
        f'<div class="thumb"><div>{inner}</div><i class="dot" style="background:{color}"></i>'
        f"window {thumb.window}, {decimal(when, 1)} s, {words}</div>"
    )


def _numbers_section(values: dict[str, Any]) -> str:
    tables = []
    for title, group in GROUPS.items():
        rows = "".join(
            f"<tr><td><code>{name}</code><br><span>{escape(q.meaning)}</span></td>"
            f"<td class=n>{show(name, values.get(name))}</td></tr>"
            for name, q in group.items()
        )
        tables.append(
            f"<details><summary>{escape(title)}</summary><table>{rows}</table></details>"
        )
    return "<h2>All numbers</h2>" + "".join(tables)


def _details_section(report: dict[str, Any]) -> str:
    parts = []
    for title in ("input", "engine", "environment", "settings"):
        text = escape(json.dumps(report[title], indent=2))
        parts.append(f"<details><summary>{title}</summary><pre>{text}</pre></details>")
    return "<h2>How it was made</h2>" + "".join(parts)
