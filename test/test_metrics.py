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

"""Window metrics: closed forms, invariances, and every stored number of the public evaluation."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import WindowPrediction
from mvdust3r_ros.engines.views import path_order
from mvdust3r_ros.evaluation.metrics.window_metrics import (
    MetricError,
    WindowScores,
    WindowTruth,
    align_pointmaps,
    arccos_extrapolated,
    chamfer_distance,
    confident_pixels,
    demo_cameras,
    demo_view_order,
    depth_abs_rel,
    estimate_intrinsics,
    format_table,
    line_angle_deg,
    mean_columns,
    mean_distance,
    normalized_distance,
    pnp_poses,
    pose_accuracy,
    relative_pose_errors_deg,
    scale_error,
    score_window,
    view_errors,
)
from mvdust3r_ros.geometry import align_sim3, focal_from_pointmap, invert_se3, make_se3
from stored_data import GOLDEN

NUMBERS = GOLDEN / "eval"
OPENCV = tuple(int(n) for n in cv2.__version__.split(".")[:2])
CASES = ("eval_exact_r1", "eval_noisy_r1", "eval_noisy_r2")
PUBLISHED = {
    "ScaleShiftAllInv": "scale_shift",
    "ScaleShiftInv": "scale_depth_shift",
    "Regr3D": "scale",
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

Case = tuple[dict[str, np.ndarray], dict[str, object]]


def load_case(name: str) -> Case:
    with np.load(NUMBERS / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored}
    return arrays, json.loads((NUMBERS / f"{name}.json").read_text())


def rows_of(arrays: dict[str, np.ndarray]) -> list[tuple[int, np.ndarray, WindowTruth, int]]:
    """(row, predicted points in slot order, truth of its window in view order, reference)."""
    batch = len(arrays["in/gt_pts3d_world"])
    n_ref = len(arrays["in/pred_pts3d"]) // batch
    rows = []
    for row, pred in enumerate(arrays["in/pred_pts3d"]):
        b, reference = divmod(row, n_ref)
        truth = WindowTruth(
            arrays["in/gt_pts3d_world"][b], arrays["in/valid_mask"][b], arrays["in/camera_pose"][b]
        )
        rows.append((row, pred, truth, reference))
    return rows


def random_poses(n: int, seed: int, reach: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    R = Rotation.random(n, random_state=seed).as_matrix()
    return np.array([make_se3(R[i], rng.normal(0, reach, 3)) for i in range(n)])


def make_window(seed: int = 0, n_views: int = 3) -> WindowTruth:
    """Random smooth depth seen by cameras that stand close together, exact geometry."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[0:20, 0:24]
    rays = np.stack([(u - 12) / 22.0, (v - 10) / 22.0, np.ones_like(u)], -1)
    points, poses = [], []
    for k in range(n_views):
        depth = 3 + np.sin(u / 5 + k) + 0.5 * np.cos(v / 3) + rng.uniform(0, 0.2, u.shape)
        turn = Rotation.from_rotvec(rng.normal(0, 0.5, 3)).as_matrix()
        poses.append(make_se3(turn, rng.normal(0, 1, 3)))
        points.append((rays * depth[..., None]) @ turn.T + poses[-1][:3, 3])
    return WindowTruth(np.array(points), rng.random((n_views, 20, 24)) > 0.1, np.array(poses))


# --- closed forms ----------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.05, 20),
    shift=st.tuples(*[st.floats(-5, 5)] * 3),
    alignment=st.sampled_from(["scale_shift", "scale_depth_shift", "scale"]),
)
def test_alignment_removes_exactly_what_it_names(
    seed: int, scale: float, shift: tuple[float, float, float], alignment: str
) -> None:
    true = make_window(seed).in_slots(0)
    offset = np.array(shift) * (alignment != "scale")
    if alignment == "scale_depth_shift":
        offset[:2] = 0
    pred, aligned = align_pointmaps(
        (true.points_world + offset) * scale, true.points_world, true.valid, alignment
    )
    np.testing.assert_allclose(pred, aligned, atol=1e-6)


def test_a_rotation_is_not_removed() -> None:
    true = make_window().in_slots(0)
    turned = true.points_world @ Rotation.from_euler("z", 30, degrees=True).as_matrix().T
    pair = align_pointmaps(turned, true.points_world, true.valid)
    assert normalized_distance(*pair, true.valid) > 0.1


def test_invalid_pixels_have_no_say() -> None:
    true = make_window().in_slots(0)
    spoiled = true.points_world.copy()
    spoiled[~true.valid] = 1e3
    pair = align_pointmaps(spoiled, true.points_world, true.valid)
    assert normalized_distance(*pair, true.valid) < 1e-9
    with pytest.raises(MetricError, match="valid"):
        align_pointmaps(spoiled, true.points_world, np.zeros_like(true.valid))


def test_the_distance_of_one_view_is_cut_at_ten() -> None:
    truth = np.zeros((2, 4, 4, 3))
    pred = truth.copy()
    pred[0, ..., 0], pred[1, ..., 1] = 1.0, 500.0
    valid = np.ones((2, 4, 4), bool)
    assert view_errors(pred, truth, valid).tolist() == [1.0, 500.0]
    assert normalized_distance(pred, truth, valid) == pytest.approx(5.5)
    valid[1] = False
    assert normalized_distance(pred, truth, valid) == pytest.approx(0.5)


def test_chamfer_of_two_shifted_points_is_twice_the_squared_shift() -> None:
    cloud = np.array([[0.0, 0, 0], [10, 0, 0]])
    assert chamfer_distance(cloud, cloud + np.array([0, 0, 0.5])) == pytest.approx(0.5)
    with pytest.raises(MetricError, match="0 and 2 points"):
        chamfer_distance(cloud[:0], cloud)


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_relative_poses_ignore_size_and_have_the_known_floor(seed: int) -> None:
    poses = random_poses(4, seed)
    rotation, translation = relative_pose_errors_deg(poses, poses)
    assert rotation == pytest.approx(0.405, abs=0.001)
    assert translation == pytest.approx(0.0, abs=0.01)
    shrunk = poses.copy()
    shrunk[:, :3, 3] *= 0.3
    np.testing.assert_allclose(relative_pose_errors_deg(shrunk, poses)[1], 0.0, atol=0.01)


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_relative_poses_do_not_see_a_common_turn_of_all_cameras(seed: int) -> None:
    """T_i inv(T_j) stays the same when every camera frame is changed in the same way."""
    poses, other = random_poses(4, seed), random_poses(4, seed + 1)
    change = random_poses(1, seed + 2)[0]
    before = relative_pose_errors_deg(poses, other)
    after = relative_pose_errors_deg(poses @ change, other @ change)
    np.testing.assert_allclose(before, after, atol=0.01)


@pytest.mark.parametrize("angle", [1.0, 14.9, 90.0, 170.0])
def test_a_known_turn_is_measured(angle: float) -> None:
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 1.0
    turned = poses.copy()
    turned[1, :3, :3] = Rotation.from_euler("x", angle, degrees=True).as_matrix()
    rotation, translation = relative_pose_errors_deg(turned, poses)
    assert rotation[0] == pytest.approx(angle, abs=0.25 if angle < 2 else 1e-6)
    assert translation[0] == pytest.approx(0.0, abs=0.01)


def test_lines_have_no_sign() -> None:
    a = np.array([[1.0, 0, 0]] * 4)
    b = np.array([[1.0, 0, 0], [-2, 0, 0], [1, 1, 0], [0, 0, 3]])
    np.testing.assert_allclose(line_angle_deg(a, b), [0, 0, 45, 90], atol=1e-3)


def test_accuracy_counts_pairs_strictly_below_the_limit() -> None:
    got = pose_accuracy(np.array([0.5, 15.0, 40.0]), np.array([0.5, 3.0, 2.0]))
    assert got.rra == pytest.approx(1 / 3)
    assert got.rta == pytest.approx(1.0)
    assert got.maa == pytest.approx((30 + 15) / 90)


def test_a_perfect_prediction_scores_perfectly_from_any_reference() -> None:
    truth = make_window(5, n_views=4)
    for reference in range(4):
        T = invert_se3(truth.T_world_cam[reference])
        points = truth.points_world @ T[:3, :3].T + T[:3, 3]
        conf = np.where(truth.valid, 5.0, 2.0)
        prediction = WindowPrediction(points[None] * 7.5, conf[None], (reference,))
        got = score_window(prediction, truth)
        assert got.nd < 1e-9
        assert got.cd < 1e-15
        assert (got.dac, got.rre, got.rte, got.mae) == (1.0, 0.0, 0.0, 0.0)


def test_depth_and_scale_errors_are_relative() -> None:
    truth = np.array([1.0, 2.0, 4.0, 0.0])
    assert depth_abs_rel(truth * 1.1, truth, truth > 0) == pytest.approx(0.1)
    points = np.random.default_rng(0).normal(size=(50, 3))
    assert scale_error(points * 0.8, points, np.ones(50, bool)) == pytest.approx(-0.2)
    with pytest.raises(MetricError):
        depth_abs_rel(truth, truth, truth > 10)


def test_the_reference_and_view_zero_change_places() -> None:
    assert [path_order(r, 5).tolist() for r in range(3)] == [
        [0, 1, 2, 3, 4],
        [1, 0, 2, 3, 4],
        [2, 1, 0, 3, 4],
    ]


@pytest.mark.parametrize("n_views", range(1, 60))
def test_the_order_of_the_demo_is_a_permutation(n_views: int) -> None:
    assert sorted(demo_view_order(n_views)) == list(range(n_views))


def test_columns_have_the_published_units() -> None:
    scores = [WindowScores(0.1, 1, c, 0.5, 0.25, 0.75) for c in (0.01, 0.02, 9.0)]
    assert mean_columns(scores) == pytest.approx((1.0, 100.0, 2.0, 50.0, 25.0, 75.0))
    lines = format_table({"rooms": scores}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split("|")[1:4] == [" rooms   ", "     3 ", "    1.00 "]
    with pytest.raises(MetricError, match="no windows"):
        mean_columns([])


def test_shapes_that_do_not_fit_are_named() -> None:
    window = make_window()
    with pytest.raises(MetricError, match="mask"):
        WindowTruth(window.points_world, window.valid[:2], window.T_world_cam)
    with pytest.raises(MetricError, match="poses"):
        WindowTruth(window.points_world, window.valid, window.T_world_cam[:2])
    with pytest.raises(MetricError, match="fit"):
        align_pointmaps(window.points_world[:2], window.points_world, window.valid)
    with pytest.raises(MetricError, match="rotation"):
        align_pointmaps(window.points_world, window.points_world, window.valid, "rotation")


# --- stored numbers of the public evaluation -------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_stored_rows_are_the_truth_in_slots(name: str) -> None:
    arrays, _ = load_case(name)
    for row, _, truth, reference in rows_of(arrays):
        true = truth.in_slots(reference)
        np.testing.assert_array_equal(true.valid, arrays["valid_mask_rows"][row])
        order = path_order(reference, len(truth.valid))
        np.testing.assert_allclose(
            truth.T_world_cam[order], arrays["camera_pose_rows"][row], atol=1e-6
        )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("published", PUBLISHED)
def test_stored_distances(name: str, published: str) -> None:
    arrays, meta = load_case(name)
    nd, slots, cd = [], [], []
    for row, pred, truth, reference in rows_of(arrays):
        true = truth.in_slots(reference)
        aligned = align_pointmaps(pred, true.points_world, true.valid, PUBLISHED[published])
        if f"{published}/pred_aligned" in arrays:
            for got, key in zip(aligned, ("pred_aligned", "gt_aligned"), strict=True):
                want = arrays[f"{published}/{key}"][row]
                np.testing.assert_allclose(got[true.valid], want[true.valid], **CLOSE)
        nd.append(normalized_distance(*aligned, true.valid))
        slots.append(view_errors(*aligned, true.valid))
        cd.append(min(chamfer_distance(aligned[0][true.valid], aligned[1][true.valid]), 10.0))
    np.testing.assert_allclose(nd, arrays[f"{published}/nd_rows"], **CLOSE)
    np.testing.assert_allclose(slots, arrays[f"{published}/nd_row_slot_unclipped"], **CLOSE)
    np.testing.assert_allclose(cd, arrays[f"{published}/cd_rows"], **CLOSE)
    for limit in (0.1, 0.2, 0.3, 0.5):
        want = arrays[f"{published}/dac_{limit}_rows"]
        np.testing.assert_array_equal((np.array(nd) < limit).astype(float), want)
    check_scalars(meta["scalars"][published], np.array(nd), np.array(slots), np.array(cd), meta)


def check_scalars(
    stored: dict[str, float], nd: np.ndarray, slots: np.ndarray, cd: np.ndarray, meta: dict
) -> None:
    """The averages over a batch; rows are (window, reference)."""
    n_ref = meta["n_ref"]
    by_window = np.minimum(slots, 10.0).reshape(-1, n_ref, slots.shape[1])
    # the reference of path r sits in slot 0; compare views, not slots
    by_view = by_window.copy()
    for r in range(n_ref):
        by_view[:, r] = by_window[:, r][:, path_order(r, slots.shape[1])]
    computed = {
        "nd_first": nd[::n_ref].mean(),
        "nd_first_slot0": by_window[:, 0, 0].mean(),
        "nd_first_other_slots": by_window[:, 0, 1:].mean(),
        "cd_all_rows": cd.mean(),
        "cd_first": cd[::n_ref].mean(),
        "cd_best": cd.reshape(-1, n_ref).min(1).mean(),
        "dac_02_first": (nd[::n_ref] < 0.2).mean(),
        "nd_slot0_all_rows": slots[:, 0].mean(),
        "nd_other_slots_all_rows": slots[:, 1:].mean(),
        "nd_best_per_view": by_window.min(1).mean(),
    }
    for key, value in computed.items():
        np.testing.assert_allclose(value, stored[key], err_msg=key, **CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_stored_similarity_fits(name: str) -> None:
    arrays, _ = load_case(name)
    for row, pred, truth, reference in rows_of(arrays):
        true = truth.in_slots(reference)
        src, dst = align_pointmaps(pred, true.points_world, true.valid)
        S = align_sim3(src[true.valid], dst[true.valid])
        np.testing.assert_allclose(S.scale, arrays["umeyama/s"][row], **CLOSE)
        np.testing.assert_allclose(S.R.T, arrays["umeyama/R"][row], **CLOSE)
        np.testing.assert_allclose(S.t, arrays["umeyama/t"][row], **CLOSE)


def assert_poses_close(got: np.ndarray, want: np.ndarray) -> None:
    turn = Rotation.from_matrix(np.swapaxes(got[:, :3, :3], 1, 2) @ want[:, :3, :3]).magnitude()
    assert np.degrees(turn).max() < 0.1
    np.testing.assert_allclose(got[:, :3, 3], want[:, :3, 3], atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_stored_cameras(name: str) -> None:
    if "noisy" in name and OPENCV < (4, 6):
        pytest.skip("RANSAC of OpenCV before 4.6 draws other samples than the stored poses")
    arrays, meta = load_case(name)
    first = []
    for row, pred, truth, reference in rows_of(arrays):
        true, conf = truth.in_slots(reference), arrays["in/pred_conf"][row]
        threshold = conf[0][confident_pixels(conf[0])].min()
        assert threshold == pytest.approx(arrays["pose/conf_thres_slot0"][row])
        K = estimate_intrinsics(pred[0], conf[0])
        np.testing.assert_allclose(K[0, 0], arrays["pose/focal"][row], **CLOSE)
        size = mean_distance(pred, true.valid)
        np.testing.assert_allclose(size, arrays["pose/pred_norm_factor"][row], **CLOSE)
        poses = pnp_poses(pred / size, true.valid, K)
        assert_poses_close(poses, arrays["pose/c2w_pred"][row])
        canonical = true.T_world_cam.copy()
        canonical[:, :3, 3] /= mean_distance(true.points_world, true.valid)
        np.testing.assert_allclose(canonical, arrays["pose/c2w_gt_canonical"][row], **CLOSE)
        stored = arrays["pose/c2w_pred"][row].astype(float)
        rotation, translation = relative_pose_errors_deg(stored, true.T_world_cam)
        np.testing.assert_allclose(rotation, arrays["pose/rel_rot_deg"][row], atol=0.02)
        np.testing.assert_allclose(translation, arrays["pose/rel_trans_deg"][row], atol=0.05)
        got = pose_accuracy(*relative_pose_errors_deg(poses, true.T_world_cam))
        step = 1.0 / len(rotation) + 1e-6
        assert got.rra == pytest.approx(arrays["pose/RRA_rows"][row], abs=step)
        assert got.rta == pytest.approx(arrays["pose/RTA_rows"][row], abs=step)
        assert got.maa == pytest.approx(arrays["pose/mAA_rows"][row], abs=step / 30)
        # the whole in one go, in the caller's order of views
        order = path_order(reference, len(conf))
        whole = score_window(
            WindowPrediction(pred[order][None], conf[order][None], (reference,)), truth
        )
        assert (whole.rre, whole.rte, whole.mae) == pytest.approx(
            (1 - got.rra, 1 - got.rta, 1 - got.maa)
        )
        np.testing.assert_allclose(whole.nd, arrays["ScaleShiftAllInv/nd_rows"][row], **CLOSE)
        np.testing.assert_allclose(whole.cd, arrays["ScaleShiftAllInv/cd_rows"][row], **CLOSE)
        first.append((reference, whole))
    scalars = meta["scalars"]
    pairs = len(rotation)
    for key, attribute in {"RRE": "rre", "RTE": "rte", "mAE": "mae"}.items():
        values = [(r, getattr(w, attribute)) for r, w in first]
        step = 1.0 / pairs / (30 if key == "mAE" else 1) + 1e-6
        assert np.mean([v for _, v in values]) == pytest.approx(
            scalars[f"{key}_all_rows"], abs=step
        )
        assert np.mean([v for r, v in values if r == 0]) == pytest.approx(
            scalars[f"{key}_first"], abs=step
        )


@pytest.mark.parametrize("name", CASES)
def test_stored_relative_poses(name: str) -> None:
    arrays, _ = load_case(name)
    for row, _, truth, reference in rows_of(arrays):
        true = truth.in_slots(reference)
        errors = relative_pose_errors_deg(
            arrays["relpose/c2w_pred"][row].astype(float), true.T_world_cam
        )
        np.testing.assert_allclose(errors[0], arrays["relpose/rel_rot_deg"][row], atol=0.02)
        np.testing.assert_allclose(errors[1], arrays["relpose/rel_trans_deg"][row], atol=0.05)
        got = pose_accuracy(*errors)
        assert got.rra == pytest.approx(arrays["relpose/RRA15"][row], abs=1e-6)
        assert got.rta == pytest.approx(arrays["relpose/RTA15"][row], abs=1e-6)
        assert got.maa == pytest.approx(arrays["relpose/mAA30"][row], abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_stored_demo_cameras(name: str) -> None:
    arrays, _ = load_case(name)
    points, conf = arrays["in/pred_pts3d"][0], arrays["in/pred_conf"][0]
    mask = confident_pixels(conf)
    np.testing.assert_array_equal(mask, arrays["demo/mask"])
    assert conf[mask].min() == pytest.approx(float(arrays["demo/conf_thres"]))
    np.testing.assert_array_equal(confident_pixels(conf[0]), arrays["demo/first_mask"])
    K, poses = demo_cameras(points, conf)
    np.testing.assert_allclose(K, arrays["demo/intrinsics"], **CLOSE)
    np.testing.assert_allclose(K[0, 0], arrays["demo/focal"], **CLOSE)
    # among garbage the draw of RANSAC hangs on the last bit of K
    assert_poses_close(pnp_poses(points, mask, arrays["demo/intrinsics"]), arrays["demo/c2w"])
    if name == "eval_exact_r1":
        assert_poses_close(poses, arrays["demo/c2w"])


def test_stored_demo_orders() -> None:
    orders = json.loads((NUMBERS / "demo_view_order.json").read_text())["order"]
    assert len(orders) == 39
    assert {n: list(demo_view_order(int(n))) for n in orders} == orders


def test_stored_primitives() -> None:
    with np.load(NUMBERS / "primitives.npz") as stored:
        p = {key: stored[key] for key in stored}
    for k in range(len(p["umeyama/s"])):
        mask = p["umeyama/mask"][k]
        S = align_sim3(
            p["umeyama/P"][k][mask].astype(float), p["umeyama/Q"][k][mask].astype(float)
        )
        np.testing.assert_allclose(S.scale, p["umeyama/s"][k], **CLOSE)
        np.testing.assert_allclose(S.R.T, p["umeyama/R"][k], **CLOSE)
        np.testing.assert_allclose(S.t, p["umeyama/t"][k], **CLOSE)
    for k, value in enumerate(p["chamfer/value"]):
        mask = p["chamfer/mask"][k]
        got = chamfer_distance(p["chamfer/A"][k][mask], p["chamfer/B"][k][mask])
        np.testing.assert_allclose(got, value, **CLOSE)
    for k, value in enumerate(p["focal/value"]):
        got = focal_from_pointmap(p["focal/pts3d"][k], p["focal/mask"][k])
        np.testing.assert_allclose(got, value, **CLOSE)
    delta = p["rotangle/R1"].astype(float) @ np.swapaxes(p["rotangle/R2"], 1, 2)
    angles = np.degrees(arccos_extrapolated((np.trace(delta, axis1=1, axis2=2) - 1) / 2))
    np.testing.assert_allclose(angles, p["rotangle/value_deg_fp32"], atol=0.02)
    np.testing.assert_allclose(
        line_angle_deg(p["transangle/t_gt"], p["transangle/t_pred"]),
        p["transangle/value_deg"],
        atol=0.05,
    )
    want = p["roworder/view_index_rows_by_slots_b2_r3_v5"].tolist()
    assert [path_order(r, 5).tolist() for _ in range(2) for r in range(3)] == want
