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

"""Training of the engine `mvs`: a run learns, goes on where it stopped, and becomes an engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvdust3r_ros.engines.mvs.depth_reader import GRAPHS  # noqa: E402
from mvdust3r_ros.model.sweep import SweepNetwork, place_to_q, q_to_place  # noqa: E402
from mvdust3r_ros.synthetic import dataset, train_mvs  # noqa: E402
from mvdust3r_ros.synthetic.mvs_rooms import Gloss, Grain, make_mvs_window  # noqa: E402
from mvdust3r_ros.synthetic.render import Renderer, pinhole  # noqa: E402
from mvdust3r_ros.synthetic.scenes import sample_room  # noqa: E402
from mvdust3r_ros.synthetic.train_config import TrainError  # noqa: E402
from mvdust3r_ros.synthetic.train_mvs import (  # noqa: E402
    MvsTrainer,
    MvsTraining,
    draw_sweeps,
    read_weights,
    sweep_losses,
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with two small rooms."""
    monkeypatch.setattr(dataset, "SHARD_ROOMS", 2)
    dataset.write_shard(tmp_path / "rooms", 9_800_000, 8, (64, 96), make_mvs_window)
    return tmp_path


@pytest.mark.slow
def test_a_run_learns_and_goes_on_where_it_stopped(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_mvs, "LOG_EVERY", 5)
    config = MvsTraining(str(run), steps=70, batch=1, lr=0.01)
    first = MvsTrainer(config)
    batches = [draw_sweeps(np.random.default_rng(k), first.shards, 2) for k in range(4)]

    def loss() -> float:
        with torch.no_grad():
            return float(np.mean([sweep_losses(first.network, b)["total"] for b in batches]))

    before = loss()
    for _ in range(60):
        first.train_step()
    assert loss() < 0.8 * before
    first.save()
    again = MvsTrainer(config)
    assert again.step == 60
    assert again.train_step() == pytest.approx(first.train_step(), rel=1e-4)
    points: list[dict[str, float]] = []
    again.run(stop=lambda: again.step == 66, report=points.append)  # as Ctrl-C does
    assert again.step == 66
    assert [point["step"] for point in points] == [65]
    last = MvsTrainer(config)
    last.run()
    assert last.step == 70
    curve = [json.loads(line)["step"] for line in (run / "curve.jsonl").read_text().splitlines()]
    assert curve == [65, 70]


def test_a_learning_curve_has_each_step_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after the last checkpoint is done, and written, again."""
    monkeypatch.setattr(train_mvs, "LOG_EVERY", 1)
    config = MvsTraining(str(run), steps=3, batch=1)
    trainer = MvsTrainer(config)
    monkeypatch.setattr(train_mvs, "SAVE_EVERY", 2)
    monkeypatch.setattr(
        trainer, "save", lambda: MvsTrainer.save(trainer) if trainer.step < 3 else None
    )
    trainer.run()
    assert MvsTrainer(config).step == 2
    MvsTrainer(config).run()
    curve = [json.loads(line)["step"] for line in (run / "curve.jsonl").read_text().splitlines()]
    assert curve == [1, 2, 3]


def test_a_run_may_begin_with_the_weights_of_an_engine(run: Path) -> None:
    folder = Path(__file__).parents[1] / "models" / "mvs"
    trainer = MvsTrainer(MvsTraining(str(run), init=str(folder)))
    for name, value in read_weights(folder).items():
        assert torch.equal(trainer.network.state_dict()[name], value)
    with pytest.raises(TrainError, match=r"no .*weights\.safetensors"):
        MvsTrainer(MvsTraining(str(run), init=str(run)))


def test_places_and_inverse_depths_are_each_others_inverse() -> None:
    reach = torch.tensor([[0.1, 3.0]])[:, :, None]
    q = torch.linspace(0.1, 3.0, 50)[None]
    place = q_to_place(q, reach, 32)
    assert place[0, 0] == pytest.approx(0, abs=1e-4)
    assert place[0, -1] == pytest.approx(31, abs=1e-4)
    torch.testing.assert_close(place_to_q(place, reach, 32), q)


def test_the_network_knows_no_unit() -> None:
    """All lengths ten times as long: the same answer."""
    torch.manual_seed(1)
    network = SweepNetwork().eval()
    images = torch.rand(3, 3, 64, 96)
    projection = torch.eye(3, 4).repeat(1, 4, 1, 1)
    projection[..., 0, 3] = 0.2
    with torch.no_grad():
        f = network.encoder(images)
        own = type(f)(*(x[:1] for x in f))
        sources = tuple(x[[1, 2, 1, 2]][None] for x in f[:2])
        weight, reach = torch.ones(1, 4), torch.tensor([[0.1, 2.0]])
        near = network.reader(own, sources, projection, weight, reach)
        projection[..., 3] *= 10
        far = network.reader(own, sources, projection, weight, reach / 10)
    torch.testing.assert_close(near.place, far.place, rtol=1e-3, atol=1e-3)


def test_grain_is_fixed_in_space() -> None:
    """The same point of a wall is as dark in both views."""
    hw, K = (48, 64), np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    wall, plain = np.full(hw, 2.0), np.full((*hw, 3), 120, np.uint8)
    grain = next(
        g for seed in range(20) if (g := Grain(np.random.default_rng(seed))).strength > 0.2
    )
    T = np.eye(4)
    a = grain.on(plain, wall, K, T).astype(float)
    T[0, 3] = 2.0 * 5 / 60  # five pixels to the right
    b = grain.on(plain, wall, K, T).astype(float)
    assert a.std() > 1
    np.testing.assert_allclose(a[:, 5:], b[:, :-5], atol=1.01)


def test_a_floor_that_shines_shows_what_stands_on_it_upside_down() -> None:
    scene = sample_room(3)
    K = pinhole(1.2, (60, 80))
    room = scene.rooms[0]
    T = np.eye(4)
    T[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]).astype(float)  # looks along x
    T[:3, 3] = [room.x0 + 0.4, room.center[1], 0.7]
    shot = Renderer(scene, "cpu").render(K, (60, 80), T)
    shining, dull = 0, 0
    for seed in range(20):
        gloss = Gloss(np.random.default_rng(seed), scene)
        seen = gloss.on(shot.rgb, shot.depth_m, K, T).astype(int) - shot.rgb
        v, _ = np.nonzero(np.abs(seen).max(-1) > 3)
        if len(v) == 0:
            dull += 1
            continue
        shining += 1
        assert v.min() > 30, "what is above the horizon does not change"
    assert shining > 2
    assert dull > 5


def test_an_engine_folder_has_both_graphs() -> None:
    folder = Path(__file__).parents[1] / "models" / "mvs"
    assert all((folder / name).is_file() for name in GRAPHS)
