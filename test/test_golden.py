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

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvdust3r_ros.cli import main
from mvdust3r_ros.evaluation.trials.golden import GoldenError, find_cases, load_case, run_case
from mvdust3r_ros.evaluation.trials.rule_weights import RuleError, rule_tensor, uniform
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.network import Network, exchange
from stored_data import MODEL_CASES, MORE_GOLDEN, needs_more_data


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", MODEL_CASES)
@pytest.mark.parametrize(("backend", "dtype"), [("torch", "fp32"), ("torch", "bf16")])
@pytest.mark.slow
def test_small_cases(case: Path, backend: str, dtype: str) -> None:
    for result in run_case(case, backend, dtype):
        assert result.error <= (0.3 if dtype == "fp32" else 1), result


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", MODEL_CASES)
def test_small_cases_in_onnx_runtime(case: Path) -> None:
    for result in run_case(case, "onnx"):
        assert result.error <= 0.3, result


@needs_more_data
@pytest.mark.slow
@pytest.mark.parametrize("case", ["full_mvd_v4", "full_mvdp_v4_r4"])
def test_full_size_cases(case: str) -> None:
    for result in run_case(MORE_GOLDEN / "fullsize" / case):
        assert result.error <= 0.3, result


@needs_more_data
@pytest.mark.slow
def test_full_size_weights_by_rule_hit_their_probes() -> None:
    config, _ = load_case(MORE_GOLDEN / "fullsize" / "full_mvd_v4")
    for key, probe in config["probe"].items():
        values = rule_tensor(config["weight_seed"], key, config["keys"][key]).ravel()
        np.testing.assert_array_equal(values[:4], np.float32(probe["first4"]))
        np.testing.assert_allclose(values.sum(dtype=np.float64), probe["sum_f64"], rtol=1e-9)


SIZES = {
    "img_size": [24, 40], "patch_size": 8, "enc_embed_dim": 32, "enc_depth": 1, "enc_num_heads": 2,
    "dec_embed_dim": 24, "dec_depth": 2, "dec_num_heads": 3, "skip_dim": 3, "gs_mlp_dim": 7,
    "n_ref": 3, "m_ref_flag": True, "weight_seed": 11,
}  # fmt: skip


def own_case(folder: Path, batch: int = 2, by_rule: bool = False) -> Path:
    """A case of other sizes than the stored ones, made by our own network."""
    torch.manual_seed(0)
    network = Network(
        NetworkConfig(
            image_hw=(24, 40), patch_size=8, enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=24,
            dec_depth=2, dec_heads=3, skip_dim=3, gs_mlp_dim=7, n_ref=3,
        )
    ).eval()  # fmt: skip
    config = dict(SIZES)
    state = network.state_dict()
    if by_rule:
        rules = {}
        for key, value in state.items():
            kind = "int" if value.dtype is torch.int64 else "exp" if "_var" in key else "lin"
            rules[key] = {"shape": list(value.shape), "kind": kind, "mean": 1.0 * (kind == "exp"),
                          "scale": 0.2, "value": 0}  # fmt: skip
            state[key] = torch.from_numpy(rule_tensor(11, key, rules[key]))
        network.load_state_dict(state)
        config["keys"] = rules
    images = torch.rand(batch, 4, 3, 24, 40) * 2 - 1
    with torch.inference_mode():
        output = network(images)
        order = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3]])
        maps = [exchange(m, order).flatten(0, 1).numpy() for m in output[:2]]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    np.savez(folder / "io.npz", images=images.numpy(), pts3d=maps[0], conf=maps[1])
    if not by_rule:
        save_file(state, folder / "state_dict.safetensors")
    return folder


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.slow
def test_cases_of_other_sizes_run_from_their_own_description(tmp_path: Path, backend: str) -> None:
    results = run_case(own_case(tmp_path / "case"), backend)
    assert {r.output for r in results} == {"pts3d", "conf"}
    assert all(r.error < 0.5 for r in results)


def test_cases_whose_weights_are_a_rule(tmp_path: Path) -> None:
    assert all(r.error < 0.5 for r in run_case(own_case(tmp_path / "case", by_rule=True)))


@pytest.mark.slow
def test_command_says_the_error_and_fails_above_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = own_case(tmp_path / "case")
    assert main(["golden", str(tmp_path)]) == 0
    assert "passed" in capsys.readouterr().out
    arrays = dict(np.load(case / "io.npz"))
    arrays["conf"][0, 0, 0, 0] *= 1.01
    np.savez(case / "io.npz", **arrays)
    assert main(["golden", str(case)]) == 1
    assert "FAILED" in capsys.readouterr().out
    arrays["conf"] = arrays["conf"][:, :1]
    np.savez(case / "io.npz", **arrays)
    assert main(["golden", str(case)]) == 1


def test_what_cannot_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="no cases in"):
        find_cases(tmp_path)
    case = own_case(tmp_path / "case")
    with pytest.raises(GoldenError, match="fp32 only"):
        run_case(case, "onnx", "bf16")
    (case / "state_dict.safetensors").unlink()
    with pytest.raises(GoldenError, match="nor a rule"):
        run_case(case)


def test_rule_does_not_depend_on_chunks_and_matches_a_worked_value() -> None:
    whole = uniform(5, "key", 0, 1000)
    parts = [uniform(5, "key", start, 250) for start in range(0, 1000, 250)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    first = [0.16972488164901733, 0.971563994884491, 0.30223792791366577]
    np.testing.assert_array_equal(uniform(5002, "mask_token", 0, 3), np.float32(first))
    with pytest.raises(RuleError, match="unknown kind"):
        rule_tensor(0, "key", {"shape": [1], "kind": "odd"})
