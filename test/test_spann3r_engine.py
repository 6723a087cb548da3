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

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import View
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.engines.export import ExportOptions, export_engine
from mvdust3r_ros.engines.graph_weights import weights_of_graphs
from mvdust3r_ros.engines.manifest import load_manifest, save_manifest
from mvdust3r_ros.engines.spann3r.engine import (
    Spann3rEngine,
    release_spann3r,
    spann3r_manifest,
)
from mvdust3r_ros.engines.torch_engine import TorchOptions
from mvdust3r_ros.engines.views import stack_images, stack_intrinsics
from mvdust3r_ros.evaluation.trials.rooms import evaluate_rooms
from mvdust3r_ros.model.config import NAMED_CONFIGS
from mvdust3r_ros.model.dust3r import PairConfig, PairNetwork
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.spann3r import SpannConfig, SpannNetwork
from mvdust3r_ros.model.spann3r_weights import (
    SpannCheckpoint,
    pair_of_network,
    save_spann_checkpoint,
)
from mvdust3r_ros.model.weights import Checkpoint, network_from_state, save_checkpoint
from mvdust3r_ros.synthetic.dataset import exact_views, write_rooms
from mvdust3r_ros.synthetic.train_spann3r import (
    SpannTrainer,
    SpannTraining,
    begin,
    make_trainable,
)

ROOM = Path(__file__).parents[1] / "models" / "room"
CONFIG = SpannConfig(
    PairConfig(image_hw=(32, 48), enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24, dec_depth=4,
               dec_heads=2, head="dpt", dpt_levels=(4, 6, 8, 10), dpt_features=8),
    value_depth=1, value_heads=2,
)  # fmt: skip
CPU = TorchOptions("cpu", "fp32")


def network() -> SpannNetwork:
    torch.manual_seed(0)
    return SpannNetwork(CONFIG).eval()


def engine() -> Spann3rEngine:
    return Spann3rEngine(network(), spann3r_manifest(SpannCheckpoint(CONFIG, {}), "small"), CPU)


def views_of(count: int, image_hw: tuple[int, int] = (32, 48)) -> list[View]:
    rng = np.random.default_rng(5)
    return [View(rng.integers(0, 256, (*image_hw, 3), np.uint8)) for _ in range(count)]


def test_a_window_is_walked_through_from_its_first_view() -> None:
    made, views = engine(), views_of(5)
    window = made.infer(views)
    assert window.points.shape == (1, 5, 32, 48, 3) and window.conf.min() > 1
    assert window.poses is None and window.references == (0,)
    # what is seen later changes nothing of what was seen before
    shorter = made.infer(views[:4])
    np.testing.assert_allclose(window.points[0, :3], shorter.points[0, :3], rtol=1e-5)
    assert np.abs(window.points[0, 3] - shorter.points[0, 3]).max() > 1e-3  # no longer the last
    # but what was seen before changes all that follows
    other = made.infer([*views[1::-1], *views[2:]])
    assert np.abs(window.points[0, 2] - other.points[0, 2]).max() > 1e-4


def test_kept_tokens_give_the_same_window() -> None:
    made, views = engine(), views_of(3)
    kept = [token for view in views for token in made.encode([view])]
    np.testing.assert_allclose(
        made.decode(kept).points, made.infer(views).points, rtol=1e-4, atol=1e-4
    )
    made.close()


def test_wrong_windows_are_refused_in_words() -> None:
    made = engine()
    with pytest.raises(EngineError, match=r"view of shape \(16, 48, 3\)"):
        made.encode(views_of(1, (16, 48)))
    with pytest.raises(EngineError, match="no views"):
        made.encode([])
    with pytest.raises(EngineError, match="a window of 1 views"):
        made.decode(made.encode(views_of(1)))


@pytest.mark.slow
def test_an_engine_folder_from_weights(tmp_path: Path) -> None:
    path, folder = tmp_path / "small.safetensors", tmp_path / "engine"
    checkpoint = SpannCheckpoint(CONFIG, network().state_dict(), "CC-BY-NC-SA-4.0")
    save_spann_checkpoint(path, checkpoint)
    assert main(["engine", "export", "--weights", str(path), "--out", str(folder)]) == 0
    a, b = (create_engine(source, EngineOptions(device="cpu")) for source in (folder, path))
    info = a.describe()
    assert (info.backend, info.licence, info.metric) == ("spann3r", "CC-BY-NC-SA-4.0", False)
    np.testing.assert_array_equal(a.infer(views_of(3)).points, b.infer(views_of(3)).points)
    manifest = load_manifest(folder)
    save_manifest(folder, dataclasses.replace(manifest, network={"colour": 1}))
    with pytest.raises(EngineError, match="unknown network setting 'colour'"):
        create_engine(folder, EngineOptions(device="cpu"))
    save_manifest(folder, dataclasses.replace(manifest, network={**manifest.network, "base": "x"}))
    with pytest.raises(EngineError, match=r"x is no engine folder"):
        create_engine(folder, EngineOptions(device="cpu"))


def small_room() -> Network:
    torch.manual_seed(1)
    made = Network(
        dataclasses.replace(
            NAMED_CONFIGS["room"], image_hw=(32, 32), enc_dim=48, enc_depth=1, dec_dim=48,
            dec_depth=1, cross_reference=False, n_ref=1,
        )
    )  # fmt: skip
    made.initialise()
    with torch.no_grad():
        for parameter in made.parameters():  # the exporter stores equal biases once
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return made.eval()


def as_fed(views: list[View]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(stack_images(views, views[0].image_rgb.shape[:2])), torch.from_numpy(
        stack_intrinsics(views)
    )


@pytest.mark.slow
def test_the_pairwise_network_is_the_room_network_with_two_views() -> None:
    stored = weights_of_graphs(ROOM)
    config, state = pair_of_network(stored)
    pair = PairNetwork(config).eval()
    pair.load_state_dict(state)
    views = exact_views(7_500_000, 2, config.image_hw)
    room = network_from_state(stored.config, stored.state)
    images, K = as_fed(views)
    with torch.inference_mode():
        expected = room(images[None], K[None], n_ref=1)
        first, second = pair.encode(images, K).split(1)
        a, b = pair.pair_maps(first, second, pair.grid_hw(images))
    for view, maps in enumerate((a, b)):
        torch.testing.assert_close(
            maps.points[0], expected.points[0, 0, view], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(maps.conf[0], expected.conf[0, 0, view], rtol=1e-4, atol=1e-4)
    # and both are what the bundled graphs compute
    bundled = create_engine(ROOM).infer(views, 1)
    np.testing.assert_allclose(bundled.points[0], expected.points[0, 0].numpy(), atol=1e-3)


def test_a_memory_that_has_learnt_nothing_leaves_the_first_pair_alone() -> None:
    stored = weights_of_graphs(ROOM)
    made = begin(stored, "room")
    trained = make_trainable(made)
    assert sum(p.numel() for p in trained.values()) < 2.6e6
    config, state = pair_of_network(stored)
    pair = PairNetwork(config).eval()
    pair.load_state_dict(state)
    images = torch.rand(3, 3, *config.image_hw, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        a, _ = pair(images[:1], images[1:2])
        points = made(images).points
    torch.testing.assert_close(points[0], a.points[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped_and_becomes_an_engine(tmp_path: Path) -> None:
    rooms, weights = tmp_path / "rooms", tmp_path / "room.safetensors"
    write_rooms(rooms, range(50), 4, (32, 32), 1, lambda *_: None)
    room = small_room()
    save_checkpoint(weights, Checkpoint(room.config, room.state_dict()))
    config = SpannTraining(
        str(weights), str(rooms), str(tmp_path / "run"), steps=4, views=4, views_a_step=4,
        measured_rooms=1, measured_views=(3,),
    )  # fmt: skip
    whole = SpannTrainer(dataclasses.replace(config, run=str(tmp_path / "whole")))
    whole.run()
    stopped = SpannTrainer(config)
    stopped.run(stop=lambda: stopped.step == 2)
    again = SpannTrainer(config)
    assert again.step == 2
    points = []
    again.run(report=points.append)
    assert points[-1]["step"] == 4 and points[-1]["error_3"] > 0
    for key, value in whole.trained.items():
        torch.testing.assert_close(again.trained[key], value, rtol=1e-3, atol=1e-6)
    moved = whole.trained["dust3r.dec_blocks.0.attn.qkv.weight.up"]
    assert float(moved.detach().abs().max()) > 0
    # what was learnt is an engine on top of the network that it began from
    export_engine(room, tmp_path / "base", ExportOptions("base"))
    folder = release_spann3r(again.weights, tmp_path / "memory", "base")
    made = create_engine(folder, EngineOptions(device="cpu"))
    assert made.describe().metric
    views = exact_views(1, 3, (32, 32))
    again.network.eval()
    with torch.inference_mode():
        expected = again.network(*as_fed(views)).points
    np.testing.assert_allclose(
        made.infer(views).points[0], expected.numpy(), rtol=0.02, atol=0.02
    )  # half precision


def test_a_memory_lies_beside_what_it_is_on_top_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train-spann3r", "--weights", str(ROOM), "--rooms", str(tmp_path), "--run"]
    assert main([*words, str(tmp_path / "run"), "--export", str(tmp_path / "memory")]) == 1
    assert "both must be folders in one place" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "run")]) == 1
    assert "no rooms in" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundled_memory_is_better_than_a_guess(tmp_path: Path) -> None:
    engine = create_engine(ROOM.parent / "spann3r", EngineOptions(device="cpu"))
    info = engine.describe()
    assert (info.licence, info.metric, info.image_hw) == ("Apache-2.0", True, (128, 128))
    rooms = evaluate_rooms(
        engine, lambda seed, views: exact_views(seed, views, info.image_hw),
        range(7_500_100, 7_500_106), [4], range(7_600_000, 7_600_006), tmp_path, lambda *_: None,
    )[4]  # fmt: skip
    error = {name: np.mean([case.nd_metric for case in cases]) for name, cases in rooms.items()}
    assert error["Spann3R"] < 0.9 * min(error["mean pointmap"], error["constant depth"])
