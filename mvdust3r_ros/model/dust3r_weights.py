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

"""Weights of DUSt3R: the published files and our own, strict in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.dust3r import (
    PairConfig,
    PairNetwork,
    pair_config_from_dict,
    pair_config_to_dict,
)
from mvdust3r_ros.model.weights import (
    PUBLISHED_HEAD_DIM,
    WeightsError,
    check_keys,
    parse_model_string,
    read_published,
    read_tensors,
    write_tensors,
)

PUBLISHED_CALL = "AsymmetricCroCo3DStereo("
"""How the network's call begins in the published files; the name of MV-DUSt3R's goes on."""
HUB_CONFIG = "config.json"
PAIR_LICENCE = "CC-BY-NC-SA-4.0"
PUBLISHED_MODES = {
    "output_mode": "pts3d", "depth_mode": ("exp", -float("inf"), float("inf")),
    "conf_mode": ("exp", 1, float("inf")), "pos_embed": "RoPE100",
}  # fmt: skip
"""What the network computes, whatever its sizes: the same in all published files."""
PAIR_CONFIG = "pair_config"
"""Entry of our own files that tells them from those of MV-DUSt3R."""


@dataclass(frozen=True)
class PairCheckpoint:
    """Weights of the pairwise network with what is known of them.

    Attributes:
        config: the network they belong to.
        state: parameter name -> tensor, without aliases.
        licence: SPDX identifier; empty when unknown.
        model: the call that made the published network; empty when unknown.
    """

    config: PairConfig
    state: dict[str, Tensor]
    licence: str = ""
    model: str = ""


def is_pair_checkpoint(path: Path) -> bool:
    """Whether a file of weights is one of DUSt3R; False when there is none.

    Raises:
        WeightsError: it cannot be read.
    """
    if not path.is_file() or path.suffix not in {".safetensors", ".pth", ".pt"}:
        return False
    if path.suffix == ".safetensors":
        metadata = read_tensors(path)[1]
        return PAIR_CONFIG in metadata or ("config" not in metadata and bool(_hub_settings(path)))
    return read_published(path)[1].startswith(PUBLISHED_CALL)


def read_pair_checkpoint(path: Path) -> PairCheckpoint:
    """Read a published `.pth`, a published `.safetensors` beside its `config.json`, or our own.

    Raises:
        WeightsError: the file is missing, damaged, or of another network.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        state, metadata = read_tensors(path)
        settings = _hub_settings(path)
        if settings and PAIR_CONFIG not in metadata:
            state = pair_state(state)
            return PairCheckpoint(pair_config_from_state(state, settings), state, PAIR_LICENCE)
        if PAIR_CONFIG not in metadata:
            raise WeightsError(f"{path} holds no DUSt3R network: it has no entry {PAIR_CONFIG}")
        try:
            config = pair_config_from_dict(json.loads(metadata[PAIR_CONFIG]))
        except (ValueError, TypeError, NetworkConfigError) as error:
            raise WeightsError(f"{path}: its stored configuration is broken: {error}") from None
        return PairCheckpoint(
            config, pair_state(state), metadata.get("licence", ""), metadata.get("model", "")
        )
    published, text = read_published(path)
    if not text.startswith(PUBLISHED_CALL):
        raise WeightsError(f"{path} holds no DUSt3R network: its model is {text[:60]!r}")
    state = pair_state(published)
    config = pair_config_from_state(state, parse_model_string(text))
    return PairCheckpoint(config, state, PAIR_LICENCE, text)


def _hub_settings(path: Path) -> dict[str, Any]:
    """Arguments of the network in `config.json` beside the weights, as on the Hugging Face hub.

    Empty where there are none.
    """
    try:
        values = json.loads((path.parent / HUB_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict) or "head_type" not in values:
        return {}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def save_pair_checkpoint(path: Path, checkpoint: PairCheckpoint, dtype: str = "fp32") -> None:
    """Write `.safetensors` with configuration and licence inside.

    Args:
        path: file to write.
        checkpoint: what to write.
        dtype: "fp32", "fp16" or "bf16" for all values.
    """
    metadata = {
        PAIR_CONFIG: json.dumps(pair_config_to_dict(checkpoint.config)),
        "licence": checkpoint.licence,
        "model": checkpoint.model,
    }
    write_tensors(path, checkpoint.state, metadata, dtype)


def pair_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters without the second names that the published DPT head gives to some."""
    canonical: dict[str, Tensor] = {}
    for key, value in state.items():
        for level in range(4):
            key = key.replace(f".scratch.layer{level + 1}_rn.", f".scratch.layer_rn.{level}.")
            key = key.replace(
                f".dpt.act_{level + 1}_postprocess.", f".dpt.act_postprocess.{level}."
            )
        canonical[key] = value
    return canonical


def pair_network_from_state(
    config: PairConfig, state: Mapping[str, Tensor], name: str = "weights"
) -> PairNetwork:
    """A network that holds exactly these weights, float32, on the CPU, in evaluation mode.

    Args:
        config: sizes of the network.
        state: parameter name -> tensor, as `pair_state` gives it.
        name: of the file, for error messages.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        network = PairNetwork(config)
    check_keys(network.state_dict(), state, name)
    network.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return network.eval()


def pair_config_from_state(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> PairConfig:
    """The network that weights belong to: sizes from their shapes, the rest from settings.

    Args:
        state: parameter name -> tensor; a size whose key is missing is that of the published ones.
        settings: `img_size`, `enc_num_heads`, `dec_num_heads`, as the published model strings name
            them; without them 224x224 and heads of 64.

    Raises:
        WeightsError: a network that computes something else, or sizes that do not fit together.
    """
    for name, value in PUBLISHED_MODES.items():
        if settings.get(name, value) != value:
            raise WeightsError(f"{name} {settings[name]!r} of these weights; known: {value!r}")
    default = PairConfig()

    def size(key: str, axis: int, otherwise: int) -> int:
        shape = state[key].shape if key in state else ()
        return int(shape[axis]) if len(shape) > axis else otherwise

    def depth(blocks: str) -> int:
        return len({k.split(".")[1] for k in state if k.startswith(f"{blocks}.")})

    enc_dim = size("patch_embed.proj.weight", 0, default.enc_dim)
    dec_dim = size("decoder_embed.weight", 0, default.dec_dim)
    dpt = "downstream_head1.dpt."
    levels = [
        size(f"{dpt}act_postprocess.{level}.0.weight", 0, dim)
        for level, dim in enumerate(default.dpt_levels)
    ]
    image = settings.get("img_size", default.image_hw)
    try:
        height, width = (image, image) if isinstance(image, int) else image
        return PairConfig(
            image_hw=(int(height), int(width)),
            patch_size=size("patch_embed.proj.weight", 2, default.patch_size),
            enc_dim=enc_dim,
            enc_depth=depth("enc_blocks") or default.enc_depth,
            enc_heads=int(settings.get("enc_num_heads", enc_dim // PUBLISHED_HEAD_DIM)),
            dec_dim=dec_dim,
            dec_depth=depth("dec_blocks") or default.dec_depth,
            dec_heads=int(settings.get("dec_num_heads", dec_dim // PUBLISHED_HEAD_DIM)),
            mlp_ratio=size("enc_blocks.0.mlp.fc1.weight", 0, 4 * enc_dim) / enc_dim,
            head="dpt" if any(k.startswith(dpt) for k in state) else "linear",
            dpt_levels=(levels[0], levels[1], levels[2], levels[3]),
            dpt_features=size(f"{dpt}scratch.layer_rn.0.weight", 0, default.dpt_features),
        )
    except (NetworkConfigError, TypeError, ValueError) as error:
        raise WeightsError(f"the sizes of the weights do not fit together: {error}") from None


def describe_pair_checkpoint(checkpoint: PairCheckpoint) -> dict[str, str]:
    """Name -> value of what a person wants to know about weights."""
    c, state = checkpoint.config, checkpoint.state
    dtypes = sorted({str(v.dtype).removeprefix("torch.") for v in state.values()})
    return {
        "network": f"DUSt3R, {c.head} head",
        "image": f"{c.image_hw[1]}x{c.image_hw[0]} pixels, patches of {c.patch_size}",
        "encoder": f"{c.enc_dim} wide, {c.enc_depth} deep, {c.enc_heads} heads",
        "decoder": f"{c.dec_dim} wide, {c.dec_depth} deep, {c.dec_heads} heads",
        "parameters": f"{sum(v.numel() for v in state.values()):,} in {len(state)} tensors",
        "precision": ", ".join(dtypes),
        "licence": checkpoint.licence or "unknown",
    } | ({"model": checkpoint.model} if checkpoint.model else {})
