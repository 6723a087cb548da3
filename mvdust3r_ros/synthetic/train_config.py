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

"""Settings of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mvdust3r_ros.datatypes import MvDust3rError

LOG_EVERY = 25
"""Number of training steps that a log line averages."""


class TrainError(MvDust3rError):
    """A training run cannot start or resume."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run.

    Attributes:
        rooms: folder of shards from `mvdust3r_ros synth rooms`.
        run: folder of the run: checkpoints, log.jsonl, pictures.
        network: settings that differ from the network named "room".
        init: checkpoint with initial weights; empty for random ones.
        seed: seed of weights and data.
        processes: processes on this machine, one thread each on CPU; ignored under torchrun.
        device: "cpu" or "cuda".
        max_steps: last step of the run.
        decay_steps: the learning rate falls linearly over this many steps before the end.
        lr: learning rate after the warm-up.
        last_lr: learning rate at the end, as a fraction.
        warmup_steps: linear rise at the start.
        weight_decay: weight decay of AdamW, on matrices only.
        ema: decay of the averaged weights, which are the result.
        views_per_step: views per step and process; with one reference, drawn view counts divide
            it, so that all steps have the same size.
        curriculum: pairs (step, maximum views in a window from that step on).
        min_views: minimum views once the curriculum allows more than two.
        n_ref: maximum reference paths in a window; 1 trains the single-reference network.
        min_ref: minimum reference paths in a window if `n_ref` is above 1.
        freeze: train only the cross-reference blocks, so that results with one reference do not
            change.
        targets: "metric", or "normalized": points in any scale, without `pose_weight`.
        alpha: weight of the log-confidence.
        match_weight: weight of the patch matching loss.
        attention_weight: weight of the attention loss.
        pose_weight: weight of the loss on each view's similarity to the truth.
        ray_drop: fraction of windows whose intrinsics are withheld.
        middle_reference: fraction of windows whose reference lies in the middle half of the path;
            in the others it is any view.
        compile: compile the step; needs a C++ compiler on a CPU, and half a minute or more for
            each new number of views.
        branch: where to resume if `max_steps` changed after the learning rate had begun to fall:
            "constant" before the fall, "latest" at the current step, with the new rate.
        checkpoint_minutes: time between checkpoints.
        preview_minutes: time between held-out metrics with pictures.
        held_out_seed: first seed of the held-out rooms.
        held_out_rooms: number of held-out rooms.
    """

    rooms: str = "rooms"
    run: str = "run"
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init: str = ""
    seed: int = 0
    processes: int = 2
    device: str = "cpu"
    max_steps: int = 8000
    decay_steps: int = 2500
    lr: float = 1.2e-3
    last_lr: float = 0.02
    warmup_steps: int = 150
    weight_decay: float = 0.03
    ema: float = 0.998
    views_per_step: int = 16
    curriculum: tuple[tuple[int, int], ...] = ((0, 2), (600, 4), (3500, 8), (6000, 12))
    min_views: int = 2
    n_ref: int = 1
    min_ref: int = 2
    freeze: bool = False
    targets: str = "metric"
    alpha: float = 0.2
    match_weight: float = 0.1
    attention_weight: float = 0.1
    pose_weight: float = 0.3
    ray_drop: float = 0.15
    middle_reference: float = 0.5
    compile: bool = False
    branch: str = "constant"
    checkpoint_minutes: float = 3.0
    preview_minutes: float = 8.0
    held_out_seed: int = 9_000_000
    held_out_rooms: int = 24

    def __post_init__(self) -> None:
        if self.max_steps < 1 or not 0 <= self.decay_steps <= self.max_steps:
            raise TrainError(f"decay_steps {self.decay_steps} must lie in [0, {self.max_steps}]")
        if self.n_ref > 1 and not 1 < self.min_ref <= self.n_ref:
            raise TrainError(f"min_ref {self.min_ref} must lie in [2, {self.n_ref}]")
        if self.freeze and self.n_ref == 1:
            raise TrainError("freeze with n_ref 1 leaves nothing to train")
        if self.targets not in ("metric", "normalized"):
            raise TrainError(f"targets {self.targets!r} are neither metric nor normalized")
        if self.targets == "normalized" and self.pose_weight > 0:
            raise TrainError("pose_weight needs metric targets; set it to 0")
        if self.branch not in ("constant", "latest"):
            raise TrainError(f"branch {self.branch!r} is neither constant nor latest")
        if not self.curriculum or self.curriculum[0][0] != 0:
            raise TrainError(f"curriculum {self.curriculum} must start at step 0")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: warm-up, constant, linear decay."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        left = (self.max_steps - step) / max(self.decay_steps, 1)
        return self.lr * warm * max(min(1.0, left), self.last_lr)

    def decaying(self, step: int) -> bool:
        """Whether the learning rate has begun to fall."""
        return step > self.max_steps - self.decay_steps

    def most_views(self, step: int) -> int:
        """Return the maximum number of views in a window at a step."""
        return [views for start, views in self.curriculum if start <= step][-1]


def load_train_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a YAML file of `TrainConfig` fields.

    Args:
        path: the file.
        overrides: values that override the file's.

    Raises:
        TrainError: there is no such file, or a setting is unknown or impossible.
    """
    try:
        values = {**(yaml.safe_load(path.read_text()) or {}), **(overrides or {})}
    except (OSError, yaml.YAMLError) as error:
        raise TrainError(f"cannot read training settings {path}: {error}") from error
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown := sorted(set(values) - known):
        raise TrainError(
            f"{path}: unknown setting {unknown[0]}; known: {', '.join(sorted(known))}"
        )
    if "curriculum" in values:
        values["curriculum"] = tuple((int(s), int(v)) for s, v in values["curriculum"])
    return TrainConfig(**values)
