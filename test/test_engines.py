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

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

from mvdust3r_ros.datatypes import View
from mvdust3r_ros.engines import create, export
from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.engines.dust3r.engine import export_dust3r
from mvdust3r_ros.engines.export import ExportOptions, check_operators, export_engine
from mvdust3r_ros.engines.manifest import MANIFEST_NAME, load_manifest, save_manifest
from mvdust3r_ros.engines.onnx_engine import OnnxEngine, OnnxOptions, choose_providers
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.engines.spann3r.engine import export_spann3r
from mvdust3r_ros.engines.torch_engine import (
    WEIGHTS_NAME,
    TorchEngine,
    TorchOptions,
    manifest_of,
)
from mvdust3r_ros.engines.views import slot_order, stack_images, stack_intrinsics
from mvdust3r_ros.model import network as network_module
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.dust3r import PairConfig, PairNetwork
from mvdust3r_ros.model.dust3r_weights import PairCheckpoint, save_pair_checkpoint
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.spann3r import SpannConfig, SpannNetwork
from mvdust3r_ros.model.spann3r_weights import SpannCheckpoint, save_spann_checkpoint
from mvdust3r_ros.model.weights import Checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

OFFICIAL = NetworkConfig(
    image_hw=(32, 48), patch_size=16, enc_dim=32, enc_depth=2, enc_heads=2, dec_dim=24,
    dec_depth=2, dec_heads=2, skip_dim=4, gs_mlp_dim=5, n_ref=2,
)  # fmt: skip
SINGLE = replace(OFFICIAL, cross_reference=False, n_ref=1)
ROOM = replace(
    OFFICIAL, skip_dim=0, gs_mlp_dim=0, mask_token=False, ray_embed=True, pos_embed=True
)
CONFIGS = {"official": OFFICIAL, "single": SINGLE, "room": ROOM}
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
"""ONNX Runtime against torch, both float32."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_network(config: NetworkConfig) -> Network:
    torch.manual_seed(0)
    network = Network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def make_views(count: int) -> list[View]:
    rng = np.random.default_rng(5)
    K = np.array([[40.0, 0, 24], [0, 41, 16], [0, 0, 1]])
    images = rng.integers(0, 256, (count, *OFFICIAL.image_hw, 3), np.uint8)
    return [View(image, K if i % 2 else None) for i, image in enumerate(images)]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The same network in PyTorch and in ONNX Runtime, all paths returned."""
    network = make_network(CONFIGS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    export_engine(network, folder, ExportOptions(name=request.param))
    torch_engine = TorchEngine(
        network, manifest_of(network, request.param), TorchOptions("cpu", paths=0)
    )
    return torch_engine, OnnxEngine(folder, OnnxOptions(threads=1)), folder


@pytest.mark.parametrize(("views", "n_ref"), [(2, 0), (2, 1), (3, 3), (5, 2), (7, 4)])
def test_onnx_runtime_equals_torch(
    pair: tuple[TorchEngine, OnnxEngine, Path], views: int, n_ref: int
) -> None:
    torch_engine, onnx_engine, _ = pair
    window = make_views(views)
    a, b = torch_engine.infer(window, n_ref), onnx_engine.infer(window, n_ref)
    assert a.references == b.references == tuple(range(n_ref or torch_engine.describe().n_ref))
    np.testing.assert_allclose(b.points, a.points, **TOLERANCE)
    np.testing.assert_allclose(b.conf, a.conf, **TOLERANCE)


def test_kept_tokens_give_the_same_window(pair: tuple[TorchEngine, OnnxEngine, Path]) -> None:
    for engine in pair[:2]:
        views = make_views(5)
        whole = engine.infer(views)
        kept = engine.encode(views[:3]) + [t for v in views[3:] for t in engine.encode([v])]
        np.testing.assert_allclose(engine.decode(kept).points, whole.points, **TOLERANCE)


@pytest.fixture(scope="module", params=["official", "single"])
def gaussian_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """As `pair`, with Gaussians, and the network itself."""
    network = make_network(CONFIGS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    export_engine(network, folder, ExportOptions(name=request.param, gaussians=True))
    options = TorchOptions("cpu", paths=0, gaussians=True)
    torch_engine = TorchEngine(network, manifest_of(network, request.param), options)
    return torch_engine, OnnxEngine(folder, OnnxOptions(threads=1)), network


def test_gaussians_come_on_request_and_change_nothing_else(
    gaussian_pair: tuple[TorchEngine, OnnxEngine, Network],
) -> None:
    torch_engine, onnx_engine, network = gaussian_pair
    views = make_views(4)
    plain = TorchEngine(network, manifest_of(network, "plain"), TorchOptions("cpu", paths=0))
    assert not plain.describe().gaussians and plain.infer(views).gaussians is None
    a, b = torch_engine.infer(views), onnx_engine.infer(views)
    assert torch_engine.describe().gaussians and onnx_engine.describe().gaussians
    np.testing.assert_array_equal(a.points, plain.infer(views).points)
    np.testing.assert_allclose(b.points, a.points, **TOLERANCE)
    assert a.gaussians is not None and b.gaussians is not None
    for name in ("opacity", "scale", "quat_wxyz"):
        ours, theirs = getattr(a.gaussians, name), getattr(b.gaussians, name)
        np.testing.assert_allclose(theirs, ours, **TOLERANCE)


def test_gaussians_are_those_of_the_heads_in_the_order_of_the_views(
    gaussian_pair: tuple[TorchEngine, OnnxEngine, Network],
) -> None:
    torch_engine, _, network = gaussian_pair
    views = make_views(4)
    prediction = torch_engine.infer(views)
    made = prediction.gaussians
    assert made is not None
    with torch.inference_mode():
        tokens = torch.stack([t.features for t in torch_engine.encode(views)])[None]
        order = torch.from_numpy(slot_order(torch_engine.describe().n_ref, 4))
        raw = network.gaussians(network.decode(tokens, order))
    for path, slots in enumerate(order.tolist()):
        for slot, view in enumerate(slots):
            theirs = raw.opacity[0, path, slot, ..., 0].numpy()
            np.testing.assert_allclose(made.opacity[path, view], theirs, atol=1e-6)
            theirs = raw.rotation[0, path, slot].numpy()
            theirs[~theirs.any(-1)] = 1, 0, 0, 0  # where every hidden unit of the head is 0
            np.testing.assert_allclose(made.quat_wxyz[path, view], theirs, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(made.quat_wxyz, axis=-1), 1, atol=1e-5)
    distance = np.linalg.norm(prediction.points, axis=-1).mean((1, 2, 3))
    share = made.scale / distance[:, None, None, None, None]
    low, high = np.array([1e-4, 4e-3]) * 224 / OFFICIAL.image_hw[1]
    assert share.min() == pytest.approx(low, rel=1e-5)
    assert share.max() == pytest.approx(high, rel=1e-5)


def test_gaussians_need_heads_for_them(tmp_path: Path) -> None:
    network = make_network(ROOM)
    engine = TorchEngine(
        network, manifest_of(network, "room"), TorchOptions("cpu", gaussians=True)
    )
    assert not engine.describe().gaussians and engine.infer(make_views(2)).gaussians is None
    with pytest.raises(EngineError, match="no Gaussian heads"):
        export_engine(network, tmp_path, ExportOptions(gaussians=True))


def test_path_zero_is_in_the_frame_of_the_view_fed_first(
    pair: tuple[TorchEngine, OnnxEngine, Path],
) -> None:
    for engine in pair[:2]:
        views, order = make_views(4), (2, 0, 1, 3)
        fed = engine.infer([views[i] for i in order], 2)
        back = fed.in_caller_order(order)
        assert back.references == (2, 0)
        np.testing.assert_array_equal(back.points[:, 2], fed.points[:, 0])


def test_a_model_can_return_path_zero_alone(tmp_path: Path) -> None:
    network = make_network(OFFICIAL)
    export_engine(network, tmp_path, ExportOptions(paths=1))
    first = OnnxEngine(tmp_path).infer(make_views(4))
    every = TorchEngine(network, manifest_of(network, "x"), TorchOptions("cpu", paths=0))
    assert first.points.shape[0] == 1
    np.testing.assert_allclose(first.points[0], every.infer(make_views(4)).points[0], **TOLERANCE)


def test_leaving_the_skip_branch_out_changes_the_points_a_little(tmp_path: Path) -> None:
    network = make_network(OFFICIAL)
    manifest = manifest_of(network, "x")
    exact = TorchEngine(network, manifest, TorchOptions("cpu")).infer(make_views(3)).points
    without = TorchEngine(network, manifest, TorchOptions("cpu", skip=False)).infer(make_views(3))
    export_engine(network, tmp_path, ExportOptions(skip=False, paths=1))
    difference = np.abs(without.points - exact).max()
    assert 0 < difference < 0.02 * np.abs(exact).max()
    exported = OnnxEngine(tmp_path).infer(make_views(3))
    np.testing.assert_allclose(exported.points, without.points, **TOLERANCE)


def test_weights_stored_in_half_precision_halve_the_file(tmp_path: Path) -> None:
    network = make_network(replace(ROOM, enc_dim=96, dec_dim=96))
    export_engine(network, tmp_path / "full", ExportOptions())
    export_engine(network, tmp_path / "half", ExportOptions(store_fp16=True))
    sizes = [(tmp_path / kind / "encoder.onnx").stat().st_size for kind in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    a = OnnxEngine(tmp_path / "full").infer(make_views(3)).points
    b = OnnxEngine(tmp_path / "half").infer(make_views(3)).points
    assert np.linalg.norm(a - b) < 5e-3 * np.linalg.norm(a)


def test_large_weights_lie_in_one_checksummed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "EMBED_LIMIT_BYTES", 0)
    export_engine(make_network(OFFICIAL), tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["decoder.data", "decoder.onnx", "encoder.data", "encoder.onnx", MANIFEST_NAME]
    rights = {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert len(rights) == 1, "who may read the graph may read its weights"
    assert set(load_manifest(tmp_path).files) == set(names) - {MANIFEST_NAME}
    OnnxEngine(tmp_path).infer(make_views(3))
    data = bytearray((tmp_path / "decoder.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "decoder.data").write_bytes(bytes(data))
    with pytest.raises(EngineError, match=r"decoder\.data is damaged"):
        OnnxEngine(tmp_path)


def test_exported_graphs_have_no_control_flow_and_scale_before_the_product(
    pair: tuple[TorchEngine, OnnxEngine, Path],
) -> None:
    for name in ("encoder", "decoder"):
        model = onnx.load(pair[2] / f"{name}.onnx")
        onnx.checker.check_model(model)
        assert model.opset_import[0].version >= 17
        check_operators(model)
        made_by = {output: node for node in model.graph.node for output in node.output}
        softmaxes = [n for n in model.graph.node if n.op_type == "Softmax"]
        assert softmaxes
        for node in softmaxes:
            before = made_by[node.input[0]]
            if before.op_type == "Add":  # the mask
                before = made_by[before.input[0]]
            assert before.op_type == "MatMul"
            assert made_by[before.input[0]].op_type == "Mul"


def test_an_operator_tensorrt_lacks_is_named() -> None:
    node = onnx.helper.make_node("NonZero", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(EngineError, match="NonZero, unknown to TensorRT"):
        check_operators(onnx.helper.make_model(graph))


def test_bf16_graphs_hold_bf16_matrices(tmp_path: Path) -> None:
    network = make_network(ROOM)
    network.lower_precision(torch.bfloat16)
    export_engine(network, tmp_path)
    assert load_manifest(tmp_path).precision == "bf16"
    kinds = {t.data_type for t in onnx.load(tmp_path / "decoder.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 in kinds


def test_onnx_engine_runs_without_torch(pair: tuple[TorchEngine, OnnxEngine, Path]) -> None:
    code = (
        "import sys, numpy as np\n"
        "from mvdust3r_ros.datatypes import View\n"
        "from mvdust3r_ros.engines.create import create_engine\n"
        f"engine = create_engine({str(pair[2])!r})\n"
        "views = [View(np.zeros((32, 48, 3), np.uint8))] * 3\n"
        "assert engine.infer(views, 1).points.shape == (1, 3, 32, 48, 3)\n"
        "assert not {'torch', 'onnx', 'cv2', 'rclpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("which", [0, 1])
def test_wrong_windows_are_refused_in_words(
    pair: tuple[TorchEngine, OnnxEngine, Path], which: int
) -> None:
    engine: Engine = (pair[0], pair[1])[which]
    with pytest.raises(EngineError, match=r"view of shape \(16, 16, 3\)"):
        engine.encode([View(np.zeros((16, 16, 3), np.uint8))])
    with pytest.raises(EngineError, match="no views"):
        engine.encode([])
    tokens = engine.encode(make_views(3))
    with pytest.raises(EngineError, match="a window of 1 views"):
        engine.decode(tokens[:1])
    with pytest.raises(EngineError, match="4 reference paths in a window of 3 views"):
        engine.decode(tokens, 4)


def test_engine_is_chosen_by_what_it_is_given(tmp_path: Path) -> None:
    network = make_network(ROOM)
    weights = tmp_path / "room.safetensors"
    save_checkpoint(weights, Checkpoint(ROOM, network.state_dict(), "Apache-2.0"))
    direct = create_engine(weights, EngineOptions(device="cpu"))
    assert (direct.describe().backend, direct.describe().licence) == ("torch", "Apache-2.0")
    folder = tmp_path / "torch"
    folder.mkdir()
    weights.rename(folder / WEIGHTS_NAME)
    manifest = replace(manifest_of(network, "room"), metric=True, files={WEIGHTS_NAME: ""})
    save_manifest(folder, manifest)
    engine = create_engine(folder, EngineOptions(device="cpu", precision="bf16"))
    assert engine.describe().metric
    assert "bf16" in engine.describe().name
    assert isinstance(create_engine("oracle"), OracleEngine)
    pair = PairConfig(image_hw=(32, 48), enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24,
                      dec_depth=1, dec_heads=2)  # fmt: skip
    checkpoint = PairCheckpoint(pair, PairNetwork(pair).state_dict())
    save_pair_checkpoint(tmp_path / "pair.safetensors", checkpoint)
    for source in (
        tmp_path / "pair.safetensors",
        export_dust3r(tmp_path / "pair.safetensors", tmp_path / "dust3r"),
    ):
        assert create_engine(source, EngineOptions(device="cpu")).describe().backend == "dust3r"
    spann = SpannConfig(pair, value_depth=1, value_heads=2)
    sequential = SpannCheckpoint(spann, SpannNetwork(spann).state_dict())
    save_spann_checkpoint(tmp_path / "spann.safetensors", sequential)
    for source in (
        tmp_path / "spann.safetensors",
        export_spann3r(tmp_path / "spann.safetensors", tmp_path / "spann3r"),
    ):
        assert create_engine(source, EngineOptions(device="cpu")).describe().backend == "spann3r"


def test_the_default_model_is_looked_for_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "DEFAULT_MODEL", Path("models") / "none")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(EngineError, match="is not installed"):
        create_engine()
    folder = tmp_path / "share" / "mvdust3r_ros" / "models" / "none"
    export_engine(make_network(ROOM), folder, ExportOptions(name="found"))
    assert create_engine().describe().name.startswith("found (ONNX Runtime")


def test_missing_and_malformed_engines_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine at"):
        create_engine(tmp_path / "nowhere")
    with pytest.raises(EngineError, match=f"has no {MANIFEST_NAME}"):
        create_engine(tmp_path)
    manifest = tmp_path / MANIFEST_NAME
    good = {"version": 1, "name": "x", "backend": "onnx", "image_hw": [32, 48]}
    listed = {"encoder.onnx": "0", "decoder.onnx": "0"}
    for change, message in (
        ({"version": 2}, "version 2, expected 1"),
        ({"backend": "tflite"}, "backend 'tflite'"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"image_hw": 5}, "malformed"),
        ({"n_ref": "many"}, "n_ref must be of type int"),
        ({"files": {"encoder.onnx": 0}}, "files must be of type"),
        ({"files": {"encoder.onnx": "0"}}, r"lists no checksum of decoder\.onnx"),
        ({"files": {**listed, "../x": "0"}}, "no plain name"),
        ({"files": listed}, r"coder\.onnx is missing"),
    ):
        manifest.write_text(yaml.safe_dump(good | change))
        with pytest.raises(EngineError, match=message):
            create_engine(tmp_path)
    manifest.write_text("{")
    with pytest.raises(EngineError, match="cannot read"):
        create_engine(tmp_path)


def test_a_provider_that_is_not_there_is_named() -> None:
    assert choose_providers("", ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers("", both[::-1]) == both
    assert choose_providers("CUDAExecutionProvider", both) == both
    with pytest.raises(EngineError, match="no provider 'CUDAExecutionProvider' here"):
        choose_providers("CUDAExecutionProvider", ["CPUExecutionProvider"])


def test_arrays_for_the_network() -> None:
    views = make_views(2)
    images = stack_images(views, (32, 48))
    assert images.shape == (2, 3, 32, 48)
    np.testing.assert_allclose(images[1, 2, 3, 4], views[1].image_rgb[3, 4, 2] / 127.5 - 1)
    np.testing.assert_array_equal(stack_intrinsics(views), [[0, 0, 0, 0], [40, 41, 24, 16]])
    np.testing.assert_array_equal(slot_order(3, 5), network_module.slot_order(3, 5).numpy())
