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

"""The loop of a training run that goes on from its last checkpoint."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvdust3r_ros.synthetic.train_config import LOG_EVERY

SAVE_EVERY = 50
"""Steps: what is lost at most where a run is killed."""
Report = Callable[[dict[str, float]], None]
"""Called with each point of the learning curve."""


class ResumableRun(ABC):
    """A run in a folder: its steps, its learning curve, its checkpoint.

    Attributes:
        folder: of the run; made when missing.
        step: steps that were done.
        seconds: time that they took.
    """

    def __init__(self, folder: Path, steps: int, measure_minutes: float) -> None:
        """Start at step 0.

        Args:
            folder: of the run.
            steps: to the end.
            measure_minutes: time between measurements on held-out rooms.
        """
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step, self.seconds = 0, 0.0
        self._last_step, self._measure_minutes = steps, measure_minutes

    @property
    def checkpoint(self) -> Path:
        """The file that a run goes on from."""
        return self.folder / "checkpoint.pt"

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """One step down; returns its losses."""

    @abstractmethod
    def save(self) -> None:
        """Write the checkpoint, and what was learnt."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Values on held-out rooms."""

    def run(
        self,
        minutes: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        report: Report = lambda _: None,
    ) -> None:
        """Train to the end, for so long, or until told to stop; what is done is saved.

        Args:
            minutes: 0 for no limit.
            stop: asked after each step.
            report: called with each point of the learning curve.
        """
        begin_s = measured_s = time.monotonic()
        losses: list[dict[str, float]] = []
        while self.step < self._last_step and not stop():
            now_s = time.monotonic()
            if minutes and now_s - begin_s > 60 * minutes:
                break
            losses.append(self.train_step())
            self.seconds += time.monotonic() - now_s
            if self.step % LOG_EVERY == 0:
                mean = {k: float(np.mean([one[k] for one in losses])) for k in losses[0]}
                report(self.log(mean))
                losses = []
            if self.step % SAVE_EVERY == 0:
                self.save()
            if now_s - measured_s > 60 * self._measure_minutes:
                report(self.log(self.measure()))
                measured_s = time.monotonic()
        self.save()
        if not stop():
            report(self.log(self.measure()))

    def log(self, values: dict[str, float]) -> dict[str, float]:
        """Append a point to the learning curve, and return it."""
        point = {"step": self.step, "minutes": round(self.seconds / 60, 1)}
        point |= {k: round(v, 4) for k, v in values.items()}
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(point) + "\n")
        return point

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a state with step and time, all or nothing."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state | {"step": self.step, "seconds": self.seconds}, partial)
        partial.rename(self.checkpoint)
