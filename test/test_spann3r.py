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

from mvdust3r_ros.cli import main
from mvdust3r_ros.evaluation.trials.rule_weights import rule_tensor, uniform
from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.dust3r import PairConfig
from mvdust3r_ros.model.dust3r_weights import pair_state
from mvdust3r_ros.model.spann3r import (
    SpannConfig,
    SpannNetwork,
    SpatialMemory,
    spann_config_from_dict,
    spann_config_to_dict,
)
from mvdust3r_ros.model.spann3r_weights import (
    is_spann_checkpoint,
    on_top_of,
    read_spann_checkpoint,
    save_spann_checkpoint,
    spann_config_from_state,
    spann_network_from_state,
)
from mvdust3r_ros.model.weights import WeightsError
from stored_data import GOLDEN

STORED = GOLDEN / "spann3r"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
SMALL = SpannConfig(
    PairConfig(image_hw=(224, 224), enc_dim=64, enc_depth=1, enc_heads=1, dec_dim=64, dec_depth=4,
               dec_heads=1, head="dpt", dpt_levels=(4, 6, 8, 10), dpt_features=8),
    value_depth=1, value_heads=1,
)  # fmt: skip
PUBLISHED_MODEL = (
    "Spann3R(dus3r_name='./checkpoints/DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth', "
    "use_feat=False, mem_pos_enc=False)"
)


def make_network(config: SpannConfig = SMALL) -> SpannNetwork:
    torch.manual_seed(0)
    return SpannNetwork(config).eval()


@pytest.mark.slow
def test_equal_to_the_public_implementation() -> None:
    case = json.loads((STORED / "config.json").read_text())
    seed, stride, frames = case["weight_seed"], case["stride"], case["frames"]
    state = {k: torch.from_numpy(rule_tensor(seed, k, r)) for k, r in case["keys"].items()}
    network = spann_network_from_state(spann_config_from_dict(case["network"]), state)
    for height, width in case["sizes"]:
        size = f"{height}x{width}"
        values = uniform(seed, f"images {size}", 0, frames * 3 * height * width) * 2 - 1
        images = torch.from_numpy(values.reshape(frames, 3, height, width)).clone()
        for i in range(1, frames):
            images[i] = 0.3 * images[i] + 0.7 * images[i - 1]
        first, second = case["repeated"]
        images[second] = images[first]
        with torch.inference_mode():
            points, conf = network(images)
        mean = torch.cat((points, conf[..., None]), -1).double().mean((1, 2))
        with np.load(STORED / "io.npz") as stored:
            for name, value in (
                ("points", points[:, ::stride, ::stride]),
                ("conf", conf[:, ::stride, ::stride]),
                ("mean", mean),
            ):
                np.testing.assert_allclose(value.numpy(), stored[f"{name}_{size}"], **TOLERANCE)


def memory_of(**settings: float) -> SpatialMemory:
    pair = PairConfig(image_hw=(32, 32), enc_dim=8, enc_depth=1, enc_heads=1, dec_dim=8,
                      dec_depth=1, dec_heads=1)  # fmt: skip
    base = SpannConfig(pair, value_depth=0, value_heads=1, working_views=2, long_tokens=40)
    return SpatialMemory(make_network(dataclasses.replace(base, **settings)), 4)


def keys(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_a_view_like_one_in_the_working_memory_is_not_remembered() -> None:
    memory = memory_of()
    for view in (1, 2, 1, 2):
        memory.add(keys(view), keys(view))
    assert len(memory) == 8
    memory.add(keys(3), keys(3))
    memory.add(keys(1), keys(1))  # no longer among the last two
    assert len(memory) == 16
    everything = memory_of(similarity=1)
    for _ in range(3):
        everything.add(keys(1), keys(1))
    assert len(everything) == 12


@torch.inference_mode()
def test_what_is_read_least_is_evicted() -> None:
    memory = memory_of(least_attention=0.0)
    for view in range(12):
        memory.add(keys(view), keys(view))
        memory.read(keys(0))
    assert len(memory) == 48
    memory.add(keys(12), keys(12))  # 11 views beyond the working memory: 44 tokens
    assert len(memory) == 40
    # the first view was asked for all the time, and is still found
    wanted = keys(0)
    found, (everything, without) = memory.read(wanted), (memory_of(), memory_of())
    for view in range(10):
        everything.add(keys(view), keys(view))
        if view:
            without.add(keys(view), keys(view))
    best = everything.read(wanted)
    assert (found - best).norm() < 0.5 * (without.read(wanted) - best).norm()


@torch.inference_mode()
def test_where_no_attention_counts_the_query_stays() -> None:
    memory = memory_of(least_attention=0.9)
    memory.add(keys(1), keys(1))
    torch.testing.assert_close(memory.read(keys(2)), keys(2))


def published(path: Path, model: str = PUBLISHED_MODEL) -> Path:
    """A file laid out like the published ones, with their second names for some weights."""
    state = dict(make_network().state_dict())
    for key in [k for k in state if ".scratch.layer_rn." in k]:
        level = int(key.split(".layer_rn.")[1].split(".")[0])
        state[key.replace(f"layer_rn.{level}", f"layer{level + 1}_rn")] = state[key]
    torch.save({"model": state, "args": argparse.Namespace(model=model), "epoch": 9}, path)
    return path


@pytest.mark.slow
def test_a_published_file_loads_and_comes_back_from_our_own(tmp_path: Path) -> None:
    path = published(tmp_path / "spann3r.pth")
    assert is_spann_checkpoint(path)
    checkpoint = read_spann_checkpoint(path)
    assert checkpoint.config == SMALL
    assert checkpoint.licence == "CC-BY-NC-SA-4.0"
    ours = tmp_path / "ours.safetensors"
    save_spann_checkpoint(ours, checkpoint)
    back = read_spann_checkpoint(ours)
    assert is_spann_checkpoint(ours) and back.config == SMALL
    network = spann_network_from_state(back.config, back.state)
    for key, value in make_network().state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.slow
def test_the_full_size_network_has_the_published_keys() -> None:
    pair = json.loads((GOLDEN / "dust3r" / "published_keys.json").read_text())
    memory = json.loads((STORED / "published_keys.json").read_text())["memory"]
    shapes = memory | {f"dust3r.{k}": v for k, v in (pair["common"] | pair["dpt"]).items()}
    with torch.device("meta"):
        state = pair_state({k: torch.empty(v) for k, v in shapes.items()})
        expected = SpannNetwork(SpannConfig()).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert spann_config_from_state(state) == SpannConfig()


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    other = published(tmp_path / "feat.pth", PUBLISHED_MODEL.replace("feat=False", "feat=True"))
    with pytest.raises(WeightsError, match="use_feat True of"):
        read_spann_checkpoint(other)
    plain = tmp_path / "plain.pth"
    torch.save({"model": {"x": torch.zeros(1)}, "args": argparse.Namespace(model="")}, plain)
    assert not is_spann_checkpoint(plain)
    with pytest.raises(WeightsError, match="holds no Spann3R network"):
        read_spann_checkpoint(plain)
    with pytest.raises(WeightsError, match="no weights at"):
        read_spann_checkpoint(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="belongs to no matrix"):
        on_top_of({}, {"dust3r.x.up": torch.zeros(2, 1)})


def test_the_commands_for_weights_take_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = published(tmp_path / "spann3r.pth"), tmp_path / "half.safetensors"
    assert main(["weights", "convert", str(source), str(target), "--dtype", "fp16"]) == 0
    assert main(["weights", "info", str(target)]) == 0
    said = capsys.readouterr().out
    for words in ("Spann3R, dpt head", "224x224 pixels", "float16", "CC-BY-NC-SA-4.0"):
        assert words in said


def test_sizes_that_do_not_fit_are_refused() -> None:
    assert spann_config_from_dict(spann_config_to_dict(SMALL)) == SMALL
    for change, message in (
        ({"value_heads": 3}, "3 heads do not divide"),
        ({"working_views": 0}, "at least 1 view"),
        ({"long_tokens": 100}, "5 views of 196 tokens, and 100 tokens in all"),
        ({"colour": 1}, "unknown network setting 'colour'"),
        ({"similarity": "high"}, "network settings"),
    ):
        with pytest.raises(NetworkConfigError, match=message):
            spann_config_from_dict(spann_config_to_dict(SMALL) | change)
