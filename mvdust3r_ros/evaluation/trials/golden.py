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

"""Compare the network with stored outputs of the reference implementation.

A case is a folder with `config.json`, `io.npz` and `state_dict.safetensors`. If the weights are
missing, they follow from the rule in `config.json`.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.evaluation.trials.rule_weights import rule_tensor
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.network import Network, slot_order
from mvdust3r_ros.model.weights import DTYPES, network_from_state, read_tensors

FP32_RTOL = 1e-4
"""Float32 sums in another order differ by about 1e-7 each. This and the absolute tolerances below
cover all layers."""
FP32_ATOL = {
    "pts3d": 1e-4, "conf": 1e-4, "rgb": 1e-4, "rotation": 1e-4, "enc_tokens": 1e-4,
    "opacity": 1e-5, "scale": 1e-5, "dec_tokens": 1e-5,
}  # fmt: skip
"""Used for cases that store no tolerance."""
BF16_RELATIVE = 0.05
"""bf16: maximum root-mean-square error of an output, as a fraction of its root mean square; a
single rounding is up to 0.4 %."""


class GoldenError(MvDust3rError):
    """A folder contains no cases, or a case cannot be run."""


@dataclass(frozen=True)
class CaseResult:
    """Comparison of one output of one case.

    Attributes:
        case: name of the case.
        output: name of the output.
        error: largest error in units of the tolerance; above 1 the comparison fails.
    """

    case: str
    output: str
    error: float


def find_cases(folder: Path) -> list[Path]:
    """Return the cases in a folder, or the folder itself if it is a case.

    Raises:
        GoldenError: there is none.
    """
    found = sorted(p.parent for p in [*folder.glob("config.json"), *folder.glob("*/config.json")])
    cases = [case for case in found if (case / "io.npz").is_file()]
    if not cases:
        raise GoldenError(f"no cases in {folder}: expected folders with config.json and io.npz")
    return cases


def run_case(case: Path, backend: str = "torch", dtype: str = "fp32") -> list[CaseResult]:
    """Run one case and compare every stored output.

    In fp32 each value must satisfy |a - b| <= atol + rtol |b| with the tolerances of the case. In
    bf16 the root-mean-square error of an output must not exceed `BF16_RELATIVE` of its root mean
    square.

    Args:
        case: folder of the case.
        backend: "torch" or "onnx".
        dtype: "fp32" or "bf16" (torch only).

    Raises:
        GoldenError: an unknown backend or dtype, or the case is incomplete.
    """
    if dtype not in {"fp32", "bf16"} or backend not in {"torch", "onnx"}:
        raise GoldenError(f"cannot run on {backend} in {dtype}: torch or onnx, fp32 or bf16")
    if backend == "onnx" and dtype != "fp32":
        raise GoldenError("ONNX Runtime runs these cases in fp32 only; use --backend torch")
    config, expected = load_case(case)
    network = case_network(case, config)
    images = case_images(expected)
    if backend == "torch":
        network.lower_precision(DTYPES[dtype])
        outputs = _torch_outputs(network, images)
    else:
        outputs = _onnx_outputs(network, images)
    del network
    gc.collect()
    subsampled = subsample(outputs, config.get("subsample"))
    results = []
    for name, value in expected.items():
        if name in {"images", "images_u8"}:
            continue
        if name not in subsampled:
            raise GoldenError(f"{case}: output {name!r} is not one of {sorted(subsampled)}")
        error = compare(subsampled[name], value, name.removesuffix("_sub"), config, dtype)
        results.append(CaseResult(case.name, name, error))
    return results


def load_case(case: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read `config.json` and the arrays of `io.npz`."""
    try:
        config = json.loads((case / "config.json").read_text(encoding="utf-8"))
        with np.load(case / "io.npz", allow_pickle=False) as arrays:
            return config, dict(arrays)
    except (OSError, ValueError) as error:
        raise GoldenError(f"cannot read the case {case}: {error}") from None


def case_config(config: dict[str, Any]) -> NetworkConfig:
    """Return the network configuration of a case."""
    cross_reference = bool(config.get("m_ref_flag", config.get("model") == "MV-DUSt3R+"))
    height, width = config["img_size"]
    return NetworkConfig(
        image_hw=(height, width),
        patch_size=config["patch_size"],
        enc_dim=config["enc_embed_dim"],
        enc_depth=config["enc_depth"],
        enc_heads=config["enc_num_heads"],
        dec_dim=config["dec_embed_dim"],
        dec_depth=config["dec_depth"],
        dec_heads=config["dec_num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        rope_base=config.get("rope_base", 100.0),
        cross_reference=cross_reference,
        n_ref=config.get("n_ref") or 1,
        skip_dim=config["skip_dim"],
        gs_mlp_dim=config["gs_mlp_dim"],
    )


def case_network(case: Path, config: dict[str, Any]) -> Network:
    """Build the network of a case, with weights from the file or from the rule."""
    weights = case / "state_dict.safetensors"
    if weights.is_file():
        state, _ = read_tensors(weights)
    elif "keys" in config:
        seed = config["weight_seed"]
        state = {k: torch.from_numpy(rule_tensor(seed, k, r)) for k, r in config["keys"].items()}
    else:
        raise GoldenError(f"{case} has neither {weights.name} nor a rule for its weights")
    return network_from_state(case_config(config), state, str(case))


def case_images(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Return (B, V, 3, H, W) float32 in [-1, 1]."""
    if "images" in arrays:
        return arrays["images"].astype(np.float32)
    return arrays["images_u8"].astype(np.float32) / np.float32(127.5) - np.float32(1)


def subsample(
    outputs: dict[str, npt.NDArray[Any]], rule: dict[str, Any] | None
) -> dict[str, npt.NDArray[Any]]:
    """Keep every `stride`-th pixel and a few tokens, if a case stores no more."""
    if not rule:
        return outputs
    pick = slice(rule["offset"], None, rule["stride"])
    tokens = rule["token_indices"]
    return {
        f"{name}_sub" if name.endswith("tokens") else name: (
            value[:, :, tokens] if name.endswith("tokens") else value[:, :, pick, pick]
        )
        for name, value in outputs.items()
    }


def compare(
    value: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    name: str,
    config: dict[str, Any],
    dtype: str,
) -> float:
    """Return the largest error in units of the tolerance; inf if not finite or of wrong shape."""
    if value.shape != expected.shape or not np.isfinite(value).all():
        return float("inf")
    a, b = value.astype(np.float64), expected.astype(np.float64)
    if dtype == "bf16":
        return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) / BF16_RELATIVE)
    stored = config.get("tolerance", {})
    atol = stored.get("atol", FP32_ATOL).get(name, FP32_ATOL[name])
    return float(np.max(np.abs(a - b) / (atol + stored.get("rtol", FP32_RTOL) * np.abs(b))))


def _torch_outputs(
    network: Network, images: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    batch, views = images.shape[:2]
    order = slot_order(network.config.n_ref, views)
    pixels = torch.from_numpy(images)
    with torch.inference_mode():
        raw = network.encoder_tokens(pixels.flatten(0, 1))
        tokens = network.decoder_embed(raw).float().view(batch, views, -1, network.config.dec_dim)
        decoded = network.decode(tokens, order)
        maps = network.point_maps(decoded, pixels, order)
        rows = {"pts3d": maps.points, "conf": maps.conf, "dec_tokens": decoded}
        if network.downstream_GS_head is not None:
            rows |= network.gaussians(decoded)._asdict()
    outputs = {name: value.flatten(0, 1).numpy() for name, value in rows.items()}
    return outputs | {"enc_tokens": raw.view(batch, views, *raw.shape[1:]).float().numpy()}


def _onnx_outputs(
    network: Network, images: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """Run items one after the other, because the exported graphs have no batch axis."""
    from mvdust3r_ros.engines.export import ExportOptions, export_engine
    from mvdust3r_ros.engines.onnx_engine import OnnxEngine

    order = slot_order(network.config.n_ref, images.shape[1]).numpy()
    with tempfile.TemporaryDirectory() as folder:
        export_engine(network, Path(folder), ExportOptions(all_outputs=True))
        engine = OnnxEngine(Path(folder))
        items = list(_onnx_items(engine, images, order, network.config.skip_dim > 0))
        engine.close()
    names = [n for n in items[0] if n != "enc_tokens"]
    outputs = {name: np.concatenate([item[name] for item in items]) for name in names}
    return outputs | {"enc_tokens": np.stack([item["enc_tokens"] for item in items])}


def _onnx_items(
    engine: Any, images: npt.NDArray[np.float32], order: npt.NDArray[np.int64], skip: bool
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    for item in images:
        encoded = engine.run_encoder({"images": item})
        inputs = {"tokens": encoded["tokens"], "order": order}
        if skip:
            inputs["images"] = item
        decoded = engine.run_decoder(inputs)
        decoded["enc_tokens"] = encoded["enc_tokens"]
        rows = np.arange(len(order))[:, None]
        for view_ordered, name in (("points", "pts3d"), ("conf", "conf")):
            decoded[name] = decoded.pop(view_ordered)[rows, order]
        yield decoded
