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

"""Time and memory of a window against its number of views, and how fast they grow.

Each point is measured in a process of its own, on the views of one synthetic room.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.synthetic.dataset import exact_views

ROOM_SEED = 7_500_000
"""The first held-out room; neither time nor memory depends on what is seen."""
LIMIT_S = 600.0
"""Of processor time for a point, chosen: 24 views take DUSt3R a sixth of it (128x128 pixels)."""
MEMORY_SHARE = 0.5
"""Of the memory available, for a point: the rest is for others, and for a wrong prediction."""
LEAST_BYTES = 1 << 20
"""Peaks are at least this: below a megabyte, the allocator decides."""


class ScalingError(MvDust3rError):
    """Time and memory cannot be measured, or not fitted."""


@dataclass(frozen=True)
class Spec:
    """What is measured.

    Attributes:
        engine: as for `create_engine`; it runs on one thread.
        n_ref: reference paths, at most as many as views; 0 for the engine's default.
        device: torch's device, for engines that run on it; empty for the CPU.
    """

    engine: str
    n_ref: int = 0
    device: str = ""


@dataclass(frozen=True)
class Point:
    """One window.

    Attributes:
        views: number of views.
        seconds: for encoding and decoding it: processor time, which leaves out waiting for
            others; on a GPU, time.
        peak_bytes: most memory during that, above that before; on a GPU, of tensors.
        extrapolated: not measured, but from the fit to smaller windows.
    """

    views: int
    seconds: float
    peak_bytes: int
    extrapolated: bool = False


@dataclass(frozen=True)
class Fit:
    """linear * N + quadratic * N^2 for N views, with the least squares of relative errors.

    Attributes:
        linear: not negative.
        quadratic: not negative; 0 for a line.
        r2: share of the variance of the logarithms that it explains.
    """

    linear: float
    quadratic: float
    r2: float

    def at(self, views: float) -> float:
        """Return the value at a number of views."""
        return self.linear * views + self.quadratic * views**2


@dataclass(frozen=True)
class Growth:
    """How a quantity grows with the number of views N.

    Attributes:
        line: through 0, O(N).
        parabola: through 0, O(N^2).
        exponent: k of the power N^k that fits best.
    """

    line: Fit
    parabola: Fit
    exponent: float


@dataclass(frozen=True)
class Fits:
    """Growth of time (seconds) and memory (bytes)."""

    seconds: Growth
    peak_bytes: Growth


def measure(spec: Spec, view_counts: Sequence[int], limit_s: float = LIMIT_S) -> list[Point]:
    """Measure windows, the smallest first.

    Windows that by the fit to smaller ones would take longer than the limit, or more than half
    of the memory available, are extrapolated; so are those after one that reached the limit.

    Args:
        spec: the engine.
        view_counts: numbers of views, at least 2 each.
        limit_s: processor time of a process, seconds.

    Raises:
        ScalingError: the engine failed, or too few windows stay within the limit to extrapolate.
    """
    points: list[Point] = []
    for views in sorted(view_counts):
        point = None
        if not any(p.extrapolated for p in points) and _affordable(points, views, limit_s):
            point = _measured(spec, views, limit_s)
        points.append(point or _extrapolated(points, views, limit_s))
    return points


def fit(points: Sequence[Point]) -> Fits:
    """Fit lines and parabolas to the measured points.

    Raises:
        ScalingError: fewer than three are measured.
    """
    measured = [p for p in points if not p.extrapolated]
    if len(measured) < 3:
        raise ScalingError(f"{len(measured)} measured windows; a fit needs 3 or more")
    views = np.array([p.views for p in measured], np.float64)
    return Fits(
        _growth(views, np.array([p.seconds for p in measured])),
        _growth(views, np.array([p.peak_bytes for p in measured], np.float64)),
    )


def _growth(views: FloatArray, values: FloatArray) -> Growth:
    exponent = float(np.polyfit(np.log(views), np.log(values), 1)[0])
    return Growth(_fit(views, values, 1), _fit(views, values, 2), exponent)


def _fit(views: FloatArray, values: FloatArray, degree: int) -> Fit:
    powers = np.stack([views**k for k in range(1, degree + 1)], 1)
    factors, _ = nnls(powers / values[:, None], np.ones(len(values)))
    logs = np.log(values)
    rest = logs - np.log(powers @ factors)
    spread = max(float(((logs - logs.mean()) ** 2).sum()), np.finfo(np.float64).tiny)
    r2 = 1 - float((rest**2).sum()) / spread
    return Fit(float(factors[0]), float(factors[1]) if degree > 1 else 0.0, r2)


def _predicted(points: Sequence[Point], views: int) -> Point:
    """What the parabolas through the points say; needs two."""
    counts = np.array([p.views for p in points], np.float64)
    seconds = _fit(counts, np.array([p.seconds for p in points]), 2)
    peak = _fit(counts, np.array([p.peak_bytes for p in points], np.float64), 2)
    return Point(views, seconds.at(views), round(peak.at(views)), extrapolated=True)


def _affordable(points: Sequence[Point], views: int, limit_s: float) -> bool:
    if len(points) < 2:
        return True
    expected = _predicted(points, views)
    available = _kilobytes("/proc/meminfo", "MemAvailable") * 1024
    return expected.seconds < limit_s and expected.peak_bytes < MEMORY_SHARE * available


def _extrapolated(points: Sequence[Point], views: int, limit_s: float) -> Point:
    measured = [p for p in points if not p.extrapolated]
    if len(measured) < 2:
        raise ScalingError(
            f"a window of {views} views takes more than {limit_s:g} s, and {len(measured)} "
            "smaller ones are too few to extrapolate from; raise the limit or start with fewer"
        )
    return _predicted(measured, views)


CHILD = "import sys; from mvdust3r_ros.evaluation.paper.scaling import child; child(sys.argv[1])"


def _measured(spec: Spec, views: int, limit_s: float) -> Point | None:
    """A point out of a process of its own; None if it takes too long."""
    arguments = json.dumps({"spec": asdict(spec), "views": views, "limit_s": limit_s})
    done = subprocess.run(
        [sys.executable, "-c", CHILD, arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == -signal.SIGXCPU:
        return None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ScalingError(f"{spec.engine} failed with {views} views: {reason}")
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def child(arguments: str) -> None:
    """Measure one window in this process, and write the `Point` to stdout as JSON."""
    given = json.loads(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(given["limit_s"]), hard))
    point = _window(Spec(**given["spec"]), given["views"])
    sys.stdout.write(json.dumps(asdict(point)) + "\n")


def _window(spec: Spec, count: int) -> Point:
    engine = create_engine(spec.engine, EngineOptions(threads=1, device=spec.device or "cpu"))
    info = engine.describe()
    views = exact_views(ROOM_SEED, count, info.image_hw)
    if not info.needs_truth:
        views = [replace(view, depth_m=None, T_odom_cam=None) for view in views]
    n_ref = min(spec.n_ref, count)
    engine.infer(views[:2], min(n_ref, 2))  # loads libraries, generates code
    on_gpu = spec.device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    before = _reset_peak(on_gpu)
    begin = clock()
    engine.infer(views, n_ref)  # points are on the CPU when it returns
    seconds = clock() - begin
    return Point(count, seconds, max(LEAST_BYTES, _peak(on_gpu) - before))


def _reset_peak(on_gpu: bool) -> int:
    """Forget earlier peaks, and return the bytes in use."""
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _kilobytes("/proc/self/status", "VmRSS") * 1024


def _peak(on_gpu: bool) -> int:
    """Return the most bytes in use since `_reset_peak`."""
    if on_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def _kilobytes(file: str, name: str) -> int:
    """Return a value of a file in /proc."""
    lines = Path(file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
