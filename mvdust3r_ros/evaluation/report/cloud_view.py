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

"""The 3-D view of a report: cloud and paths embedded in the page, rendered by three.js."""

from __future__ import annotations

import base64
import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvdust3r_ros.datatypes import MapSnapshot, Trajectory
from mvdust3r_ros.evaluation.report.pictures import (
    ELEVATION_DEG,
    Stretches,
    below_ceiling,
    best_azimuth,
    core_of,
    cut_height,
    path_parts,
    with_path,
)
from mvdust3r_ros.evaluation.report.splat import looking_from, point_spacing, render_cloud

WEB = Path(__file__).parent / "web"
MAX_PAGE_POINTS = 60_000
"""9 bytes per point, 12 in base64: 0.7 MB in the page, which a phone can open."""
STEPS = 65535
"""Of 16 bits: a map of 65 m is resolved to the millimetre."""
STILL_PX = (900, 560)
"""Chosen for appearance, for readers without JavaScript."""
MAX_PATH = 1500
"""Points per line: about as many as a screen has pixels across."""


def web_file(name: str) -> str:
    """Read one of the files in web/."""
    return (WEB / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def three_gz() -> str:
    """Return three.js, compressed, as base64."""
    return _packed(web_file("three.min.js").encode())


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def cloud_view(
    snapshot: MapSnapshot, true_path: Trajectory | None, stretches: Stretches = ()
) -> str:
    """Return the HTML of the view: a still picture that the script replaces.

    Args:
        snapshot: a map with points.
        true_path: true camera poses in the map frame, or None.
        stretches: first and last timestamp (ns) of parts of the path; no line is drawn between
            them.
    """
    points, colors = snapshot.points_map, snapshot.colors_rgb
    if len(points) > MAX_PAGE_POINTS:
        chosen = np.random.default_rng(0).choice(len(points), MAX_PAGE_POINTS, replace=False)
        points, colors = points[np.sort(chosen)], colors[np.sort(chosen)]
    low, high = points.min(0).astype(float), points.max(0).astype(float)
    step = np.maximum(high - low, 1e-6) / STEPS
    packed = np.rint((points - low) / step).astype("<u2").tobytes() + colors.tobytes()
    shown = below_ceiling(snapshot)[0]
    core = core_of(shown)
    inner_low, inner_high = core.min(0).astype(float), core.max(0).astype(float)
    top = float(high[2]) + 0.05
    # same cut as the still picture: all points where none is below it
    cut = top if len(shown) == len(snapshot.points_map) else cut_height(snapshot)
    meta: dict[str, Any] = {
        "count": len(points), "low": low.tolist(), "step": step.tolist(),
        "point_m": 3.6 * point_spacing(points), "cut": cut,
        "centre": ((inner_low + inner_high) / 2).tolist(),
        "size": float(np.linalg.norm(inner_high - inner_low)),
        "azimuth": best_azimuth(shown),
        "paths": _lines(snapshot.trajectory, stretches),
        "true_paths": [] if true_path is None else _lines(true_path, ()),
    }  # fmt: skip
    return f"""<div id="viewer" data-state="loading">
<img alt="the cloud at an angle" src="data:image/jpeg;base64,{_still(snapshot, stretches)}"></div>
<div class="controls"><button id="view-oblique">at an angle</button>
<button id="view-top">from above</button>
<label>cut at <input id="view-cut" type="range" min="{low[2]:.2f}" max="{top:.2f}"
 step="0.05" value="{cut:.2f}"></label>
<span><i class="dot" style="background:#1e6edc"></i>path</span>
{'<span><i class="dot" style="background:#e68c14"></i>true path</span>' if true_path else ""}
</div>
<p class="note" id="viewer-note">Drag to turn, scroll or pinch to zoom, drag with two fingers or
the right button to move.</p>
<script type="application/json" id="cloud-meta">{json.dumps(meta)}</script>
<script type="text/plain" id="cloud-gz">{_packed(packed)}</script>
<script type="text/plain" id="three-gz">{three_gz()}</script>
<script>{web_file("viewer.js")}</script>"""


def _lines(path: Trajectory, stretches: Stretches) -> list[list[list[float]]]:
    """Return the positions of each stretch of a path, for the script."""
    thin = slice(None, None, max(1, len(path) // MAX_PATH))
    return [np.round(xyz[thin], 3).tolist() for xyz in path_parts(path, stretches)]


def _still(snapshot: MapSnapshot, stretches: Stretches) -> str:
    """Render the cloud from an oblique view as a JPEG in base64."""
    points, colors = below_ceiling(snapshot)
    view = looking_from(best_azimuth(points), np.radians(ELEVATION_DEG), core_of(points), STILL_PX)
    image = render_cloud(points, colors, view, point_spacing(points))
    image = with_path(image, snapshot.trajectory, view, stretches)
    flags = [cv2.IMWRITE_JPEG_QUALITY, 82]
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), flags)[1]
    return base64.b64encode(encoded.tobytes()).decode()
