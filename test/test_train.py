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

"""Training: it learns, it goes on where it stopped, its settings are checked."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mvdust3r_ros.synthetic import dataset
from mvdust3r_ros.synthetic.dataset import Batch, collate, make_window, write_shard
from mvdust3r_ros.synthetic.losses import (
    MatchHead,
    attention_loss,
    confidence_loss,
    find_matches,
    pose_loss,
)
from mvdust3r_ros.synthetic.train import Trainer, train
from mvdust3r_ros.synthetic.train_config import TrainConfig, TrainError, load_train_config

pytestmark = pytest.mark.slow

TINY = {"image_hw": [32, 32], "enc_dim": 32, "enc_depth": 1, "enc_heads": 2, "dec_dim": 32,
        "dec_depth": 2, "dec_heads": 2, "patch_size": 8}  # fmt: skip


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rooms")
    patch = pytest.MonkeyPatch()
    patch.setattr(dataset, "SHARD_ROOMS", 6)
    write_shard(folder, 0, 6, (32, 32))
    yield folder
    patch.undo()


@pytest.fixture()
def config(rooms: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        rooms=str(rooms), run=str(tmp_path / "run"), network=TINY, processes=1, max_steps=60,
        decay_steps=20, warmup_steps=5, views_per_step=12, curriculum=((0, 2), (10, 4)),
        held_out_rooms=2,
    )  # fmt: skip


def test_training_lowers_the_loss(config: TrainConfig) -> None:
    trainer = Trainer(config)
    values = [trainer.train_step() for _ in range(60)]
    for name in ("regression", "match", "attention"):
        first, last = (sum(v[name] for v in part) / 10 for part in (values[10:20], values[-10:]))
        assert last < first, name
    errors = [v["err_ref"] for v in values]
    assert sum(errors[-10:]) < 0.8 * sum(errors[:10])


def test_frozen_weights_stay_and_the_cross_reference_learns(config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, n_ref=3, min_ref=3, freeze=True, min_views=3))
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    for _ in range(3):
        trainer.train_step()
    for name, value in trainer.network.state_dict().items():
        unchanged = torch.equal(value, before[name])
        # A norm's shift before a query that is still of no effect has no gradient yet.
        assert unchanged or name.startswith("dec_same_view_blocks."), name
    learned = [k for k, v in trainer.network.state_dict().items() if not torch.equal(v, before[k])]
    assert any(".cross_attn." in k for k in learned), learned
    with pytest.raises(TrainError, match="min_ref 4"):
        TrainConfig(n_ref=3, min_ref=4)
    with pytest.raises(TrainError, match="nothing to train"):
        TrainConfig(freeze=True)


@pytest.mark.parametrize("n_ref", [1, 3])
def test_resuming_equals_not_stopping(config: TrainConfig, tmp_path: Path, n_ref: int) -> None:
    config = dataclasses.replace(config, n_ref=n_ref)
    whole = Trainer(config)
    for _ in range(9):
        whole.train_step()
    parts = dataclasses.replace(config, run=str(tmp_path / "parts"))
    for steps in (4, 3, 2):
        trainer = Trainer(parts)
        for _ in range(steps):
            trainer.train_step()
        trainer.save()
    assert trainer.step == whole.step == 9
    for a, b in (
        (whole.network.state_dict(), trainer.network.state_dict()),
        (whole.ema, trainer.ema),
    ):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_growing_data_is_replayed_as_it_was(
    config: TrainConfig, rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvdust3r_ros.synthetic.train.LOOK_FOR_ROOMS_EVERY", 2)
    first = Trainer(config)
    first.train_step()
    first.save()
    assert first.room_count() == 6
    write_shard(rooms, 6, 6, (32, 32))
    first.train_step()
    first.train_step()
    assert first.room_count() == 12
    again = Trainer(config)
    assert (again.step, again.room_count()) == (1, 6)
    for _ in range(2):
        again.train_step()
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    for path in rooms.glob("00000006*"):
        path.unlink()


def test_a_run_ends_by_itself_and_leaves_its_files(config: TrainConfig) -> None:
    settings = dataclasses.replace(config, max_steps=4, decay_steps=2)
    train(settings, progress=False)
    run = Path(settings.run)
    names = {p.name for p in run.iterdir()}
    assert {"checkpoint.pt", "log.jsonl", "pool.json", "held_out_000004.jpg"} <= names
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 4
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4
    assert 0.0 < last["nd_4"] < 2.0


def test_a_compiled_step_is_the_step(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the code generator, which takes minutes: the step is traced and differentiated."""
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    compiled = dataclasses.replace(config, compile=True, run=str(tmp_path / "compiled"))
    losses = [Trainer(settings).train_step() for settings in (config, compiled)]
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=0.02), name


TWICE = """
import os, shutil, sys
from pathlib import Path
from mvdust3r_ros.synthetic.train import train
from mvdust3r_ros.synthetic.train_config import load_train_config

config = load_train_config(Path(sys.argv[1]), {})
train(config, minutes=1e-9, progress=False)  # ends at the first common stop, step 20
if os.environ["RANK"] == "0":
    shutil.copy(f"{config.run}/checkpoint.pt", sys.argv[2])
os.environ["MASTER_PORT"] = sys.argv[3]
train(config, progress=False)
"""


def launch_twice(config: TrainConfig, folder: Path) -> None:
    """Two processes, started as torchrun does, that stop early and go on."""
    path = folder / "parts.yaml"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        ports = [str(free.getsockname()[1]) for free in (first, second)]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", TWICE, str(path), str(folder / "first.pt"), ports[1]]
    running = [
        subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    assert [process.wait(300) for process in running] == [0, 0]


@pytest.mark.slow
def test_two_processes_resume_to_the_weights_of_not_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD_ROOMS", 50)  # what the other processes see
    rooms = tmp_path / "rooms"
    write_shard(rooms, 0, 2, (32, 32))
    config = TrainConfig(
        rooms=str(rooms), network=TINY, processes=2, max_steps=40, decay_steps=0,
        curriculum=((0, 2),), views_per_step=4, held_out_rooms=1,
    )  # fmt: skip
    whole = dataclasses.replace(config, run=str(tmp_path / "whole"))
    parts = dataclasses.replace(config, run=str(tmp_path / "parts"))
    train(whole, progress=False)
    launch_twice(parts, tmp_path)
    states = [torch.load(tmp_path / "first.pt", weights_only=True)]
    states += [
        torch.load(tmp_path / f"{n}/checkpoint.pt", weights_only=True) for n in ("parts", "whole")
    ]
    assert [s["step"] for s in states] == [20, 40, 40]
    assert [s["views_seen"] for s in states] == [160, 320, 320]
    for name, value in states[2]["network"].items():
        assert torch.equal(value, states[1]["network"][name]), name


def test_a_longer_schedule_goes_on_before_the_decay(config: TrainConfig) -> None:
    short = dataclasses.replace(config, max_steps=6, decay_steps=3)
    trainer = Trainer(short)
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    assert Trainer(short).step == 6
    assert Trainer(dataclasses.replace(config, max_steps=60)).step == 3
    assert Trainer(dataclasses.replace(config, max_steps=60, branch="latest")).step == 6
    with pytest.raises(TrainError, match="sideways"):
        TrainConfig(branch="sideways")


def test_learning_rate_rises_stays_and_falls(config: TrainConfig) -> None:
    rates = [config.learning_rate(s) for s in range(config.max_steps)]
    assert rates[0] == pytest.approx(config.lr / 5)
    assert rates[5:41] == [config.lr] * 36
    assert rates[41:] == sorted(rates[41:], reverse=True)
    assert rates[-1] == pytest.approx(config.lr / 20)


def test_settings_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("max_steps: 100\ndecay_steps: 10\ncurriculum: [[0, 2], [5, 4]]\n")
    config = load_train_config(path, {"max_steps": 50})
    assert (config.max_steps, config.most_views(4), config.most_views(5)) == (50, 2, 4)
    path.write_text("max_stepz: 100\n")
    with pytest.raises(TrainError, match="max_stepz"):
        load_train_config(path)
    with pytest.raises(TrainError, match="decay_steps 200"):
        TrainConfig(max_steps=100, decay_steps=200)
    with pytest.raises(TrainError, match="'free' are neither"):
        TrainConfig(targets="free")
    with pytest.raises(TrainError, match="pose_weight needs"):
        TrainConfig(targets="normalized")
    with pytest.raises(TrainError, match="nowhere"):
        load_train_config(tmp_path / "nowhere.yaml")


@pytest.fixture(scope="module")
def batch() -> Batch:
    return collate([make_window(2, 4, (64, 64))])


def test_confidence_loss_is_zero_error_for_the_truth(batch: Batch) -> None:
    target = batch.points(0)
    conf = torch.full(target.shape[:-1], 2.0)
    loss, error = confidence_loss(target, conf, target, 0.2)
    assert float(error.max()) == 0.0
    assert float(loss) == pytest.approx(-0.2 * 0.693147, rel=1e-4)
    moved = target + torch.tensor([0.3, 0.0, 0.0])
    _, error = confidence_loss(moved, conf, target, 0.2)
    assert float(error.mean()) == pytest.approx(0.3 / float(target.norm(dim=-1).mean()), rel=1e-4)


def test_normalized_targets_leave_the_scale_free(batch: Batch) -> None:
    target = batch.points(0)
    conf = torch.full(target.shape[:-1], 2.0)
    _, error = confidence_loss(7.0 * target, conf, target, 0.2, normalized=True)
    assert float(error.max()) < 1e-5
    moved = target + torch.tensor([0.3, 0.0, 0.0])
    _, first = confidence_loss(moved, conf, target, 0.2, normalized=True)
    _, second = confidence_loss(0.1 * moved, conf, target, 0.2, normalized=True)
    assert float(first.mean()) > 0.01
    torch.testing.assert_close(first, second)


def test_pose_loss_is_the_angle_the_movement_and_the_scale(batch: Batch) -> None:
    target, centres = batch.points(0), batch.relative(0)[..., :3, 3]
    assert float(pose_loss(target, target, centres)) == 0.0
    at = centres[:, :, None, None]
    axis = torch.tensor([0.0, 0.02, 0.0]).expand_as(target)
    turned = target + torch.linalg.cross(axis, target - at)  # about each camera's own centre
    assert float(pose_loss(turned, target, centres)) == pytest.approx(0.02, rel=1e-3)
    grown = at + 1.05 * (target - at)
    assert float(pose_loss(grown, target, centres)) == pytest.approx(0.05, rel=1e-3)
    moved = target + torch.tensor([0.1, 0.0, 0.0])
    expected = 0.1 / float(target.norm(dim=-1).mean())
    assert float(pose_loss(moved, target, centres)) == pytest.approx(expected, rel=1e-3)


def test_matches_are_where_the_points_project(batch: Batch) -> None:
    """Round trip: from a patch to the token that shows it, and back near to where it began."""
    matches = find_matches(batch, batch.points(0), 8)
    assert not any(matches.seen[0, i, :, i].any() for i in range(4))
    share = matches.seen.float().mean()
    assert 0.1 < float(share) < 0.75
    there = matches.token[0, 0, :, 1]
    back = matches.token[0, 1, there, 0]
    both = matches.seen[0, 0, :, 1] & matches.seen[0, 1, there, 0]
    start = torch.arange(64)
    gap = torch.maximum((back // 8 - start // 8).abs(), (back % 8 - start % 8).abs())[both]
    assert int(both.sum()) > 5
    assert float((gap <= 1).float().mean()) > 0.9


def test_matching_and_attention_losses_reward_the_right_token(batch: Batch) -> None:
    matches = find_matches(batch, batch.points(0), 8)
    perfect = torch.zeros(2, 1, 4, 64, 4, 64)
    perfect.scatter_(-1, matches.token[None, ..., None].expand(2, -1, -1, -1, -1, 1), 0.5)
    spread = torch.full_like(perfect, 1 / 256)
    assert float(attention_loss(perfect, matches)) < 0.8
    assert float(attention_loss(spread, matches)) > 3.0
    head = MatchHead(16)
    features = torch.randn(1, 4, 64, 16, generator=torch.Generator().manual_seed(0))
    assert float(head(features, matches).detach()) > 3.0
