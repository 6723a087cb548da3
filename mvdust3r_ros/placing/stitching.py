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

"""Placement of a window in the map: proposed and checked, or rejected with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mvdust3r_ros.config import StitchSettings
from mvdust3r_ros.datatypes import FloatArray, Verdict, Window
from mvdust3r_ros.geometry import (
    R_BODY_OPTICAL,
    AlignmentError,
    Sim3,
    align_cameras_sim3,
    invert_se3,
    rotation_angle_deg,
)
from mvdust3r_ros.placing.floor import LEVEL_TILT_DEG, UNLEVEL_TILT_DEG, fit_floor
from mvdust3r_ros.placing.known_points import KnownView, Pointmap, joint_of
from mvdust3r_ros.placing.pose_fusion import (
    UNIT_FACTORS,
    FusedPoses,
    PoseSigma,
    anchor_to_odometry,
    fuse_poses,
)
from mvdust3r_ros.placing.rig import rig_evidence, rig_pairs
from mvdust3r_ros.placing.scale import (
    ScaleEvidence,
    ScaleFilter,
    depth_evidence,
    height_evidence,
    model_evidence,
    odometry_evidence,
)
from mvdust3r_ros.window.limits import attainable
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry

WINDOW_PATH_M, DRIFT_SIGMAS = 3.0, 3.0
"""Path length beyond which a network's error no longer grows, unlike drift, since its views see no
farther. Insensitive from half to twice both values (benchmarks/constants.py), since the errors to
refuse are far larger."""
MOTION_SLACK_M = 0.2
"""Pose error to tolerate without motion; a confused view is off by more. Insensitive from 0.1 to
0.4 (benchmarks/constants.py)."""
SURE_SIGMA = 0.1
"""Relative sigma below which scale evidence may refuse a window: `stitch.max_scale_change` is many
of them. Insensitive from 0.05 to 0.2 (benchmarks/constants.py)."""
MIN_SHARED_POINTS = 100
"""For seven unknowns; with 10 % noise the size is known to a per cent. Insensitive from 50 to 200
(benchmarks/constants.py): a window has thousands."""
MIN_CHAIN_SIGMA = 0.001
"""Least relative sigma of a joint's scale, so that views that agree by chance do not make it
exact. Insensitive from 0.0005 to 0.002 (benchmarks/constants.py)."""
DEPTH_BIAS = 2.0
"""Common depth error of all views of a window, relative to the typical error. It affects the scale
of a joint, but not the distances from odometry. Insensitive from 1 to 4
(benchmarks/constants.py)."""
MIN_SHARED_VIEW_POINTS = 20
"""Least number of a view's shared points for the median of their ratio, which is then known to a
quarter of one point's sigma."""
MIN_SHAPE_POSES = 3
"""With two poses, a similarity fits any shape."""
STANDS_M, STANDS_DEG = 0.1, 5.0
"""Views closer to each other than this are of a static camera."""
SHAPE_SHARE, SHAPE_M, SHAPE_DEG = 0.05, 0.05, 10.0
"""Largest deviation of a window's path from odometry's to have the same shape: drift over a
window, noise, and a rotation that no wrong window meets by chance. Insensitive from half to twice
each value (benchmarks/constants.py)."""


@dataclass(frozen=True)
class Placement:
    """A window's placement in the map, not yet committed.

    Attributes:
        S_map_window: similarity from the window's frame to the map.
        T_map_cam: keyframe id -> (4, 4) pose, fused with odometry if there is any.
        residual_m: median distance on shared pixels; NaN without any.
        scale: the scale filter after this window.
        network_share: share of the motions that follows the window's scale, see `FusedPoses`.
        sigma_factors: factors of odometry's sigmas for the motions, see `FusedPoses`.
    """

    S_map_window: Sim3
    T_map_cam: dict[int, FloatArray]
    residual_m: float
    scale: ScaleFilter
    network_share: float = 1.0
    sigma_factors: PoseSigma = UNIT_FACTORS


@dataclass(frozen=True, eq=False)
class MapEnd:
    """The part of a map to which windows are joined.

    Attributes:
        points: keyframe -> its points in the map, mostly from the last window.
        T_map_cam: keyframe -> (4, 4) pose, of the same keyframes.
        T_map_odom: (4, 4) pose of odometry's frame; None when unknown.
        scale: the scale filter so far.
    """

    points: Mapping[int, Pointmap] = field(default_factory=dict)
    T_map_cam: Mapping[int, FloatArray] = field(default_factory=dict)
    T_map_odom: FloatArray | None = None
    scale: ScaleFilter = field(default_factory=ScaleFilter)

    def shares_views(self, window: Window) -> bool:
        """Whether a window contains one of its keyframes."""
        return any(k.id in self.points for k in window.keyframes)

    def knows_place(self, window: Window) -> bool:
        """Whether odometry locates a window in the map."""
        return self.T_map_odom is not None and window.keyframes[-1].view.T_odom_cam is not None


@dataclass(frozen=True, eq=False)
class Stitcher:
    """Joins windows to the end of a map.

    Odometry counts once. If a window's poses already include it (`used_odometry`), the motions
    within the window are kept, see `fuse_poses`. If odometry has also made the window metric, its
    evidence is a scale of 1 with odometry's uncertainty: the motion is not compared with odometry
    again, and the engine's metres do not count as a model's. Odometry still places a first or
    disconnected window, and windows that contradict it are refused as usual.

    Attributes:
        settings: limits and uncertainties; for a coarse window the limits are `attainable` ones.
        end: of the map; empty for no map yet.
        camera_height_m: height of the camera above the floor; 0 when unknown.
    """

    settings: StitchSettings
    end: MapEnd = field(default_factory=MapEnd)
    camera_height_m: float = 0.0

    def place(self, geometry: WindowGeometry) -> Placement:
        """Propose a placement for a window and check it.

        Raises:
            WindowError: the window does not fit; the verdict gives the reason.
        """
        conflict = geometry.worst_conflict()
        if conflict > self.settings.max_conflict:
            raise WindowError(
                Verdict.REJECTED_POSE,
                f"two views contradict each other: one sees through {conflict:.0%} of the points "
                f"of the other (limit {self.settings.max_conflict:.0%})",
            )
        shared = [
            KnownView(i, known, self.end.T_map_cam[k.id])
            for i, k in enumerate(geometry.window.keyframes)
            if (known := self.end.points.get(k.id)) is not None
        ]
        evidence = self._evidence(geometry)
        if not self.end.points:
            placement = self._place_first(geometry, evidence)
        elif shared:
            placement = self._place_by_points(geometry, shared, evidence)
        else:
            placement = self._place_by_odometry(geometry, evidence)
        self.check_odometry(geometry, placement)
        fused = self.fused(geometry, placement)
        return replace(
            placement,
            T_map_cam=fused.T_map_cam,
            network_share=fused.network_share,
            sigma_factors=fused.sigma_factors,
        )

    def fused(self, geometry: WindowGeometry, placement: Placement) -> FusedPoses:
        """Fuse the poses with odometry and rig; keyframes already in the map keep theirs."""
        T_map_cam, T_odom_cam = self._on_odometry(geometry, placement)
        rule, pairs = self.settings.odom_rel_sigma, rig_pairs(geometry.window.keyframes)
        if geometry.used_odometry:
            own = own_sigmas(geometry, placement.S_map_window.scale)
            return fuse_poses(
                placement.T_map_cam, T_odom_cam, self.end.T_map_cam, rule, pairs, own=own
            )
        start = self._start(geometry.window, T_map_cam, T_odom_cam)
        every = {**placement.T_map_cam, **T_map_cam}
        fused = fuse_poses(every, T_odom_cam, self.end.T_map_cam, rule, pairs, start)
        poses = {key: fused.T_map_cam[key] for key in placement.T_map_cam}
        return replace(fused, T_map_cam=poses)

    def _start(
        self,
        window: Window,
        T_map_cam: Mapping[int, FloatArray],
        T_odom_cam: Mapping[int, FloatArray],
    ) -> tuple[int, FloatArray] | None:
        """Return odometry's pose for the first keyframe of a window that shares none with the map.

        A new map has odometry's axes and the height of the placement.
        """
        if not T_odom_cam or any(k.id in self.end.T_map_cam for k in window.keyframes):
            return None
        first = next(iter(T_odom_cam))
        if self.end.T_map_cam:
            T_map_odom = self.end.T_map_odom
            return None if T_map_odom is None else (first, T_map_odom @ T_odom_cam[first])
        T = T_odom_cam[first].copy()
        T[2, 3] += np.median([T_map_cam[key][2, 3] - T_odom_cam[key][2, 3] for key in T_odom_cam])
        return first, T

    def _on_odometry(
        self, geometry: WindowGeometry, placement: Placement
    ) -> tuple[dict[int, FloatArray], dict[int, FloatArray]]:
        """Return keyframe -> map pose and odometry pose, in time order, where both are known.

        A mapped keyframe counts even if the network found no pose for it this time.
        """
        T_map_cam, T_odom_cam = {}, {}
        for keyframe in geometry.window.keyframes:
            T = placement.T_map_cam.get(keyframe.id, self.end.T_map_cam.get(keyframe.id))
            if T is not None and keyframe.view.T_odom_cam is not None:
                T_map_cam[keyframe.id] = T
                T_odom_cam[keyframe.id] = keyframe.view.T_odom_cam
        return T_map_cam, T_odom_cam

    def _evidence(self, geometry: WindowGeometry) -> list[ScaleEvidence]:
        found: list[ScaleEvidence | None] = [self._odometry_evidence(geometry)]
        if pairs := rig_pairs(geometry.window.keyframes):
            poses = {k.id: p.T_window_cam for _, k, p in geometry.posed()}
            found.append(rig_evidence(poses, pairs, self.settings.min_baseline_m))
        by_model = geometry.metric and not geometry.used_odometry
        if by_model and self._looks_from_elsewhere(geometry):
            found.append(model_evidence(self.settings.model_rel_sigma))
        if self.camera_height_m > 0:
            found.append(self._height_evidence(geometry))
        if self.settings.use_depth and geometry.depth_m is not None:
            found.append(depth_evidence(_predicted_depth(geometry), geometry.depth_m))
        return [item for item in found if item is not None]

    def _odometry_evidence(self, geometry: WindowGeometry) -> ScaleEvidence | None:
        """Return odometry's evidence of the scale; 1 if odometry made the window metric.

        Raises:
            WindowError: the size of such a window contradicts odometry.
        """
        T_window_cam, T_odom_cam = geometry.with_odometry()
        if len(T_odom_cam) < 2:
            return None
        rule = self.settings
        item = odometry_evidence(
            T_window_cam,
            T_odom_cam,
            rule.min_baseline_m,
            rule.odom_rel_sigma,
            rule.odom_bias_sigma,
        )
        if item is None or not (geometry.metric and geometry.used_odometry):
            return item
        limit = rule.max_scale_change
        if item.rel_sigma < SURE_SIGMA and not 1 / limit < item.scale < limit:
            raise WindowError(
                Verdict.REJECTED_ODOMETRY,
                f"the window is said to be in metres by odometry, which moved {item.scale:.2f} "
                f"times as far (limit {limit:g})",
            )
        return replace(item, scale=1.0)

    def _looks_from_elsewhere(self, geometry: WindowGeometry) -> bool:
        """Whether a new view has a viewpoint different from those of the window's mapped views.

        On the same image again, the network repeats its errors: a static camera learns nothing
        about metres from it.
        """
        placed = [(k.id in self.end.points, p.T_window_cam) for _, k, p in geometry.posed()]
        known = [T for is_known, T in placed if is_known]
        return any(
            all(_apart(T, other) for other in known) for is_known, T in placed if not is_known
        )

    def _height_evidence(self, geometry: WindowGeometry) -> ScaleEvidence | None:
        """Return the floor's evidence, in axes levelled by the map, odometry or the camera."""
        R_level_window, tilt_deg = self._level(geometry)
        centres = np.stack([p.T_window_cam[:3, 3] for _, _, p in geometry.posed()])
        points = geometry.points[geometry.valid]
        return height_evidence(
            points @ R_level_window.T.astype(points.dtype),
            centres @ R_level_window.T,
            self.camera_height_m,
            tilt_deg,
        )

    def _level(self, geometry: WindowGeometry) -> tuple[FloatArray, float]:
        """Return the rotation from the window to roughly level axes, and its error limit."""
        for _, keyframe, pose in geometry.posed():
            T_map_cam = self.end.T_map_cam.get(keyframe.id)
            if T_map_cam is not None:
                return T_map_cam[:3, :3] @ pose.T_window_cam[:3, :3].T, LEVEL_TILT_DEG
        T_window_cam, T_odom_cam = geometry.with_odometry()
        if len(T_odom_cam):
            return T_odom_cam[0, :3, :3] @ T_window_cam[0, :3, :3].T, LEVEL_TILT_DEG
        return R_BODY_OPTICAL @ geometry.first_pose[:3, :3].T, UNLEVEL_TILT_DEG

    def _place_first(self, geometry: WindowGeometry, evidence: list[ScaleEvidence]) -> Placement:
        """Define the map by the first window: odometry's axes, or the floor's."""
        scale, after = self.end.scale.fuse(None, evidence)
        T_window_cam, T_odom_cam = geometry.with_odometry()
        if len(T_odom_cam) >= 1:
            T_scaled = T_window_cam.copy()
            T_scaled[:, :3, 3] *= scale
            S_odom = anchor_to_odometry(T_scaled, T_odom_cam, self.settings.odom_rel_sigma)
            S = on_the_floor(geometry, Sim3(scale, S_odom.R, S_odom.t))
            return _placement(geometry, S, float("nan"), after)
        level = level_by_floor(geometry)
        S = Sim3(scale, level.R, scale * level.t)
        return _placement(geometry, S, float("nan"), after)

    def _place_by_points(
        self, geometry: WindowGeometry, shared: list[KnownView], evidence: list[ScaleEvidence]
    ) -> Placement:
        """Fit a robust similarity to the pixels of the shared keyframes."""
        joint = joint_of(geometry, shared)
        if len(joint) < MIN_SHARED_POINTS:
            raise WindowError(
                Verdict.REJECTED_LOW_CONFIDENCE,
                f"only {len(joint)} confident pixels are shared with the map "
                f"(at least {MIN_SHARED_POINTS})",
            )
        try:
            S, residual = joint.fit()
        except AlignmentError as error:
            raise WindowError(Verdict.REJECTED_DEGENERATE, str(error)) from None
        relative = float(np.median(residual / joint.depth))
        max_residual = attainable(self.settings, geometry.rel_error).max_residual
        if relative > max_residual:
            raise WindowError(
                Verdict.REJECTED_RESIDUAL,
                f"shared pixels disagree by {relative:.1%} of their depth "
                f"(limit {max_residual:.1%})",
            )
        sigma = self._chain_sigma(geometry, shared, relative)
        if geometry.used_odometry:
            sigma = max(sigma, DEPTH_BIAS * geometry.rel_error)
        scale, after = self.end.scale.fuse((S.scale, sigma), evidence)
        self._check_scale(S.scale, evidence)
        # a scale correction expands the window about the points shared with the map
        near = residual <= np.median(residual)
        t = joint.map[near].mean(0) - scale * S.R @ joint.window[near].mean(0)
        return _placement(geometry, Sim3(scale, S.R, t), float(np.median(residual)), after)

    def _chain_sigma(
        self, geometry: WindowGeometry, shared: list[KnownView], relative: float
    ) -> float:
        """Return the relative sigma of a joint's scale, from the spread of the shared views.

        Args:
            geometry: the window.
            shared: views with points in the map.
            relative: median residual as a share of the depth, used for a single view.

        Raises:
            WindowError: the views contradict each other.
        """
        logs = []
        for view in shared:
            use = view.use(geometry)
            if geometry.poses[view.index] is None or use.sum() < MIN_SHARED_VIEW_POINTS:
                continue
            known = np.linalg.norm(view.known.points_cam[use], axis=1)
            logs.append(float(np.median(np.log(known / geometry.distance(view.index, use)))))
        if len(logs) < 2:
            return max(MIN_CHAIN_SIGMA, relative)
        factor, limit = math.exp(max(logs) - min(logs)), self.settings.max_scale_change
        if factor > limit:
            raise WindowError(
                Verdict.REJECTED_RESIDUAL,
                f"the shared views differ in scale by a factor of {factor:.2f} (limit {limit:g})",
            )
        return max(MIN_CHAIN_SIGMA, float(np.std(logs, ddof=1)) / math.sqrt(len(logs)))

    def _place_by_odometry(
        self, geometry: WindowGeometry, evidence: list[ScaleEvidence]
    ) -> Placement:
        """Use odometry to place a window that shares no view with the map."""
        T_window_cam, T_odom_cam = geometry.with_odometry()
        if self.end.T_map_odom is None or len(T_odom_cam) < 2:
            raise WindowError(
                Verdict.REJECTED_NO_OVERLAP,
                "the window shares no keyframe with the map and there is no odometry to place it; "
                "go back to known ground, give odometry, or reset the map",
            )
        if not evidence:
            raise WindowError(
                Verdict.REJECTED_NO_OVERLAP,
                "the window shares no keyframe with the map, and within it the camera has not "
                "moved far enough by odometry to say its size; drive on",
            )
        scale, after = self.end.scale.fuse(None, evidence)
        max_sigma = attainable(self.settings, geometry.rel_error).max_lone_sigma
        if after.estimate.rel_sigma > max_sigma:
            raise WindowError(
                Verdict.REJECTED_ODOMETRY,
                "the window shares no keyframe with the map, and its motion is so unlike "
                f"odometry's that its scale is known to {after.estimate.rel_sigma:.0%} only "
                f"(limit {max_sigma:.0%})",
            )
        T_map_cam = self.end.T_map_odom @ T_odom_cam
        S, _ = align_cameras_sim3(T_window_cam, T_map_cam, with_scale=False)
        t = T_map_cam[:, :3, 3].mean(0) - scale * S.R @ T_window_cam[:, :3, 3].mean(0)
        return _placement(geometry, Sim3(scale, S.R, t), float("nan"), after)

    def _check_scale(self, scale: float, evidence: list[ScaleEvidence]) -> None:
        limit = self.settings.max_scale_change
        for item in evidence:
            ratio = scale / item.scale
            if item.rel_sigma < SURE_SIGMA and not 1 / limit < ratio < limit:
                raise WindowError(
                    Verdict.REJECTED_RESIDUAL,
                    f"the joint with the map gives a scale {ratio:.2f} times that of "
                    f"{item.source.name.lower()} (limit {limit:g})",
                )

    def check_odometry(self, geometry: WindowGeometry, placement: Placement) -> None:
        """Compare the motion over the window with odometry.

        Raises:
            WindowError: they differ by more than the settings allow.
        """
        T_map_cam, T_odom_cam = (
            np.array(list(d.values())) for d in self._on_odometry(geometry, placement)
        )
        if len(T_map_cam) >= 2:
            limits = attainable(self.settings, geometry.rel_error)
            check_motion(T_map_cam, T_odom_cam, limits, "the window's motion")


def _apart(T_a: FloatArray, T_b: FloatArray) -> bool:
    """Whether two cameras of a metric window, (4, 4) poses, have different viewpoints."""
    turned_deg = float(rotation_angle_deg(T_a[:3, :3].T @ T_b[:3, :3]))
    return bool(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3]) > STANDS_M) or turned_deg > STANDS_DEG


def check_motion(
    T_map_cam: FloatArray, T_odom_cam: FloatArray, settings: StitchSettings, what: str
) -> None:
    """Compare the motion from the first to the last of (N, 4, 4) poses with odometry.

    Raises:
        WindowError: they differ by more than the settings allow.
    """
    moved = invert_se3(T_map_cam[0]) @ T_map_cam[-1]
    truth = invert_se3(T_odom_cam[0]) @ T_odom_cam[-1]
    turned_deg = float(rotation_angle_deg(truth[:3, :3].T @ moved[:3, :3]))
    off_m = float(np.linalg.norm(moved[:3, 3] - truth[:3, 3]))
    path_m = float(np.linalg.norm(np.diff(T_odom_cam[:, :3, 3], axis=0), axis=1).sum())
    drift_m = DRIFT_SIGMAS * settings.odom_rel_sigma * path_m
    share_m = settings.max_odom_translation * min(path_m, WINDOW_PATH_M)
    limit_m = share_m + drift_m + MOTION_SLACK_M
    if off_m > limit_m or turned_deg > settings.max_odom_rotation_deg:
        raise WindowError(
            Verdict.REJECTED_ODOMETRY,
            f"{what} differs from odometry by {off_m:.2f} m and {turned_deg:.1f} deg "
            f"(limits {limit_m:.2f} m, {settings.max_odom_rotation_deg:.3g} deg)",
        )


def agrees_with_odometry(geometry: WindowGeometry) -> bool:
    """Whether a window's path has the shape of odometry's, at any scale.

    False without odometry.
    """
    T_window_cam, T_odom_cam = geometry.with_odometry()
    if len(T_odom_cam) < MIN_SHAPE_POSES:
        return False
    try:
        S, rms_m = align_cameras_sim3(T_window_cam, T_odom_cam)
    except AlignmentError:
        return False
    turned = np.swapaxes(T_odom_cam[:, :3, :3], 1, 2) @ S.R @ T_window_cam[:, :3, :3]
    path_m = float(np.linalg.norm(np.diff(T_odom_cam[:, :3, 3], axis=0), axis=1).sum())
    same_way = rms_m < SHAPE_SHARE * path_m + SHAPE_M
    return same_way and float(rotation_angle_deg(turned).max()) < SHAPE_DEG


def own_sigmas(geometry: WindowGeometry, scale: float) -> dict[int, PoseSigma]:
    """Return keyframe -> the engine's one-sigma of its pose; empty if the engine gives none.

    Args:
        geometry: the window.
        scale: metres per window unit.
    """
    if geometry.pose_covariance is None:
        return {}
    found = {}
    for index, keyframe, _ in geometry.posed():
        variance = np.diagonal(geometry.pose_covariance[index])
        rad, unit = (math.sqrt(float(v.mean())) for v in (variance[:3], variance[3:]))
        found[keyframe.id] = PoseSigma.of(scale * unit, rad)
    return found


def _predicted_depth(geometry: WindowGeometry) -> FloatArray:
    """Return (V, h, w) depth along the optical axes in window units, NaN where not trusted."""
    depth = np.full(geometry.conf.shape, np.nan)
    for index, _, _ in geometry.posed():
        depth[index] = geometry.depth(index)
    depth[~geometry.valid] = np.nan
    return depth


def _placement(
    geometry: WindowGeometry, S: Sim3, residual_m: float, scale: ScaleFilter
) -> Placement:
    T_map_cam = {k.id: S.apply_pose(p.T_window_cam) for _, k, p in geometry.posed()}
    return Placement(S, T_map_cam, residual_m, scale)


def on_the_floor(geometry: WindowGeometry, S_map_window: Sim3) -> Sim3:
    """Return the placement shifted vertically to put a visible floor at z = 0."""
    camera = S_map_window.apply(geometry.first_pose[:3, 3])
    points = S_map_window.apply(geometry.points[geometry.valid])
    floor = fit_floor(points, camera, LEVEL_TILT_DEG)
    if floor is None:
        return S_map_window
    up = np.array([0.0, 0.0, floor.height_at(camera[:2])])
    return Sim3(S_map_window.scale, S_map_window.R, S_map_window.t - up)


def level_by_floor(geometry: WindowGeometry) -> Sim3:
    """Return rotation and translation that put the first window's floor at z = 0, z up.

    The camera is assumed to be roughly level until the floor plane refines that. Without a visible
    floor the camera stays at the origin.
    """
    first = geometry.first_pose
    R = R_BODY_OPTICAL @ first[:3, :3].T
    origin = first[:3, 3]
    points = (geometry.points[geometry.valid] - origin) @ R.T
    S = Sim3(1.0, R, -R @ origin)
    floor = fit_floor(points, np.zeros(3), UNLEVEL_TILT_DEG)
    if floor is None:
        return S
    T = floor.level_transform()
    return Sim3(1.0, T[:3, :3], T[:3, 3]) @ S
