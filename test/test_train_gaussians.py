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

"""Training of Gaussian heads: it learns, it resumes, engines run what it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import View
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.weights import Checkpoint, save_checkpoint
from mvdust3r_ros.synthetic import dataset, resumable_run, train_gaussians
from mvdust3r_ros.synthetic.dataset import Batch, collate, make_window, write_shard
from mvdust3r_ros.synthetic.seen_windows import Seen, image_of, see, true_image
from mvdust3r_ros.synthetic.train import Trainer
from mvdust3r_ros.synthetic.train_config import TrainConfig, TrainError
from mvdust3r_ros.synthetic.train_gaussians import (
    GaussianTrainer,
    GaussianTraining,
    with_heads,
)

pytestmark = pytest.mark.slow

TINY = NetworkConfig(
    image_hw=(32, 32), patch_size=8, enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=32,
    dec_depth=2, dec_heads=2, skip_dim=0, gs_mlp_dim=0, n_ref=1, cross_reference=False,
    mask_token=False, ray_embed=True, pos_embed=True, max_log_distance=4.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rooms")
    patch = pytest.MonkeyPatch()
    patch.setattr(dataset, "SHARD_ROOMS", 3)
    write_shard(folder, 0, 6, (32, 32))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = Network(TINY)
    network.initialise(3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, Checkpoint(TINY, network.state_dict(), "Apache-2.0", {"run": "a"}))
    return path


@pytest.fixture
def config(rooms: Path, weights: Path, tmp_path: Path) -> GaussianTraining:
    return GaussianTraining(
        str(weights), str(rooms), str(tmp_path / "run"), steps=60, views=3, held_out=1,
        rendered=1, measured_rooms=1, measured_views=(4,), true_points=True, lr=3e-3,
    )  # fmt: skip


def window_of(seed: int, views: int) -> Batch:
    return collate([make_window(seed, views, TINY.image_hw)])


def new_view_error(trainer: GaussianTrainer, seeds: range) -> float:
    errors = []
    with torch.no_grad():
        for seed in seeds:
            batch = window_of(seed, 5)
            gaussians = see(trainer.network, batch, 4, true_points=True).gaussians
            errors.append((image_of(gaussians, batch, 4) - true_image(batch, 4)).square().mean())
    return float(torch.stack(errors).mean())


def test_new_views_get_better_and_the_rest_of_the_network_stays(config: GaussianTraining) -> None:
    trainer = GaussianTrainer(config)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    error = new_view_error(trainer, range(20, 23))
    for _ in range(40):
        trainer.train_step()
    assert new_view_error(trainer, range(20, 23)) < 0.97 * error
    changed = {k for k, v in trainer.network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("downstream_GS_head.") for k in changed)


def test_joint_training_improves_the_pointmaps_too(config: GaussianTraining) -> None:
    trainer = GaussianTrainer(replace(config, joint=True, true_points=False, lr=2e-2))
    batch = window_of(20, 4)

    def error() -> float:
        with torch.no_grad():
            return float(see(trainer.network, batch, 4, joint=True).points)

    before, state = error(), {k: v.clone() for k, v in trainer.network.state_dict().items()}
    for _ in range(15):
        trainer.train_step()
    assert error() < before - 0.02
    after = trainer.network.state_dict()
    changed = {k.partition(".")[0] for k, v in after.items() if not torch.equal(v, state[k])}
    assert {"patch_embed", "dec_blocks", "downstream_head1", "downstream_GS_head"} <= changed


@pytest.mark.parametrize("joint", [False, True])
def test_resuming_equals_not_stopping(
    config: GaussianTraining, tmp_path: Path, joint: bool
) -> None:
    config = replace(config, joint=joint, true_points=not joint)
    through = GaussianTrainer(replace(config, run=str(tmp_path / "through")))
    for _ in range(6):
        last = through.train_step()
    first = GaussianTrainer(config)
    for _ in range(3):
        first.train_step()
    first.save()
    second = GaussianTrainer(config)
    assert second.step == 3
    for _ in range(3):
        resumed = second.train_step()
    assert resumed == last
    with pytest.raises(TrainError, match="learns other weights"):
        GaussianTrainer(replace(config, joint=not joint, true_points=joint))


def test_heads_begin_as_round_gaussians_of_half_a_pixel(
    config: GaussianTraining,
) -> None:
    trainer = GaussianTrainer(config)
    batch = window_of(20, 4)
    with torch.no_grad():
        made = see(trainer.network, batch, 4).gaussians
    unit = made.means.norm(dim=-1).mean() / 32
    assert float(made.scale.mean() / unit) == pytest.approx(0.5, rel=0.3)
    torch.testing.assert_close(made.scale, made.scale[:, :1].expand(-1, 3), rtol=1e-4, atol=0)
    assert float(made.opacity.logit().mean()) == pytest.approx(2.0, rel=0.3)
    identity = torch.tensor([1.0, 0, 0, 0]).expand_as(made.rotation)
    torch.testing.assert_close(made.rotation, identity)


def test_a_run_leaves_weights_that_an_engine_takes(
    config: GaussianTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable_run, "LOG_EVERY", 2)
    points: list[dict[str, float]] = []
    trainer = GaussianTrainer(replace(config, steps=4))
    trainer.run(report=points.append)
    run = Path(config.run)
    curve = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    assert curve == points and [p["step"] for p in points] == [0, 2, 4, 4]
    assert {"psnr_4", "ssim_4", "points_psnr_4", "points_ssim_4"} <= set(points[-1])
    assert cv2.imread(str(run / "new_views_4_000004.png")).shape == (32, 96, 3)
    engine = create_engine(trainer.weights, EngineOptions(threads=1, gaussians=True))
    window = make_window(2, 3, (32, 32))
    made = engine.infer([View(rgb, window.K) for rgb in window.rgb])
    assert engine.describe().gaussians and made.gaussians is not None
    assert engine.describe().licence == "Apache-2.0"
    again = with_heads(trainer.weights, 0)
    assert not again[2] and again[1].info["gaussian_steps"] == 4


def test_a_run_of_the_room_model_can_be_gone_on_with(config: GaussianTraining) -> None:
    trained = TrainConfig(
        rooms=config.rooms, run=str(Path(config.run) / "room"), processes=1, max_steps=2,
        decay_steps=1, network={"image_hw": [32, 32], "enc_dim": 32, "enc_depth": 1,
        "enc_heads": 2, "dec_dim": 32, "dec_depth": 2, "dec_heads": 2, "patch_size": 8},
    )  # fmt: skip
    first = Trainer(trained)
    first.save()
    network, stored, new = with_heads(Path(trained.run) / "checkpoint.pt", 0)
    assert new and stored.licence == "Apache-2.0" and network.config.gs_mlp_dim == 32
    for name, value in first.ema.items():
        assert torch.equal(network.state_dict()[name], value)


def test_steps_have_as_many_input_views_as_they_draw(
    config: GaussianTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = set()

    def drawn(network: Network, batch: Batch, views: int, *rest: Any) -> Seen:
        counts.add((views, batch.images.shape[1]))
        return see(network, batch, views, *rest)

    monkeypatch.setattr(train_gaussians, "see", drawn)
    trainer = GaussianTrainer(replace(config, min_views=2, views=4))
    for _ in range(12):
        trainer.train_step()
    assert counts == {(2, 3), (3, 4), (4, 5)}


def test_rooms_that_do_not_fit_are_refused(config: GaussianTraining) -> None:
    with pytest.raises(TrainError, match=r"has 6 views of 32x32 a room, needed are 8 of 32x32"):
        GaussianTrainer(replace(config, views=7))
    with pytest.raises(TrainError, match="must be at least 1, 2 and 1"):
        replace(config, held_out=0)
    with pytest.raises(TrainError, match=r"min_views 4 must be 0 or in \[2, 3\]"):
        replace(config, min_views=4)
    with pytest.raises(TrainError, match="leave out one"):
        replace(config, joint=True, true_points=True)


def test_the_command_trains(
    config: GaussianTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "cli"
    words = ["train-gaussians", "--weights", config.weights, "--rooms", config.rooms]
    words += ["--run", str(run), "--steps", "2", "--views", "3", "--held-out", "1"]
    monkeypatch.setattr(GaussianTrainer, "run", lambda self, *_: self.save())
    assert main(words) == 0
    assert "--splat room.ply" in capsys.readouterr().out
    assert (run / "weights.safetensors").is_file()
