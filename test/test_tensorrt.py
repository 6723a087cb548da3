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

from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.manifest import EngineManifest
from mvdust3r_ros.engines.tensorrt_engine import check_window
from mvdust3r_ros.engines.tensorrt_profiles import (
    Profile,
    ViewRange,
    buffer_bytes,
    check_build,
    check_self_test,
    decoder_profiles,
    encoder_profiles,
    load_tensorrt,
    parse_views,
    rebuild_command,
    relative_error,
)

ROOT = Path(__file__).parents[1]
MANIFEST = EngineManifest(
    "mvdp", "onnx", (224, 224), n_ref=4, skip=True, min_views=4, max_views=12,
    network={"patch_size": 16, "dec_dim": 768},
)  # fmt: skip
BUILD = {
    "tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7", "weights": "my weights.pth",
    "views": [4, 8, 12], "n_ref": 4, "precision": "fp16", "folder": "engines/mvdp",
}  # fmt: skip


def has_tensorrt() -> bool:
    try:
        load_tensorrt()
    except EngineError:
        return False
    return True


def test_views_are_read_as_a_range_or_one_number() -> None:
    assert parse_views("4:8:12") == ViewRange(4, 8, 12)
    assert parse_views("8") == ViewRange(8, 8, 8)


@pytest.mark.parametrize("text", ["", "4:8", "a:b:c", "8:4:12", "1:2:3", "4:8:12:16", "-4"])
def test_views_that_are_no_range_are_named(text: str) -> None:
    with pytest.raises(EngineError, match="views"):
        parse_views(text)


def test_profiles_cover_one_new_view_up_to_a_whole_window() -> None:
    profiles = encoder_profiles(MANIFEST, ViewRange(4, 8, 12))
    assert profiles == {"images": Profile((1, 3, 224, 224), (4, 3, 224, 224), (12, 3, 224, 224))}


def test_profiles_of_the_decoder_fix_the_paths() -> None:
    profiles = decoder_profiles(MANIFEST, ViewRange(4, 8, 12), 3)
    assert profiles["tokens"] == Profile((4, 196, 768), (8, 196, 768), (12, 196, 768))
    assert profiles["order"] == Profile((3, 4), (3, 8), (3, 12))
    assert profiles["images"].largest == (12, 3, 224, 224)
    with pytest.raises(EngineError, match="5 reference paths in windows of 4"):
        decoder_profiles(MANIFEST, ViewRange(4, 8, 12), 5)


def test_an_engine_of_another_machine_says_how_to_build_it_again() -> None:
    here = {"tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7"}
    check_build(BUILD, here)
    with pytest.raises(EngineError) as caught:
        check_build(BUILD, here | {"tensorrt": "11.4.0"})
    message = str(caught.value)
    assert "tensorrt '10.3.0', here '11.4.0'" in message
    assert message.endswith(
        "mvdust3r_ros engine build --weights 'my weights.pth' --views 4:8:12 --n-ref 4 "
        "--precision fp16 --out engines/mvdp"
    )
    assert rebuild_command(BUILD) in message


def test_self_test_limits_follow_the_precision() -> None:
    check_self_test(0.04, "fp16", BUILD)
    with pytest.raises(EngineError, match=r"relative error 0\.06 .* limit 0\.05 for fp16"):
        check_self_test(0.06, "fp16", BUILD)
    with pytest.raises(EngineError, match="nan"):
        check_self_test(float("nan"), "bf16", BUILD)


def test_relative_error() -> None:
    b = np.array([3.0, 4.0])
    assert relative_error(b, b) == 0
    np.testing.assert_allclose(relative_error(b * 1.5, b), 0.5)
    with pytest.raises(EngineError, match="shape"):
        relative_error(b[:1], b)


def test_buffers_are_whole_blocks() -> None:
    assert buffer_bytes((3, 5), 4) == 256
    assert buffer_bytes((64,), 4) == 256
    assert buffer_bytes((65,), 4) == 512
    assert buffer_bytes((100, 12, 224, 224, 3), 4) == 100 * 12 * 224 * 224 * 3 * 4
    with pytest.raises(EngineError, match="still open"):
        buffer_bytes((-1, 3), 4)


def test_windows_an_engine_was_not_built_for_are_refused() -> None:
    check_window(4, 4, MANIFEST)
    with pytest.raises(EngineError, match="a window of 3 views"):
        check_window(3, 4, MANIFEST)
    with pytest.raises(EngineError, match="2 reference paths, the engine was built for 4"):
        check_window(4, 2, MANIFEST)


@pytest.mark.skipif(has_tensorrt(), reason="TensorRT is installed")
def test_building_without_tensorrt_says_in_one_line_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["engine", "build", "--weights", "none.pth", "--views", "4:8:12", "--out"]
    assert main([*command, str(tmp_path)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for words in ("tensorrt is missing", "pip install", "--backend onnx"):
        assert words in lines[0]


@pytest.mark.tensorrt
@pytest.mark.gpu
@pytest.mark.skipif(not has_tensorrt(), reason="needs TensorRT and an NVIDIA GPU")
def test_a_built_engine_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    from mvdust3r_ros.datatypes import View
    from mvdust3r_ros.engines.create import create_engine
    from mvdust3r_ros.engines.tensorrt_build import BuildOptions, build_engine
    from mvdust3r_ros.model.config import NAMED_CONFIGS
    from mvdust3r_ros.model.network import Network
    from mvdust3r_ros.model.weights import Checkpoint, save_checkpoint

    network = Network(NAMED_CONFIGS["room"])
    network.initialise()
    weights = tmp_path / "room.safetensors"
    save_checkpoint(weights, Checkpoint(network.config, network.state_dict()))
    lines: list[str] = []
    folder = build_engine(
        weights, tmp_path / "engine", BuildOptions(ViewRange(4, 6, 8), 4), lines.append
    )
    engine = create_engine(folder)
    rng = np.random.default_rng(0)
    views = [View(rng.integers(0, 256, (128, 128, 3), np.uint8)) for _ in range(6)]
    assert np.isfinite(engine.infer(views).points).all()
    assert lines
