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

"""From a run to an engine folder that gives the same pointmaps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvdust3r_ros.engines.create import create_engine
from mvdust3r_ros.engines.manifest import load_manifest
from mvdust3r_ros.model.config import config_from_dict
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.synthetic import dataset
from mvdust3r_ros.synthetic.dataset import collate, exact_views, make_window, write_shard
from mvdust3r_ros.synthetic.release import release_run
from mvdust3r_ros.synthetic.train import Trainer
from mvdust3r_ros.synthetic.train_config import TrainConfig, TrainError

pytestmark = pytest.mark.slow

TINY = {"image_hw": [32, 32], "enc_dim": 32, "enc_depth": 1, "enc_heads": 2, "dec_dim": 32,
        "dec_depth": 2, "dec_heads": 2, "patch_size": 8}  # fmt: skip


@pytest.mark.parametrize("n_ref", [1, 2])
def test_engine_equals_the_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_ref: int
) -> None:
    monkeypatch.setattr(dataset, "SHARD_ROOMS", 2)
    write_shard(tmp_path / "rooms", 0, 4, (32, 32))
    config = TrainConfig(
        rooms=str(tmp_path / "rooms"), run=str(tmp_path / "run"), network=TINY, processes=1,
        max_steps=4, decay_steps=0, warmup_steps=1, views_per_step=4, n_ref=n_ref,
    )  # fmt: skip
    trainer = Trainer(config)
    for _ in range(4):
        trainer.train_step()
    trainer.save()
    metrics = tmp_path / "results.json"
    rows = {
        name: {"summary": {"nd_metric": value}} for name, value in (("MVD", 0.3), ("MVD+", 0.2))
    }
    metrics.write_text(json.dumps({"views": {"4": rows}}))
    folder = release_run(config, tmp_path / "engine", metrics)
    manifest = load_manifest(folder)
    assert (manifest.licence, manifest.metric, manifest.n_ref) == ("Apache-2.0", True, n_ref)
    assert manifest.info["metrics"]["4"] == {"MVD": {"nd_metric": 0.3}, "MVD+": {"nd_metric": 0.2}}
    assert manifest.rel_error == (0.3 if n_ref == 1 else 0.2)
    assert (manifest.info["steps"], manifest.info["training_seed"]) == (4, 0)

    network = Network(config_from_dict(trainer.state()["config"])).eval()
    network.load_state_dict(trainer.ema)
    batch = collate([make_window(9, 3, (32, 32))])
    known = batch.K[:, None, (0, 1, 0, 1), (0, 1, 2, 2)].expand(-1, 3, -1)
    with torch.no_grad():
        expected = network(batch.images, known, n_ref=n_ref).points[0].numpy()
    points = create_engine(folder).infer(exact_views(9, 3, (32, 32))).points
    assert points.shape == expected.shape
    assert np.abs(points - expected).max() < 0.02  # weights in half precision


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="has the run begun"):
        release_run(TrainConfig(run=str(tmp_path)), tmp_path / "engine")
