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

"""Camera poses of a window from its images, with odometry and the rig as priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray, MvDust3rError, View
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.rolling_shutter import row_drift
from mvdust3r_ros.sfm.bundle import MotionPrior, prior_information, prior_strain
from mvdust3r_ros.sfm.camera_beliefs import (
    Beliefs,
    CameraBelief,
    CameraKey,
    belief_of,
    camera_key,
    with_known_focal,
)
from mvdust3r_ros.sfm.features import ViewFeatures
from mvdust3r_ros.sfm.gates import explained_share, plane_share, strong_views
from mvdust3r_ros.sfm.incremental import STARTS, grow, start_pairs
from mvdust3r_ros.sfm.matching import Matcher, Pair, Verified
from mvdust3r_ros.sfm.priors import PosesBefore, among, motion_priors, odometry_poses
from mvdust3r_ros.sfm.solve import GOOD_PX, ROUGH_PX, Cameras, Solution, solve
from mvdust3r_ros.sfm.tracks import KeyframeTracks
from mvdust3r_ros.wording import plural

IndexArray = npt.NDArray[np.intp]

MIN_GOOD_VIEWS = 3
"""Least views placed by images: with two, no third view could contradict a wrong pair."""
MIN_EXPLAINED, MIN_EXPLAINED_ALONE = 0.6, 0.9
"""Least share of verified pair matches that the poses of the window explain: with odometry, and
with images alone, where repeated patterns can agree on wrong poses. With odometry insensitive from
0.3 to 1 (benchmarks/constants.py, office with odometry), without from 0.45 to 0.9."""
MIN_RIVAL_SHARE, MAX_RIVAL_PX, RIVAL_FOCAL = 0.7, 1.1, 0.04
"""The focal length is ambiguous if a second result differs by more than the last share, explains
the first share of the observations, and has residuals larger by at most the factor. Where turns
determine it, residuals of wrong ones are 27 % larger; on a straight line, 1 %. Tests pass from
0.35 to 0.9, from 1.02 to 1.25 and from 0.028 to 0.08 (test/test_sfm_window_poses.py)."""
SETTLING_STEPS = 20
"""Adjustment steps before focal lengths are compared: enough to separate right from wrong ones,
though not all have converged. Tests pass from 10 to 24; at 40 a result that is still 1 % off is
chosen, and a rotation is off by 1.1 degrees instead of less than 1
(test/test_sfm_window_poses.py)."""
MAX_STRAIN, MAX_CONTRADICTED = 4.0, 0.3
"""Images contradict an odometry step by more sigmas than the first, and odometry as a whole if the
share of such steps exceeds the second. Insensitive from half to twice of both
(benchmarks/constants.py, office with odometry)."""
MAX_TURN_SIGMA_RAD, MAX_SHIFT_SIGMA = math.radians(1.5), 0.08
"""Largest sigmas of rotation and translation, in median depths, of a view placed by images alone:
beyond, its points would be off by as much as two surfaces may be (`window_geometry.SAME_DEPTH`).
At half the first, the ATE is 13.6 mm instead of 10.5 (benchmarks/constants.py, office alone). The
second is not reached in the office (the same, 60 images): it is for views far from all points."""
MAX_PLANE_SHARE = 0.9
"""With a larger share of matches on one plane, poses are ambiguous or nearly so: two relative
poses explain a plane. Rooms have 0.63 to 0.78, a single plane has 0.95 and more
(test/test_sfm_window_poses.py)."""
FOCAL_STARTS = (0.6, 0.8, 1.1, 1.6)
"""Initial guesses of an unknown focal length, in long sides of the view: fields of view of 80, 64,
49 and 35 degrees, so that a true one between two is wrong by up to 21 %."""
MAX_FOCAL_SIGMA = 0.03
"""Largest relative sigma of a focal length from images; depths are off by about as much. Tests
pass from 0.015 to 0.06 (test/test_sfm_window_poses.py)."""
MIN_FOCAL, MAX_FOCAL = 0.35, 4.0
"""Range of focal lengths from images, in long sides of the view: fields of view of 110 and 14
degrees, beyond which pinhole cameras are rare."""
TEXTURE, MATCHED = 30, 30
"""Features of a view and matches of neighbours below which a message blames their number: as many
as a view needs (`gates.MIN_VIEW_POINTS`)."""
LEAST_MEDIAN_PX = 0.05
"""Smaller residuals make a solution no more likely: no feature is located more precisely."""
MIN_MOTION_M = 0.03
"""Least odometry motion or rig baseline that gives metric scale: ten times `ODOM_SIGMA_M`."""


class SfmError(MvDust3rError):
    """Neither images nor odometry determine the poses of the views."""


class FocalError(SfmError):
    """The focal length is not given and cannot be estimated from the images."""


class ContradictionError(SfmError):
    """Images and odometry contradict each other."""


@dataclass(frozen=True, eq=False)
class WindowPoses:
    """Poses of the views of a window.

    Attributes:
        T_ref_cam: (V, 4, 4) camera poses in the frame of view `reference`; in metres if `metric`,
            otherwise in units of the median depth of the points.
        placed: (V,) views whose pose is known; the pose of others is the identity.
        K: (V, 3, 3) intrinsics in pixels of the views; calibrated ones are refined by the images
            within their uncertainty.
        covariance: (V, 6, 6) of rotation (rad) and translation of each view in the axes of view
            `reference`, whose covariance is zero.
        metric: whether odometry or the rig gave the scale.
        used_odometry: whether odometry was a prior or is the pose itself.
        source: "images", "images and odometry" or "odometry".
        points_ref: (P, 3) triangulated points, frame of view `reference`.
        seen: (P, V) which view sees which point.
        note: message on what limited the images; empty if nothing did.
        focal_rel_sigma: relative uncertainty of the focal length; 0 if K was given.
        reference: the view whose frame is used: the first placed one.
        median_px: median reprojection error; NaN without points.
        by_images: (V,) views posed by images, alone or with odometry.
        unit_before: whether `before` alone gave the scale.
        cameras: updated beliefs of the cameras of views posed by images.
    """

    T_ref_cam: FloatArray
    placed: BoolArray
    K: FloatArray
    covariance: FloatArray
    metric: bool
    used_odometry: bool
    source: str
    points_ref: FloatArray
    seen: BoolArray
    by_images: BoolArray
    note: str = ""
    focal_rel_sigma: float = 0.0
    reference: int = 0
    median_px: float = math.nan
    unit_before: bool = False
    cameras: Beliefs = field(default_factory=dict)

    def of_last(self, count: int) -> WindowPoses:
        """Return the poses of the last views alone, in the frame of the first placed one of them.

        The covariance is the increase since that view, as along a chain.

        Raises:
            SfmError: none of these views is placed.
        """
        first = len(self.placed) - count
        placed = self.placed[first:]
        if not placed.any():
            raise SfmError("none of the views has a place beside those of the window before")
        reference = int(placed.argmax())
        T_new_ref = invert_se3(self.T_ref_cam[first + reference])
        T = np.where(placed[:, None, None], T_new_ref @ self.T_ref_cam[first:], np.eye(4))
        turn = np.kron(np.eye(2), T_new_ref[:3, :3])
        spread = self.covariance[first:] - self.covariance[first + reference]
        seen = self.seen[:, first:]
        kept = seen.any(1)
        points = self.points_ref[kept] @ T_new_ref[:3, :3].T + T_new_ref[:3, 3]
        return replace(
            self, T_ref_cam=T, placed=placed, K=self.K[first:],
            covariance=_positive(turn @ spread @ turn.T) * placed[:, None, None],
            points_ref=points, seen=seen[kept], by_images=self.by_images[first:],
            note=_unplaced_note(placed) if self.source == "images" else self.note,
            reference=reference,
        )  # fmt: skip


def _positive(spread: FloatArray) -> FloatArray:
    """Return (V, 6, 6) symmetric matrices with negative eigenvalues set to zero."""
    values, vectors = np.linalg.eigh(spread)
    return np.asarray((vectors * np.maximum(values, 0)[:, None]) @ np.swapaxes(vectors, 1, 2))


def _unplaced_note(placed: BoolArray) -> str:
    left = np.flatnonzero(~placed).tolist()
    if not left:
        return ""
    return f"not placed: {plural(len(left), 'view')} ({', '.join(map(str, left))})"


def given_poses(
    T_ref_cam: FloatArray, K: FloatArray, points_ref: FloatArray, seen: BoolArray
) -> WindowPoses:
    """Return known metric poses as `WindowPoses`, with its shapes."""
    views = len(T_ref_cam)
    everything, exact = np.ones(views, bool), np.zeros((views, 6, 6))
    return WindowPoses(
        T_ref_cam, everything, K, exact, True, False, "images", points_ref, seen, everything
    )


@dataclass(frozen=True, eq=False)
class _Window:
    """Inputs of a window.

    Attributes:
        views: its views.
        matcher: their matches.
        K: (V, 3, 3) intrinsics, or initial guesses.
        cameras: which views share a camera, and its unknowns.
        keys: keys of these cameras.
        beliefs: prior beliefs of these cameras; the matcher's pixels are rectified with their
            readout.
        priors: measured motions.
        before: poses of some views from the previous window, in the unit of the priors.
        unit_before: whether `before` alone gives the scale; the result is then not metric, even
            if that window was.
        given_focals: whether the focal lengths are given, not estimated by earlier windows.
    """

    views: Sequence[View]
    matcher: Matcher
    K: FloatArray
    cameras: Cameras
    keys: list[CameraKey]
    beliefs: list[CameraBelief]
    priors: list[MotionPrior]
    before: PosesBefore | None = None
    unit_before: bool = False
    given_focals: bool = True

    @property
    def calibrated(self) -> bool:
        """Whether all K are given."""
        return all(v.K is not None for v in self.views)

    @property
    def K_given(self) -> list[FloatArray | None]:  # noqa: N802
        """(3, 3) given intrinsics of each view, or None."""
        return [v.K for v in self.views]

    @property
    def size_wh(self) -> FloatArray:
        """(V, 2) width and height of the views in pixels."""
        return np.array([view.image_rgb.shape[1::-1] for view in self.views], float)

    def starts(self) -> Iterator[_Window]:
        """Yield the window with each initial focal length; once if all are known."""
        if self.calibrated:
            yield self
        else:
            yield from map(self._with_focal, FOCAL_STARTS)

    def _with_focal(self, long_sides: float) -> _Window:
        K = self.K.copy()
        for view, own in zip(self.views, K, strict=True):
            if view.K is None:
                own[0, 0] = own[1, 1] = long_sides * max(view.image_rgb.shape[:2])
        return replace(self, K=K)


@dataclass(frozen=True, eq=False)
class _Start:
    """Result from one initial guess.

    Attributes:
        views: placed views.
        solution: their poses and points.
        verified: verified matches of all pairs of the window.
    """

    views: list[int]
    solution: Solution
    verified: Mapping[Pair, Verified]


def window_poses(
    views: Sequence[View],
    features: Sequence[ViewFeatures],
    tracks: Callable[[], KeyframeTracks] | None = None,
    stamps_ns: Sequence[int] | None = None,
    before: PosesBefore | None = None,
    beliefs: Beliefs | None = None,
) -> WindowPoses:
    """Estimate the poses of all views that images or odometry can place.

    Bundle adjustment of the images, with odometry and the rig as priors, if each view has enough
    well-spread points. Otherwise odometry is returned unchanged.

    Args:
        views: oldest first.
        features: features of each view, from `view_features`.
        tracks: returns tracks through the frames between the views; None for no tracks. They are
            less precise than features: with odometry they are used only if features are too few.
        stamps_ns: timestamps of the views; without them the rig links two cameras only if
            odometry did not move in between.
        before: poses of shared views from the previous window.
        beliefs: prior beliefs of the cameras.

    Raises:
        SfmError: no odometry, and the images do not determine the poses: no texture, no parallax,
            a single plane, or a motion from which an unknown focal length cannot be estimated.
    """
    T_odom = odometry_poses(views)

    def given(followed: KeyframeTracks | None) -> _Window:
        return _given(views, features, followed, stamps_ns, before, beliefs or {})

    if T_odom is None:
        window = given(None if tracks is None else tracks())
        return _from_images(window, window.priors)
    found = _beside_odometry(given(None), T_odom)
    if tracks is None or found.by_images.all():
        return found
    more = _beside_odometry(given(tracks()), T_odom)
    return more if more.by_images.sum() > found.by_images.sum() else found


def _beside_odometry(window: _Window, T_odom: FloatArray) -> WindowPoses:
    """Estimate poses with odometry as prior; on contradiction choose images or odometry.

    Raises:
        FocalError: the focal length is unknown and cannot be estimated.
    """
    try:
        return _with_odometry(window, T_odom)
    except FocalError:
        raise
    except ContradictionError as error:
        return _decided(window, T_odom, str(error))
    except SfmError as error:
        return _odometry_stays(window, T_odom, str(error))


def _given(
    views: Sequence[View],
    features: Sequence[ViewFeatures],
    tracks: KeyframeTracks | None,
    stamps_ns: Sequence[int] | None,
    before: PosesBefore | None,
    beliefs: Beliefs,
) -> _Window:
    K, known, keys, held = np.zeros((len(views), 3, 3)), [], [], []
    numbers: dict[tuple[object, ...], int] = {}
    group = []
    found = [belief_of(view, beliefs) for view in views]
    for view, belief, own in zip(with_known_focal(views, beliefs), found, K, strict=True):
        height, width = view.image_rgb.shape[:2]
        guess = FOCAL_STARTS[1] * max(height, width)
        central = [[guess, 0, (width - 1) / 2], [0, guess, (height - 1) / 2], [0, 0, 1]]
        own[:] = central if view.K is None else view.K
        rig = np.zeros(0) if view.T_rig_cam is None else view.T_rig_cam
        key = (camera_key(view), view.K is None, *np.ravel(own), *np.ravel(rig))
        if key not in numbers:
            numbers[key] = len(numbers)
            known.append((math.log(own[0, 0]), belief.focal_sigma))
            keys.append(camera_key(view))
            held.append(belief)
        group.append(numbers[key])
    given_focals = all(view.K is not None for view in views)
    views = with_known_focal(views, beliefs)
    matcher = Matcher(features, None if tracks is None else tracks.uv)
    cameras = Cameras(np.array(group), np.array(known))
    if any(view.turn_rad_s is not None for view in views):
        turn = np.array([np.zeros(3) if v.turn_rad_s is None else v.turn_rad_s for v in views])
        height = views[0].image_rgb.shape[0]
        cameras = replace(
            cameras, readout_sigma_s=np.array([b.readout_sigma_s for b in held]),
            turn_rad_s=turn, height=height,
        )  # fmt: skip
        for v, (view, uv) in enumerate(zip(views, matcher.uv, strict=True)):
            done_s = np.zeros((len(uv), 1))
            done_s[: len(features[v])] = view.straightened_s  # tracks are in unrectified frames
            matcher.uv[v] = uv - (found[v].readout_s - done_s) * row_drift(
                uv, K[v], turn[v], height
            )
    priors = motion_priors(views, stamps_ns)
    measured = bool(priors)
    if before is not None and measured and not before.metric:
        before = None  # do not mix metric priors with poses of unknown scale
    if before is not None:
        priors += before.priors(measured)
    unit_before = before is not None and not measured
    return _Window(
        views, matcher, K, cameras, keys, held, priors, before, unit_before, given_focals
    )


def _with_odometry(window: _Window, T_odom: FloatArray) -> WindowPoses:
    """Bundle-adjust from odometry as initial guess and prior.

    Raises:
        ContradictionError: images contradict odometry.
        FocalError: the focal length is unknown and cannot be estimated.
        SfmError: the images do not determine the poses.
    """
    everything = list(range(len(window.views)))
    found = []
    for start in window.starts():
        guides = T_odom if window.calibrated else None
        verified = window.matcher.verified(start.K_given, guides)
        pixels = window.matcher.tracks({p: v.index for p, v in verified.items()}, everything)
        rough = solve(
            T_odom, start.K, pixels, window.priors, window.cameras, ROUGH_PX, iterations=3
        )
        if rough is not None:
            found.append(_Start(everything, rough, verified))
    if not found:
        raise SfmError(_no_poses_message(window))
    best = _best_start(found)
    rough = best.solution
    pixels = window.matcher.agreeing(rough.T, rough.K, everything)
    weak = ~strong_views(rough.good, pixels, window.size_wh)
    if len(weak) - weak.sum() < MIN_GOOD_VIEWS:
        raise SfmError(f"only {plural(len(weak) - weak.sum(), 'view')} with enough points")
    pixels[:, weak] = np.nan
    solution = solve(rough.T, rough.K, pixels, window.priors, window.cameras, GOOD_PX[-1:])
    if solution is None:
        raise SfmError("the matches fit no poses")
    _check_same_focal(window, best, everything, solution)
    _check_odometry(window, solution, best.verified)
    notes = [_contradicted_note(_contradicted(window.priors, solution.T)), _weak_note(weak)]
    note = "; ".join(filter(None, notes))
    result = _result(window, everything, solution, "images and odometry", note)
    return replace(result, by_images=~weak)


def _check_odometry(
    window: _Window, solution: Solution, verified: Mapping[Pair, Verified]
) -> None:
    """Raise if images contradict odometry or the focal length remains unknown."""
    contradicted = _contradicted(window.priors, solution.T)
    share = explained_share(window.matcher, verified, solution.T, solution.K)
    if share < MIN_EXPLAINED or len(contradicted) > MAX_CONTRADICTED * len(window.priors):
        raise ContradictionError(
            f"images contradict odometry: in {len(contradicted)} of {len(window.priors)} steps, "
            f"with {share:.0%} of the matches explained"
        )
    _check_focal(window, range(len(window.views)), solution)


def _contradicted(priors: Sequence[MotionPrior], T: FloatArray) -> list[MotionPrior]:
    """Return the measured motions that the poses contradict."""
    strain = prior_strain(priors, T).max(1)
    return [prior for prior, s in zip(priors, strain, strict=True) if s > MAX_STRAIN]


def _contradicted_note(contradicted: Sequence[MotionPrior]) -> str:
    steps = ", ".join(f"{p.a} to {p.b}" for p in contradicted)
    return f"images overrule odometry from view {steps}" if contradicted else ""


def _decided(window: _Window, T_odom: FloatArray, contradiction: str) -> WindowPoses:
    """Return poses from images alone if they place all views, otherwise odometry."""
    try:
        alone = _from_images(window, [])
    except FocalError:
        raise
    except SfmError as error:
        return _odometry_stays(window, T_odom, f"{contradiction}; {error}")
    if not alone.placed.all():
        return _odometry_stays(window, T_odom, contradiction)
    return replace(alone, note=contradiction)


def _from_images(window: _Window, priors: Sequence[MotionPrior]) -> WindowPoses:
    """Estimate poses without odometry as initial guess; priors between views give the scale.

    Raises:
        SfmError: the images do not determine the poses.
    """
    found = []
    for start in window.starts():
        verified = window.matcher.verified(start.K_given, None)
        grown = _grown(start, verified, priors)
        if grown is not None:
            found.append(_Start(*grown, verified))
    if not found:
        raise SfmError(_no_poses_message(window))
    best = _best_start([_settled(window, start) for start in found] if found[1:] else found)
    views, solution, held = _held_to(window, best.views, best.solution, priors)
    _check_same_focal(window, best, views, solution)
    share = explained_share(window.matcher, best.verified, solution.T, solution.K, views)
    if share < MIN_EXPLAINED_ALONE:
        raise SfmError(f"the images contradict each other: {share:.0%} of the matches explained")
    flat = plane_share(window.matcher, best.verified, solution.K, solution.sigma_px, views)
    goes_on = bool(held) and window.before is not None and window.given_focals
    if flat > MAX_PLANE_SHARE and not goes_on:
        raise SfmError(
            f"the views show hardly more than one plane ({flat:.0%} of the matches), of which "
            "poses do not follow surely: give odometry, or let the camera see more"
        )
    _check_focal(window, views, solution)
    return _with_unit(window, views, solution, priors, held)


def _grown(
    window: _Window, verified: Mapping[Pair, Verified], priors: Sequence[MotionPrior]
) -> tuple[list[int], Solution] | None:
    """Return the largest set of views placed from the previous window or one of the best pairs."""
    everything = range(len(window.views))
    pixels = window.matcher.tracks({p: v.index for p, v in verified.items()}, everything)
    best: tuple[list[int], Solution] | None = None
    if window.before is not None and priors:
        best = grow(window.before.T, window.K, pixels, window.cameras, priors)
    pairs = [] if best is not None and len(best[0]) == len(everything) else start_pairs(
        window.matcher, verified, window.K
    )  # fmt: skip
    for pair, two in pairs[:STARTS]:
        if two.T_b_a is None:
            continue
        start = {pair[0]: np.eye(4), pair[1]: np.asarray(invert_se3(two.T_b_a))}
        found = grow(start, window.K, pixels, window.cameras)
        if found is not None and (best is None or _rank(*found) > _rank(*best)):
            best = found
        if best is not None and len(best[0]) == len(everything):
            break
    return best


def _settled(window: _Window, start: _Start) -> _Start:
    """Adjust a result until it converges; `grow` stops earlier."""
    everything = range(len(window.views))
    matches = {pair: v.index for pair, v in start.verified.items()}
    pixels = window.matcher.tracks(matches, everything)[:, start.views]
    cameras, now = window.cameras.of(start.views), start.solution
    better = solve(now.T, now.K, pixels, (), cameras, GOOD_PX[-1:], SETTLING_STEPS)
    return start if better is None else replace(start, solution=better)


def _best_start(found: Sequence[_Start]) -> _Start:
    """Return the result with the least residuals among those that explain most observations.

    A wrong focal length can have more inliers, but with larger residuals.

    Raises:
        FocalError: another focal length fits equally well.
    """
    most = max(len(s.views) for s in found)
    count = max(int(s.solution.good.sum()) for s in found if len(s.views) == most)
    able = [
        s for s in found
        if len(s.views) == most and s.solution.good.sum() > MIN_RIVAL_SHARE * count
    ]  # fmt: skip
    best = min(able, key=lambda s: s.solution.median_px)
    for other in able:
        if other.views != best.views:
            continue
        factor = other.solution.K[:, 0, 0] / best.solution.K[:, 0, 0]
        alike = other.solution.median_px < MAX_RIVAL_PX * best.solution.median_px
        if alike and np.abs(np.log(factor)).max() > RIVAL_FOCAL:
            raise FocalError(
                "the motion does not show the focal length: two that differ by "
                f"{np.abs(factor - 1).max():.0%} explain the images; give camera_info"
            )
    return best


def _rank(views: Sequence[int], solution: Solution) -> tuple[int, float]:
    """Rank by number of placed views, then by likelihood of the inliers; larger is better."""
    spread = max(solution.median_px, LEAST_MEDIAN_PX) / GOOD_PX[-1]
    return len(views), -math.log(spread) * float(solution.good.sum())


def _held_to(
    window: _Window, views: list[int], solution: Solution, priors: Sequence[MotionPrior]
) -> tuple[list[int], Solution, list[MotionPrior]]:
    """Refine a solution with the priors between its views; without them if contradicted."""
    held = among(priors, views)
    factor = _unit_by(held, solution)
    if factor is not None:
        found = _refined(window, views, _scaled(solution, factor), priors)
        held = among(priors, found[0])
        if len(_contradicted(held, found[1].T)) <= MAX_CONTRADICTED * len(held):
            return *found, held
    return *_refined(window, views, solution, ()), []


def _unit_by(held: Sequence[MotionPrior], solution: Solution) -> float | None:
    """Return the factor to the unit of the priors; None if their motion is too short.

    Raises:
        SfmError: the priors move in the opposite direction.
    """
    seen = [(invert_se3(solution.T[p.a]) @ solution.T[p.b])[:3, 3] for p in held]
    said = [p.T_a_b[:3, 3] for p in held]
    power = sum(float(s @ s) for s in seen)
    moved = max((float(np.linalg.norm(t)) for t in said), default=0.0)
    if moved < MIN_MOTION_M or power <= 0:
        return None
    factor = sum(float(s @ t) for s, t in zip(seen, said, strict=True)) / power
    if factor <= 0:
        raise SfmError("images and odometry contradict each other in the direction of motion")
    return factor


def _refined(
    window: _Window, views: list[int], solution: Solution, priors: Sequence[MotionPrior]
) -> tuple[list[int], Solution]:
    """Refine with all inlier matches; drop views with poorly determined poses.

    Raises:
        SfmError: too few views are left.
    """
    known = set() if window.before is None or not priors else set(window.before.T)
    for _ in range(len(views)):
        pixels = window.matcher.agreeing(solution.T, solution.K, views)
        cameras, held = window.cameras.of(views), among(priors, views)
        better = solve(solution.T, solution.K, pixels, held, cameras, GOOD_PX[-1:])
        if better is None:
            break
        solution = better
        strong = strong_views(solution.good, pixels, window.size_wh[views])
        strong |= np.array([v in known for v in views])
        strong &= _well_placed(solution)
        if strong.all():
            return views, solution
        views = [v for v, keep in zip(views, strong, strict=True) if keep]
        if len(views) < MIN_GOOD_VIEWS:
            break
        T = solution.T[strong]
        solution = replace(solution, T=invert_se3(T[0]) @ T, K=solution.K[strong])
    raise SfmError(_no_poses_message(window))


def _well_placed(solution: Solution) -> BoolArray:
    """Return the (V,) mask of views whose pose is well determined by the points."""
    sigma = np.sqrt(np.diag(solution.covariance))[: 6 * len(solution.T)].reshape(-1, 6)
    shift = np.linalg.norm(sigma[:, 3:], axis=1) / _median_depth(solution)
    turn = np.linalg.norm(sigma[:, :3], axis=1)
    return np.asarray((turn < MAX_TURN_SIGMA_RAD) & (shift < MAX_SHIFT_SIGMA))


def _median_depth(solution: Solution) -> float:
    """Return the median depth of the points in the views that see them."""
    point, view = np.nonzero(solution.good)
    offset = solution.points[point] - solution.T[view, :3, 3]
    return float(np.median((offset * solution.T[view, :3, 2]).sum(1)))


def _with_unit(
    window: _Window,
    views: list[int],
    solution: Solution,
    priors: Sequence[MotionPrior],
    held: Sequence[MotionPrior],
) -> WindowPoses:
    """Return the result in metres if priors give the scale, otherwise in median depths."""
    if not held:
        note = "images contradict what odometry or the rig say of some views" if any(
            np.linalg.norm(p.T_a_b[:3, 3]) >= MIN_MOTION_M for p in among(priors, views)
        ) else ""  # fmt: skip
        solution = _scaled(solution, 1 / _median_depth(solution))
        return _result(window, views, solution, "images", note)
    found = _result(window, views, solution, "images and odometry")
    if window.unit_before:
        return replace(found, source="images", used_odometry=False, metric=False, unit_before=True)
    if all(view.T_odom_cam is None for view in window.views):
        return replace(found, source="images", used_odometry=False)  # scale from the rig
    return found


def _scaled(solution: Solution, factor: float) -> Solution:
    """Return the solution scaled by a factor."""
    T = solution.T.copy()
    T[:, :3, 3] *= factor
    unit = np.ones(len(solution.covariance))
    unit[: 6 * len(T)].reshape(-1, 6)[:, 3:] = factor
    spread = solution.covariance * np.outer(unit, unit)
    return replace(solution, T=T, points=solution.points * factor, covariance=spread)


def _check_focal(window: _Window, views: Sequence[int], solution: Solution) -> None:
    """Raise FocalError if the motion does not determine an unknown focal length."""
    sigma = _focal_sigma(window, views, solution)
    if sigma > MAX_FOCAL_SIGMA:
        raise FocalError(
            f"the motion does not show the focal length (uncertain by {sigma:.0%}): "
            "give camera_info, or turn the camera"
        )
    for view, K in zip(views, solution.K, strict=True):
        if window.views[view].K is not None:
            continue
        side = K[0, 0] / max(window.views[view].image_rgb.shape[:2])
        if not MIN_FOCAL < side < MAX_FOCAL:
            raise FocalError(
                f"a focal length of {side:.2f} long sides of the image is none of a pinhole "
                "camera: give camera_info"
            )


def _check_same_focal(
    window: _Window, start: _Start, views: Sequence[int], solution: Solution
) -> None:
    """Raise FocalError if adding matches changed the focal length."""
    at = [start.views.index(v) for v in views]
    factor = solution.K[:, 0, 0] / start.solution.K[at, 0, 0]
    if not window.calibrated and np.abs(np.log(factor)).max() > RIVAL_FOCAL:
        raise FocalError(
            "the motion does not show the focal length: it depends on which matches are used, by "
            f"{np.abs(factor - 1).max():.0%}; give camera_info"
        )


def _focal_sigma(window: _Window, views: Sequence[int], solution: Solution) -> float:
    """Return the largest relative sigma of unknown focal lengths; 0 if all are given."""
    cameras = window.cameras.of(views)
    sigma = np.sqrt(np.diag(solution.covariance)[6 * len(views) :])
    return float(sigma[: len(cameras.prior)][np.isinf(cameras.prior[:, 1])].max(initial=0.0))


def _result(
    window: _Window, views: Sequence[int], solution: Solution, source: str, note: str = ""
) -> WindowPoses:
    """Return the result for all views of the window."""
    count = len(window.views)
    T, K, spread = np.tile(np.eye(4), (count, 1, 1)), window.K.copy(), np.zeros((count, 6, 6))
    placed, at = np.zeros(count, bool), list(views)
    T[at], K[at], placed[at] = solution.T, solution.K, True
    spread[at] = _in_reference_axes(solution.T, solution.covariance)
    kept = solution.good.any(1)
    seen = np.zeros((int(kept.sum()), count), bool)
    seen[:, at] = solution.good[kept]
    note = _unplaced_note(placed) or note
    return WindowPoses(
        T, placed, K, spread, source != "images", source != "images", source,
        solution.points[kept], seen, placed, note, _focal_sigma(window, views, solution), at[0],
        solution.median_px, cameras=_cameras_now(window, views, solution),
    )  # fmt: skip


def _cameras_now(window: _Window, views: Sequence[int], solution: Solution) -> Beliefs:
    """Return updated beliefs of the cameras of placed views."""
    cameras, now = window.cameras.of(views), {}
    sigma = np.sqrt(np.diag(solution.covariance)[6 * len(views) :])
    count = len(cameras.prior)
    for index, number in enumerate(np.unique(window.cameras.group[list(views)]).tolist()):
        at = int(np.argmax(cameras.group == index))
        belief = replace(
            window.beliefs[number],
            focal_px=float(solution.K[at, 0, 0]),
            focal_sigma=float(sigma[index]),
        )
        if len(sigma) > count:
            belief = replace(
                belief,
                readout_s=belief.readout_s + float(solution.readout_s[at]),
                readout_sigma_s=float(sigma[count + index]),
            )
        now[window.keys[number]] = belief
    return now


def _in_reference_axes(T: FloatArray, spread: FloatArray) -> FloatArray:
    """Return (V, 6, 6) covariances in the axes of the reference from that of body-frame steps."""
    blocks = []
    for v, R in enumerate(T[:, :3, :3]):
        turn = np.kron(np.eye(2), R)
        own = slice(6 * v, 6 * v + 6)
        blocks.append(turn @ spread[own, own] @ turn.T)
    return np.stack(blocks)


def _odometry_stays(window: _Window, T_odom: FloatArray, why: str) -> WindowPoses:
    """Return odometry unchanged.

    Raises:
        FocalError: the focal length is unknown.
    """
    if not window.calibrated:
        raise FocalError(f"no camera_info, and images do not show the focal length: {why}")
    count = len(window.views)
    spread = np.zeros((6 * count, 6 * count))
    if count > 1:
        spread[6:, 6:] = np.linalg.inv(prior_information(window.priors, T_odom)[6:, 6:])
    return WindowPoses(
        T_odom, np.ones(count, bool), window.K, _in_reference_axes(T_odom, spread), True, True,
        "odometry", np.zeros((0, 3)), np.zeros((0, count), bool), np.zeros(count, bool),
        f"odometry stays: {why}",
    )  # fmt: skip


def _weak_note(weak: BoolArray) -> str:
    views = np.flatnonzero(weak).tolist()
    if not views:
        return ""
    return f"by odometry alone: {plural(len(views), 'view')} ({', '.join(map(str, views))})"


def _no_poses_message(window: _Window) -> str:
    """Return why images give no poses."""
    counts = [len(uv) for uv in window.matcher.uv]
    if min(counts) < TEXTURE:
        return f"the images show too little texture: {min(counts)} features in one of them"
    matched = [
        int(window.matcher.matches[v, v + 1].clear.sum()) for v in range(len(window.views) - 1)
    ]
    if min(matched, default=0) < MATCHED:
        return (
            f"too few matches between neighbouring views, {min(matched, default=0)} of some: "
            "take keyframes closer to each other (keyframes.min_overlap)"
        )
    return (
        "the images show no parallax to find poses from: the camera stands, or turns on the spot"
    )
