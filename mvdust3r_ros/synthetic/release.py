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

"""Convert a training run into the engine folder that ships with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mvdust3r_ros.engines.export import ExportOptions, export_engine
from mvdust3r_ros.model.config import config_from_dict
from mvdust3r_ros.model.weights import network_from_state
from mvdust3r_ros.synthetic.train_config import TrainConfig, TrainError

LICENCE = "Apache-2.0"
USUAL_VIEWS = 8
"""Keyframes in a default window: the released error is that of such windows."""
CROSS_REFERENCE = "dec_same_view_blocks."


def release_run(config: TrainConfig, out: Path, metrics: Path | None = None) -> Path:
    """Export the averaged weights of a run to an engine folder, with matrices in half precision.

    A network trained with one reference is exported without its cross-reference blocks, which
    still have their initial weights; for others, the engine's default is their number of
    references.

    Args:
        config: configuration of the run.
        out: engine folder to create.
        metrics: results.json of `evaluate rooms`, whose summaries go into the manifest.

    Returns:
        The folder.

    Raises:
        TrainError: the run has no checkpoint, or the metrics do not exist.
    """
    state = _read(Path(config.run) / "checkpoint.pt")
    joined = config.n_ref > 1
    sizes = config_from_dict(state["config"])
    sizes = replace(sizes, n_ref=config.n_ref, cross_reference=joined)
    weights = {
        name: value
        for name, value in state["ema"].items()
        if joined or not name.startswith(CROSS_REFERENCE)
    }
    network = network_from_state(sizes, weights, config.run)
    info: dict[str, Any] = {
        "data": "synthetic rooms of this package, no other data",
        "training_seed": config.seed,
        "steps": state["step"],
        "views_seen": state["views_seen"],
        "hours": round(state["seconds"] / 3600, 2),
    }
    rel_error = 0.0
    if metrics is not None:
        info["metrics"] = _summaries(metrics)
        rel_error = _rel_error(info["metrics"], "MVD+" if joined else "MVD")
    options = ExportOptions(
        name="room",
        licence=LICENCE,
        store_fp16=True,
        metric=config.targets == "metric",
        rel_error=rel_error,
        info=info,
    )
    return export_engine(network, out, options)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrainError(f"no checkpoint at {path}: has the run begun?")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _rel_error(metrics: Mapping[str, Any], name: str) -> float:
    """Return mean error over mean distance at the usual number of views, without any fit."""
    views = min(metrics, key=lambda count: abs(int(count) - USUAL_VIEWS))
    return float(metrics[views][name]["nd_metric"])


def _summaries(path: Path) -> dict[str, Any]:
    """Return views -> predictor -> summary, rounded."""
    try:
        views = json.loads(path.read_text())["views"]
    except (OSError, ValueError, KeyError) as error:
        raise TrainError(f"no metrics in {path}: {error}") from None
    return {
        count: {
            name: {key: round(value, 4) for key, value in row["summary"].items()}
            for name, row in rows.items()
        }
        for count, rows in views.items()
    }
