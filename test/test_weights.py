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

import argparse
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from mvdust3r_ros.model.config import NAMED_CONFIGS, NetworkConfig
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.weights import (
    Checkpoint,
    WeightsError,
    config_from_state,
    describe_checkpoint,
    download_published,
    load_network,
    network_from_state,
    parse_model_string,
    read_checkpoint,
    save_checkpoint,
)
from stored_data import GOLDEN

TINY = NetworkConfig(
    image_hw=(32, 48), patch_size=16, enc_dim=32, enc_depth=24, enc_heads=2, dec_dim=24,
    dec_depth=12, dec_heads=2, skip_dim=4, gs_mlp_dim=5, n_ref=3,
)  # fmt: skip
MODEL_STRING = (
    "AnyName(pos_embed='RoPE100', img_size=(32, 48), depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, 1e9), enc_num_heads=2, dec_num_heads=2, m_ref_flag=True, n_ref=3, "
    "pts_head_config={'skip': True})"
)


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(TINY).eval()


def published(path: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """A file laid out like the published ones, with their full list of keys."""
    args = argparse.Namespace(model=MODEL_STRING, lr=1e-4, epochs=100)
    torch.save({"model": state or network().state_dict(), "args": args, "epoch": 3}, path)
    return path


def official_keys(name: str) -> dict[str, tuple[int, ...]]:
    path = GOLDEN / "fullsize" / f"{name}_state_dict_keys.json"
    return {k: tuple(v["shape"]) for k, v in json.loads(path.read_text())["keys"].items()}


@pytest.mark.parametrize(("name", "listed"), [("mvd", "MVD"), ("mvdp", "MVDp")])
def test_full_size_networks_have_exactly_the_published_keys(name: str, listed: str) -> None:
    with torch.device("meta"):
        state = Network(NAMED_CONFIGS[name]).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == official_keys(listed)
    assert config_from_state(state, {}) == NAMED_CONFIGS[name]


@pytest.mark.slow
def test_a_published_file_with_the_full_key_list_loads(tmp_path: Path) -> None:
    assert set(network().state_dict()) == set(official_keys("MVDp"))
    path = published(tmp_path / "model.pth")
    loaded = load_network(path)
    assert loaded.config == TINY
    state = loaded.state_dict()
    for key, value in network().state_dict().items():
        assert torch.equal(state[key], value), key
    assert describe_checkpoint(read_checkpoint(path))["licence"] == "CC-BY-NC-4.0"


def test_our_own_file_gives_back_weights_configuration_and_licence(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, Checkpoint(TINY, network().state_dict(), "Apache-2.0", {"seed": 7}))
    back = read_checkpoint(path)
    assert (back.config, back.licence, back.info) == (TINY, "Apache-2.0", {"seed": 7})
    assert all(torch.equal(back.state[k], v) for k, v in network().state_dict().items())


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, Checkpoint(TINY, network().state_dict()), "fp16")
    weight = load_network(path).decoder_embed.weight
    assert weight.dtype is torch.float32
    torch.testing.assert_close(weight, network().decoder_embed.weight, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_converted_file_computes_the_same(tmp_path: Path) -> None:
    source = read_checkpoint(published(tmp_path / "model.pth"))
    save_checkpoint(tmp_path / "ours.safetensors", source)
    images = torch.rand(1, 3, 3, 32, 48)
    with torch.inference_mode():
        a = load_network(tmp_path / "model.pth")(images)
        b = load_network(tmp_path / "ours.safetensors")(images)
    assert torch.equal(a.points, b.points)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harm_done"),)


def test_a_tampered_pickle_is_refused_and_nothing_in_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = published(tmp_path / "model.pth")
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in files if n.endswith("data.pkl"))
    files[name] = pickle.dumps({"model": Harmful()}, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in files.items():
            archive.writestr(entry, content)
    with pytest.raises(WeightsError, match=r"model\.pth holds objects that are not weights"):
        read_checkpoint(path)
    assert not (tmp_path / "harm_done").exists()


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.slow
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        published(path)
    else:
        save_checkpoint(path, Checkpoint(TINY, network().state_dict()))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match=rf"cut\{suffix} is truncated"):
        read_checkpoint(path)


def test_the_first_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    state["enc_norm.wait"] = state.pop("enc_norm.weight")
    path = published(tmp_path / "model.pth", state)
    with pytest.raises(
        WeightsError, match=r"missing keys, first enc_norm\.weight.*enc_norm\.wait"
    ):
        load_network(path)


def test_weights_of_something_else_name_what_is_missing(tmp_path: Path) -> None:
    path = published(tmp_path / "model.pth", {"layer.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"first mask_token|patch_embed.*layer\.weight"):
        load_network(path)


def test_a_key_of_another_shape_is_named() -> None:
    state = network().state_dict() | {"enc_norm.bias": torch.zeros(5)}
    with pytest.raises(WeightsError, match=r"enc_norm\.bias: \(5,\) instead of \(32,\)"):
        network_from_state(TINY, state)


def test_the_model_string_is_read_not_run() -> None:
    settings = parse_model_string(MODEL_STRING)
    assert settings["depth_mode"] == ("exp", float("-inf"), float("inf"))
    assert settings["pts_head_config"] == {"skip": True}


@pytest.mark.parametrize(
    "text",
    [
        "Name(size=__import__('os').getcwd())", "Name(*[1])", "Name(a=[x for x in 'ab'])", "Name(",
        "print", "a.b(c=1)",
    ],
)  # fmt: skip
def test_a_model_string_that_is_more_than_data_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="cannot read the model string"):
        parse_model_string(text)


def test_unknown_files_and_names_say_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights download"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(WeightsError, match=r"expected \.pth or \.safetensors"):
        read_checkpoint(tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match="known: mvd, mvdp_s1, mvdp_s2"):
        download_published("other", tmp_path)
