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
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvdust3r_ros.cli import main
from mvdust3r_ros.evaluation.trials.rule_weights import rule_tensor, uniform
from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.dust3r import (
    PairConfig,
    PairNetwork,
    pair_config_from_dict,
    pair_config_to_dict,
)
from mvdust3r_ros.model.dust3r_weights import (
    is_pair_checkpoint,
    pair_config_from_state,
    pair_network_from_state,
    pair_state,
    read_pair_checkpoint,
    save_pair_checkpoint,
)
from mvdust3r_ros.model.weights import WeightsError
from stored_data import GOLDEN

STORED = GOLDEN / "dust3r"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
SMALL = PairConfig(
    image_hw=(32, 48), enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24, dec_depth=4, dec_heads=2,
    dpt_levels=(4, 6, 8, 10), dpt_features=8,
)  # fmt: skip


def make_pair_network(head: str = "linear") -> PairNetwork:
    torch.manual_seed(0)
    return PairNetwork(dataclasses.replace(SMALL, head=head)).eval()


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_equal_to_the_public_implementation(head: str) -> None:
    case = json.loads((STORED / head / "config.json").read_text())
    seed, stride = case["weight_seed"], case["stride"]
    state = {k: torch.from_numpy(rule_tensor(seed, k, r)) for k, r in case["keys"].items()}
    network = pair_network_from_state(pair_config_from_dict(case["network"]), state)
    for height, width in case["sizes"]:
        size = f"{height}x{width}"
        images = uniform(seed, f"images {size}", 0, 12 * height * width) * 2 - 1
        pairs = torch.from_numpy(images.reshape(2, 2, 3, height, width))
        with torch.inference_mode():
            maps = network(pairs[:, 0], pairs[:, 1])
        with np.load(STORED / head / "io.npz") as stored:
            for view, (points, conf) in enumerate(maps, 1):
                mean = torch.cat((points, conf[..., None]), -1).double().mean((1, 2))
                for name, value in (
                    ("points", points[:, ::stride, ::stride]),
                    ("conf", conf[:, ::stride, ::stride]),
                    ("mean", mean),
                ):
                    expected = stored[f"{name}{view}_{size}"]
                    np.testing.assert_allclose(value.numpy(), expected, **TOLERANCE)


@pytest.mark.slow
def test_full_size_networks_have_exactly_the_published_keys() -> None:
    listed = json.loads((STORED / "published_keys.json").read_text())
    for head in ("linear", "dpt"):
        with torch.device("meta"):
            published = {k: torch.empty(s) for k, s in (listed["common"] | listed[head]).items()}
            expected = PairNetwork(PairConfig(head=head)).state_dict()
        state = pair_state(published)
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
        assert pair_config_from_state(state, {}) == PairConfig(head=head)


MODEL_STRING = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', "
    "img_size=(32, 48), head_type='dpt', output_mode='pts3d', depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=32, enc_depth=1, enc_num_heads=2, "
    "dec_embed_dim=24, dec_depth=4, dec_num_heads=2)"
)


def published(path: Path, head: str, model: str = MODEL_STRING) -> Path:
    """A file laid out like the published ones, with their second names for some weights."""
    state = dict(make_pair_network(head).state_dict())
    for key in [k for k in state if ".scratch.layer_rn." in k]:
        level = int(key.split(".")[4])
        state[key.replace(f"layer_rn.{level}", f"layer{level + 1}_rn")] = state[key]
    torch.save({"model": state, "args": argparse.Namespace(model=model), "epoch": 9}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_a_published_file_loads_and_comes_back_from_our_own(tmp_path: Path, head: str) -> None:
    path = published(tmp_path / "model.pth", head)
    assert is_pair_checkpoint(path)
    checkpoint = read_pair_checkpoint(path)
    dpt = {} if head == "dpt" else {"dpt_levels": (96, 192, 384, 768), "dpt_features": 256}
    assert checkpoint.config == dataclasses.replace(SMALL, head=head, **dpt)
    assert (checkpoint.licence, checkpoint.model) == ("CC-BY-NC-SA-4.0", MODEL_STRING)
    save_pair_checkpoint(tmp_path / "ours.safetensors", checkpoint)
    assert is_pair_checkpoint(tmp_path / "ours.safetensors")
    back = read_pair_checkpoint(tmp_path / "ours.safetensors")
    assert back.config == checkpoint.config and back.licence == checkpoint.licence
    network = pair_network_from_state(back.config, back.state)
    for key, value in make_pair_network(head).state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_a_file_of_the_hub_loads_with_the_configuration_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = make_pair_network("dpt").state_dict()
    first = "downstream_head1.dpt.scratch.layer_rn.0.weight"
    state[first.replace("layer_rn.0", "layer1_rn")] = state.pop(first)  # one name of two is kept
    save_file(state, path)
    assert not is_pair_checkpoint(path)
    settings = {
        "img_size": [32, 48], "head_type": "dpt", "depth_mode": ["exp", -np.inf, np.inf],
        "conf_mode": ["exp", 1, np.inf], "pos_embed": "RoPE100", "output_mode": "pts3d",
        "enc_num_heads": 2, "dec_num_heads": 2, "enc_depth": 1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert is_pair_checkpoint(path)
    checkpoint = read_pair_checkpoint(path)
    assert checkpoint.config == dataclasses.replace(SMALL, head="dpt")
    network = pair_network_from_state(checkpoint.config, checkpoint.state)
    for key, value in make_pair_network("dpt").state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_the_commands_for_weights_take_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = published(tmp_path / "model.pth", "dpt"), tmp_path / "half.safetensors"
    assert main(["weights", "convert", str(source), str(target), "--dtype", "fp16"]) == 0
    assert main(["weights", "info", str(target)]) == 0
    said = capsys.readouterr().out
    for words in ("DUSt3R, dpt head", "48x32 pixels", "float16", "CC-BY-NC-SA-4.0"):
        assert words in said
    checkpoint = read_pair_checkpoint(target)
    weight = pair_network_from_state(checkpoint.config, checkpoint.state).decoder_embed.weight
    expected = make_pair_network("dpt").decoder_embed.weight
    torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-6)


def test_other_networks_are_refused_in_words(tmp_path: Path) -> None:
    other = MODEL_STRING.replace("Stereo(", "StereoMultiView(")
    path = published(tmp_path / "other.pth", "linear", other)
    assert not is_pair_checkpoint(path)
    with pytest.raises(WeightsError, match=r"holds no DUSt3R network: its model is .Asymmetric"):
        read_pair_checkpoint(path)
    for old, new, message in (
        ("('exp', -inf, inf)", "('square', -inf, inf)", "depth_mode"),
        ("RoPE100", "cosine", "pos_embed 'cosine'"),
        ("dec_num_heads=2", "dec_num_heads=5", "do not fit together"),
    ):
        path = published(tmp_path / "other.pth", "linear", MODEL_STRING.replace(old, new))
        with pytest.raises(WeightsError, match=message):
            read_pair_checkpoint(path)
    with pytest.raises(WeightsError, match="no weights at"):
        read_pair_checkpoint(tmp_path / "none.pth")
    checkpoint = read_pair_checkpoint(published(tmp_path / "good.pth", "dpt"))
    state = dict(checkpoint.state)
    del state["enc_norm.weight"]
    with pytest.raises(WeightsError, match=r"1 missing keys, first enc_norm\.weight"):
        pair_network_from_state(checkpoint.config, state)


def test_sizes_that_do_not_fit_are_refused() -> None:
    assert pair_config_from_dict(pair_config_to_dict(SMALL)) == SMALL
    for change, message in (
        ({"head": "conv"}, "head 'conv' is not one of linear, dpt"),
        ({"head": "dpt", "patch_size": 8}, "it needs patches of 16"),
        ({"head": "dpt", "dec_depth": 3}, "at least 4 layers"),
        ({"image_hw": [32, 40]}, "not a multiple of patch_size"),
        ({"image_hw": [32]}, "image_hw has 1 values"),
        ({"colour": 1}, "unknown network setting 'colour'"),
    ):
        with pytest.raises(NetworkConfigError, match=message):
            pair_config_from_dict(pair_config_to_dict(SMALL) | change)


def test_both_views_may_be_of_any_size_of_whole_patches() -> None:
    network = make_pair_network("dpt")
    images = torch.rand(2, 3, 48, 16) * 2 - 1
    with torch.inference_mode():
        first, second = network(images[:1], images[1:])
        again = network(images[:1], images[1:])[1]
    assert first.points.shape == second.points.shape == (1, 48, 16, 3)
    assert first.conf.min() > 1
    assert torch.equal(again.points, second.points)
