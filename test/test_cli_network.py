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

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvdust3r_ros.cli import main
from mvdust3r_ros.engines.create import create_engine
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.weights import Checkpoint, read_checkpoint, save_checkpoint

TINY = NetworkConfig(
    image_hw=(32, 32), patch_size=16, enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24,
    dec_depth=1, dec_heads=2, skip_dim=4, gs_mlp_dim=0, n_ref=2,
)  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, Checkpoint(TINY, Network(TINY).state_dict(), "Apache-2.0", {"run": "a"}))
    return path


def test_weights_info_says_network_size_and_licence(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "info", str(weights)]) == 0
    out = capsys.readouterr().out
    for words in (
        "MV-DUSt3R+",
        "32x32 pixels",
        "32 wide, 1 deep, 2 heads",
        "Apache-2.0",
        "float32",
    ):
        assert words in out


def test_weights_convert_halves_the_file_and_keeps_the_licence(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half.safetensors"
    assert main(["weights", "convert", str(weights), str(half), "--dtype", "fp16"]) == 0
    assert half.stat().st_size < 0.7 * weights.stat().st_size
    assert read_checkpoint(half).licence == "Apache-2.0"
    assert main(["weights", "convert", str(weights), str(tmp_path / "x.pth")]) == 1
    assert ".safetensors" in capsys.readouterr().err


def test_download_needs_consent_to_the_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "download", "mvd", "--out", str(tmp_path / "w")]) == 1
    captured = capsys.readouterr()
    assert "CC BY-NC 4.0" in captured.out
    assert "licence was not accepted" in captured.err
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_exported_engine_runs_and_is_described(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "engine"
    command = ["engine", "export", "--weights", str(weights), "--out", str(folder), "--paths", "0"]
    assert main([*command, "--metric"]) == 0
    info = create_engine(folder).describe()
    assert (info.name.split()[0], info.licence, info.metric, info.n_ref) == (
        "tiny", "Apache-2.0", True, 2,
    )  # fmt: skip
    capsys.readouterr()
    assert main(["engine", "info", str(folder)]) == 0
    assert "info run" in capsys.readouterr().out
    (folder / "decoder.onnx").unlink()
    assert main(["engine", "info", str(folder)]) == 1
    assert "decoder.onnx is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_gaussians_are_exported_where_there_are_heads_for_them(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["engine", "export", "--gaussians", "--out", str(tmp_path / "engine")]
    assert main([*words, "--weights", str(weights)]) == 1
    error = capsys.readouterr().err
    assert "tiny has no Gaussian heads" in error and error.count("\n") == 1
    with_heads, path = replace(TINY, gs_mlp_dim=8), tmp_path / "heads.safetensors"
    save_checkpoint(path, Checkpoint(with_heads, Network(with_heads).state_dict()))
    assert main([*words, "--weights", str(path)]) == 0
    assert create_engine(tmp_path / "engine").describe().gaussians
