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

"""Weights of Spann3R: the published files and our own, strict in both directions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.dust3r import PairConfig, pair_config_from_dict, pair_config_to_dict
from mvdust3r_ros.model.dust3r_weights import PAIR_LICENCE, pair_config_from_state, pair_state
from mvdust3r_ros.model.spann3r import (
    SpannConfig,
    SpannNetwork,
    spann_config_from_dict,
    spann_config_to_dict,
)
from mvdust3r_ros.model.weights import (
    PUBLISHED_HEAD_DIM,
    Checkpoint,
    WeightsError,
    check_keys,
    parse_model_string,
    read_published,
    read_tensors,
    write_tensors,
)

SPANN_CONFIG = "spann_config"
"""Entry of our own files that tells them from those of the other networks."""
PAIR = "dust3r."
"""How the parameters of the pairwise network begin."""
MARK = "value_norm.weight"
"""A parameter that no other published network has."""
PUBLISHED_CHOICES = {"use_feat": False, "mem_pos_enc": False}
"""Of both published networks: values come from pointmaps, without a position of their tokens."""
PUBLISHED_SIDE = 224
"""Pixels; the network was trained with this size, though on DUSt3R's weights of 512."""
UP, DOWN = ".up", ".down"
"""Factors of low rank, whose product is added to the matrix of this name."""


@dataclass(frozen=True)
class SpannCheckpoint:
    """Weights with what is known of them.

    Attributes:
        config: the network they belong to.
        state: parameter name -> tensor, without aliases. On top of a base, only what differs from
            it: whole parameters, or factors of low rank.
        licence: SPDX identifier; empty when unknown.
        info: any other stored metadata.
    """

    config: SpannConfig
    state: dict[str, Tensor]
    licence: str = ""
    info: dict[str, Any] = field(default_factory=dict)


def is_spann_checkpoint(path: Path) -> bool:
    """Whether a file of weights is one of Spann3R; False when there is none.

    Raises:
        WeightsError: it cannot be read.
    """
    if path.suffix == ".safetensors":
        return path.is_file() and SPANN_CONFIG in read_tensors(path)[1]
    return path.is_file() and path.suffix in {".pth", ".pt"} and MARK in read_published(path)[0]


def read_spann_checkpoint(path: Path) -> SpannCheckpoint:
    """Read a published `.pth`, or our own `.safetensors`.

    Raises:
        WeightsError: the file is missing, damaged, or of another network.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        state, metadata = read_tensors(path)
        if SPANN_CONFIG not in metadata:
            raise WeightsError(f"{path} holds no Spann3R network: it has no entry {SPANN_CONFIG}")
        try:
            config = spann_config_from_dict(json.loads(metadata[SPANN_CONFIG]))
            info = json.loads(metadata.get("info", "{}"))
        except (ValueError, TypeError, NetworkConfigError) as error:
            raise WeightsError(f"{path}: its stored configuration is broken: {error}") from None
        return SpannCheckpoint(config, state, metadata.get("licence", ""), info)
    published, text = read_published(path)
    if MARK not in published:
        raise WeightsError(f"{path} holds no Spann3R network: it has no {MARK}")
    settings = parse_model_string(text) if text else {}
    for name, value in PUBLISHED_CHOICES.items():
        if settings.get(name, value) != value:
            raise WeightsError(f"{name} {settings[name]!r} of {path}; known: {value!r}")
    state = pair_state(published)
    info = {"model": text} if text else {}
    return SpannCheckpoint(spann_config_from_state(state), state, PAIR_LICENCE, info)


def spann_config_from_state(state: Mapping[str, Tensor]) -> SpannConfig:
    """The network that published weights belong to, sizes from their shapes.

    Raises:
        WeightsError: sizes that do not fit together.
    """
    pair = {k.removeprefix(PAIR): v for k, v in state.items() if k.startswith(PAIR)}
    config = pair_config_from_state(pair, {"img_size": PUBLISHED_SIDE})
    depth = len({k.split(".")[1] for k in state if k.startswith("value_encoder.")})
    try:
        return SpannConfig(config, depth, max(1, config.enc_dim // PUBLISHED_HEAD_DIM))
    except NetworkConfigError as error:
        raise WeightsError(f"the sizes of the weights do not fit together: {error}") from None


def save_spann_checkpoint(path: Path, checkpoint: SpannCheckpoint, dtype: str = "fp32") -> None:
    """Write `.safetensors` with configuration and licence inside.

    Args:
        path: file to write.
        checkpoint: what to write.
        dtype: "fp32", "fp16" or "bf16" for all values.
    """
    metadata = {
        SPANN_CONFIG: json.dumps(spann_config_to_dict(checkpoint.config)),
        "licence": checkpoint.licence,
        "info": json.dumps(checkpoint.info),
    }
    write_tensors(path, checkpoint.state, metadata, dtype)


def spann_network_from_state(
    config: SpannConfig, state: Mapping[str, Tensor], name: str = "weights"
) -> SpannNetwork:
    """A network that holds exactly these weights, float32, on the CPU, in evaluation mode.

    Args:
        config: sizes of the network.
        state: parameter name -> tensor, complete; see `on_top_of` for those that are not.
        name: of the file, for error messages.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        network = SpannNetwork(config)
    check_keys(network.state_dict(), state, name)
    network.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return network.eval()


def on_top_of(base: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights, from those of the pairwise network and what differs.

    Args:
        base: parameters of the pairwise network, from `pair_of_network`.
        change: parameters of the whole one, which replace those of the base, or factors of low
            rank, whose product is added to them.

    Raises:
        WeightsError: a factor without its other one, or without its matrix.
    """
    state = {PAIR + k: v.float() for k, v in base.items()}
    for key, value in change.items():
        if key.endswith(UP):
            name = key.removesuffix(UP)
            down = change.get(name + DOWN)
            if down is None or name not in state:
                raise WeightsError(f"{key} belongs to no matrix of the base")
            state[name] = state[name] + value.float() @ down.float()
        elif not key.endswith(DOWN):
            state[key] = value.float()
    return state


def pair_of_network(checkpoint: Checkpoint) -> tuple[PairConfig, dict[str, Tensor]]:
    """The pairwise network that MV-DUSt3R is with two views.

    Raises:
        WeightsError: its heads read the images again, which no pairwise network does.
    """
    if checkpoint.config.skip_dim:
        raise WeightsError("a network with a skip branch is no pairwise one")
    values = dataclasses.asdict(checkpoint.config)
    known = pair_config_to_dict(PairConfig())
    config = pair_config_from_dict({k: v for k, v in values.items() if k in known})
    left_out = ("dec_same_view_blocks.", "downstream_GS_head.")
    state = {k: v for k, v in checkpoint.state.items() if not k.startswith(left_out)}
    state.setdefault("mask_token", torch.zeros(1, 1, config.dec_dim))
    return config, state


def describe_spann_checkpoint(checkpoint: SpannCheckpoint) -> dict[str, str]:
    """Name -> value of what a person wants to know about weights."""
    c, state = checkpoint.config.pair, checkpoint.state
    dtypes = sorted({str(v.dtype).removeprefix("torch.") for v in state.values()})
    return {
        "network": f"Spann3R, {c.head} head",
        "image": f"{c.image_hw[1]}x{c.image_hw[0]} pixels, patches of {c.patch_size}",
        "encoder": f"{c.enc_dim} wide, {c.enc_depth} deep, {c.enc_heads} heads",
        "decoder": f"{c.dec_dim} wide, {c.dec_depth} deep, {c.dec_heads} heads",
        "parameters": f"{sum(v.numel() for v in state.values()):,} in {len(state)} tensors",
        "precision": ", ".join(dtypes),
        "licence": checkpoint.licence or "unknown",
    } | {str(k): str(v) for k, v in checkpoint.info.items() if v}
