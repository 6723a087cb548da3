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

"""Weights: the published `.pth` files and our own `.safetensors`, strict in both directions."""

from __future__ import annotations

import argparse
import ast
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.model.config import (
    NAMED_CONFIGS,
    NetworkConfig,
    NetworkConfigError,
    config_from_dict,
    config_to_dict,
)
from mvdust3r_ros.model.network import Network

PUBLISHED_REPOSITORY = "Zhenggang/MV-DUSt3R"
PUBLISHED_FILES = {
    "mvd": "checkpoints/MVD.pth",
    "mvdp_s1": "checkpoints/MVDp_s1.pth",
    "mvdp_s2": "checkpoints/MVDp_s2.pth",
}
PUBLISHED_LICENCE = "CC-BY-NC-4.0"
PUBLISHED_HEAD_DIM = 64
"""Head size of DUSt3R's encoder (1024 values, 16 heads) and decoder (768, 12)."""
FORMAT = "mvdust3r_ros 1"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class WeightsError(MvDust3rError):
    """A weights file cannot be read or does not match the network."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights with their metadata.

    Attributes:
        config: the network they belong to.
        state: parameter name -> tensor.
        licence: SPDX identifier; empty if unknown.
        info: any other stored metadata.
    """

    config: NetworkConfig
    state: dict[str, Tensor]
    licence: str = ""
    info: dict[str, Any] = field(default_factory=dict)


def load_network(path: Path) -> Network:
    """Load a network with the weights of a file, float32, on the CPU, in evaluation mode.

    Raises:
        WeightsError: see `read_checkpoint` and `network_from_state`.
    """
    checkpoint = read_checkpoint(path)
    return network_from_state(checkpoint.config, checkpoint.state, str(path))


def network_from_state(
    config: NetworkConfig, state: Mapping[str, Tensor], name: str = "weights"
) -> Network:
    """Build a network with exactly these weights, without allocating others first.

    Args:
        config: sizes of the network.
        state: parameter name -> tensor; half precision becomes float32.
        name: name of the file, for error messages.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        network = Network(config)
    check_keys(network.state_dict(), state, name)
    full = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    network.load_state_dict(full, assign=True)
    network.make_tables()
    return network.eval()


def check_keys(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> None:
    """Raise WeightsError with the first keys that are missing, unexpected or of another shape."""
    problems = []
    for word, keys in (
        ("missing", [k for k in expected if k not in state]),
        ("unexpected", [k for k in state if k not in expected]),
    ):
        if keys:
            problems.append(f"{len(keys)} {word} keys, first {', '.join(keys[:3])}")
    wrong = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    if wrong:
        key = wrong[0]
        problems.append(
            f"{len(wrong)} keys of another shape, first {key}: {tuple(state[key].shape)} instead "
            f"of {tuple(expected[key].shape)}"
        )
    if problems:
        raise WeightsError(f"{name} does not fit the network: {'; '.join(problems)}")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a published `.pth` or one of our `.safetensors`.

    Raises:
        WeightsError: the file is missing, truncated, of another kind, or contains forbidden
            objects.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; `mvdust3r_ros weights download` fetches some")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".pth", ".pt"}:
        return _read_published(path)
    raise WeightsError(f"{path}: unknown kind of weights, expected .pth or .safetensors")


def save_checkpoint(path: Path, checkpoint: Checkpoint, dtype: str = "fp32") -> None:
    """Write `.safetensors` with the configuration and licence inside.

    Args:
        path: file to write.
        checkpoint: weights and metadata to write.
        dtype: "fp32", "fp16" or "bf16" for all floating point values.
    """
    metadata = {
        "config": json.dumps(config_to_dict(checkpoint.config)),
        "licence": checkpoint.licence,
        "info": json.dumps(checkpoint.info),
    }
    write_tensors(path, checkpoint.state, metadata, dtype)


def write_tensors(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: str = "fp32"
) -> None:
    """Write a `.safetensors` file.

    Args:
        path: file to write; its folder is made when missing.
        state: tensors by name.
        metadata: texts by name, beside the format.
        dtype: "fp32", "fp16" or "bf16" for all floating point values.
    """
    from safetensors.torch import save_file

    kept = {
        k: (v.to(DTYPES[dtype]) if v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, path, {"format": FORMAT, **metadata})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a `.safetensors` file.

    Raises:
        WeightsError: the file is truncated or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is truncated or no safetensors file: {error}") from None


def _read_safetensors(path: Path) -> Checkpoint:
    state, metadata = read_tensors(path)
    if "config" not in metadata:
        return Checkpoint(config_from_state(state, {}), state)
    try:
        config = config_from_dict(json.loads(metadata["config"]))
        info = json.loads(metadata.get("info", "{}"))
    except (ValueError, NetworkConfigError) as error:
        raise WeightsError(f"{path}: its stored configuration is broken: {error}") from None
    return Checkpoint(config, state, metadata.get("licence", ""), info)


def _read_published(path: Path) -> Checkpoint:
    state, text = read_published(path)
    settings = parse_model_string(text) if text else {}
    return Checkpoint(
        config_from_state(state, settings), state, PUBLISHED_LICENCE, {"model": text}
    )


def read_published(path: Path) -> tuple[dict[str, Tensor], str]:
    """State dict of a published `.pth`, and the call that made its model, as text.

    They are its entries `model` and `args`, a namespace with a `model` of its own.

    Raises:
        WeightsError: the file is truncated, of another kind, or holds objects that are not allowed
            in it.
    """
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is truncated or no PyTorch checkpoint; download it again")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error))
        raise WeightsError(
            f"{path} holds objects that are not weights, refused: {reason}"
        ) from None
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is truncated or damaged: {error}") from None
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} has no entry `model` with tensors; is it a published file?")
    text = getattr(content.get("args"), "model", "")
    return dict(state), text if isinstance(text, str) else ""


def parse_model_string(text: str) -> dict[str, Any]:
    """Parse the keyword arguments of a call written as text; nothing is evaluated.

    Args:
        text: such as "Name(img_size=(224, 224), m_ref_flag=True, depth_mode=('exp', -inf, inf))".

    Raises:
        WeightsError: the text is not a single call with literal keyword arguments.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("not a call with keyword arguments")
        return {str(k.arg): _literal(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WeightsError(f"cannot read the model string {text[:120]!r}: {error}") from None


def _literal(node: ast.expr) -> Any:
    """Parse a constant, `inf`, a signed number, or a tuple, list or dictionary of these."""
    if isinstance(node, ast.Name) and node.id in {"inf", "nan"}:
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, (int, float)):
            return -value
    if isinstance(node, ast.Tuple):
        return tuple(_literal(n) for n in node.elts)
    if isinstance(node, ast.List):
        return [_literal(n) for n in node.elts]
    if isinstance(node, ast.Dict) and all(node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {_literal(k): _literal(v) for k, v in pairs if k is not None}
    if isinstance(node, ast.Constant):
        return node.value
    raise ValueError(f"{ast.unparse(node)!r} is not a literal")


def config_from_state(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> NetworkConfig:
    """Derive the network that weights belong to: sizes from their shapes, the rest from settings.

    Args:
        state: parameter name -> tensor; sizes whose key is missing are those of MV-DUSt3R+.
        settings: `img_size`, `enc_num_heads`, `dec_num_heads`, `n_ref`, as in the published model
            strings; by default 224x224, heads of 64 and the published n_ref.

    Raises:
        WeightsError: the sizes are inconsistent.
    """
    default = NAMED_CONFIGS["mvdp"]

    def size(key: str, axis: int, otherwise: int) -> int:
        shape = state[key].shape if key in state else ()
        return int(shape[axis]) if len(shape) > axis else otherwise

    enc_dim = size("patch_embed.proj.weight", 0, default.enc_dim)
    dec_dim = size("decoder_embed.weight", 0, default.dec_dim)
    cross_reference = any(k.startswith("dec_same_view_blocks.") for k in state)
    image = settings.get("img_size", default.image_hw)
    height, width = (image, image) if isinstance(image, int) else tuple(image)
    try:
        return NetworkConfig(
            image_hw=(int(height), int(width)),
            patch_size=size("patch_embed.proj.weight", 2, default.patch_size),
            enc_dim=enc_dim,
            enc_depth=_depth(state, "enc_blocks") or default.enc_depth,
            enc_heads=int(settings.get("enc_num_heads", enc_dim // PUBLISHED_HEAD_DIM)),
            dec_dim=dec_dim,
            dec_depth=_depth(state, "dec_blocks") or default.dec_depth,
            dec_heads=int(settings.get("dec_num_heads", dec_dim // PUBLISHED_HEAD_DIM)),
            mlp_ratio=size("enc_blocks.0.mlp.fc1.weight", 0, 4 * enc_dim) / enc_dim,
            cross_reference=cross_reference,
            n_ref=int(settings.get("n_ref") or default.n_ref) if cross_reference else 1,
            skip_dim=size("downstream_head1.skip_proj.0.conv.weight", 0, 0),
            gs_mlp_dim=size("downstream_GS_head.0.mlp_rgb.0.weight", 0, 0),
            mask_token="mask_token" in state,
            ray_embed="ray_embed.weight" in state,
            pos_embed="pos_embed" in state,
        )
    except (NetworkConfigError, TypeError, ValueError) as error:
        raise WeightsError(f"the sizes of the weights do not fit together: {error}") from None


def _depth(state: Mapping[str, Tensor], blocks: str) -> int:
    numbers = [k.split(".")[1] for k in state if k.startswith(f"{blocks}.")]
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, str]:
    """Return name -> value of the main facts about weights, for people."""
    c, state = checkpoint.config, checkpoint.state
    dtypes = sorted({str(v.dtype).removeprefix("torch.") for v in state.values()})
    count = sum(math.prod(v.shape) for k, v in state.items() if "running_" not in k)
    return {
        "network": "MV-DUSt3R+" if c.cross_reference else "MV-DUSt3R",
        "image": f"{c.image_hw[1]}x{c.image_hw[0]} pixels, patches of {c.patch_size}",
        "encoder": f"{c.enc_dim} wide, {c.enc_depth} deep, {c.enc_heads} heads",
        "decoder": f"{c.dec_dim} wide, {c.dec_depth} deep, {c.dec_heads} heads",
        "reference paths": str(c.n_ref),
        "parameters": f"{count:,} in {len(state)} tensors",
        "precision": ", ".join(dtypes),
        "licence": checkpoint.licence or "unknown",
    } | {str(k): str(v) for k, v in checkpoint.info.items() if v}


def download_published(name: str, folder: Path) -> Path:
    """Download one of the authors' files; they are under CC BY-NC 4.0, so ask for consent first.

    Args:
        name: a key of `PUBLISHED_FILES`.
        folder: target folder.

    Returns:
        The file.

    Raises:
        WeightsError: an unknown name, huggingface_hub is missing, or the transfer failed.
    """
    if name not in PUBLISHED_FILES:
        raise WeightsError(f"no published weights {name!r}; known: {', '.join(PUBLISHED_FILES)}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise WeightsError(
            "the download needs huggingface_hub: pip install 'mvdust3r_ros[weights]'"
        ) from None
    try:
        path = hf_hub_download(PUBLISHED_REPOSITORY, PUBLISHED_FILES[name], local_dir=folder)
    except Exception as error:  # noqa: BLE001 the client raises errors of many libraries
        raise WeightsError(
            f"cannot fetch {PUBLISHED_FILES[name]} of {PUBLISHED_REPOSITORY}: {error}"
        ) from None
    return Path(path)
