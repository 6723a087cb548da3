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

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mvdust3r_ros.evaluation.trials.golden import case_images, case_network, compare, load_case
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.network import Network, exchange, slot_order
from stored_data import MODEL_CASES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def naive() -> ModuleType:
    """The baseline of the speed comparison; it has to compute the same thing to be one."""
    spec = importlib.util.spec_from_file_location("naive", ROOT / "benchmarks" / "naive.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", MODEL_CASES)
@pytest.mark.slow
def test_baseline_equals_the_reference(naive: ModuleType, case: Path) -> None:
    config, arrays = load_case(case)
    network = case_network(case, config)
    with torch.inference_mode():
        images = torch.from_numpy(case_images(arrays))
        maps = [naive.predict(network, item, network.config.n_ref) for item in images]
    for index, name in enumerate(("pts3d", "conf")):
        value = torch.cat([m[index] for m in maps]).numpy()
        assert compare(value, arrays[name], name, config, "fp32") < 0.3


def test_baseline_equals_the_network(naive: ModuleType) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        image_hw=(24, 32), patch_size=8, enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24,
        dec_depth=2, dec_heads=2, skip_dim=4, gs_mlp_dim=0, n_ref=3,
    )  # fmt: skip
    network, images = Network(config).eval(), torch.rand(5, 3, 24, 32)
    with torch.inference_mode():
        plain, ours = naive.predict(network, images, 3), network(images[None]).points
    torch.testing.assert_close(exchange(ours, slot_order(3, 5))[0], plain.points)
