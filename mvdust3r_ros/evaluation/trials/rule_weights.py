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

"""Weights defined by a counter-based rule, so that a full-size network needs no file.

Value i of a parameter depends only on the case's seed, the parameter's name and i: the 64-bit
finaliser of SplitMix64 (Steele et al., 2014), seeded by FNV-1a of "<seed>:<key>".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import MvDust3rError

MADE_AT_ONCE = 1 << 16
"""Number of values computed at once, small enough for the processor's cache."""
_MASK = (1 << 64) - 1
"""64 bits."""
_STEP = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio (SplitMix64)."""
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class RuleError(MvDust3rError):
    """A weight rule is unknown."""


def rule_tensor(seed: int, key: str, rule: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Compute the values of one parameter.

    Args:
        seed: seed of the case.
        key: name of the parameter.
        rule: `shape`, `kind` and the arguments of that kind: "lin" (`mean` + `scale` * x) and
            "exp" (`mean` * exp(`scale` * x)), float32 with x uniform in [-1, 1); "int" (`value`),
            int64.

    Raises:
        RuleError: an unknown kind.
    """
    shape, kind = tuple(rule["shape"]), rule["kind"]
    if kind == "int":
        return np.full(shape, rule["value"], np.int64)
    if kind not in {"lin", "exp"}:
        raise RuleError(f"{key}: unknown kind of weights {kind!r}, expected lin, exp or int")
    mean, scale = np.float32(rule["mean"]), np.float32(rule["scale"])
    values = np.empty(int(np.prod(shape)), np.float32)
    for start in range(0, values.size, MADE_AT_ONCE):
        x = uniform(seed, key, start, min(MADE_AT_ONCE, values.size - start)) * np.float32(
            2
        ) - np.float32(1)
        part = x * scale + mean if kind == "lin" else mean * np.exp(x * scale)
        values[start : start + part.size] = part
    return values.reshape(shape)


def uniform(seed: int, key: str, start: int, count: int) -> npt.NDArray[np.float32]:
    """Return values start .. start + count of a key's uniform numbers in [0, 1), float32."""
    first = (_fnv1a(f"{seed}:{key}") + (start + 1) * _STEP) & _MASK
    z = np.arange(count, dtype=np.uint64)
    z *= np.uint64(_STEP)
    z += np.uint64(first)
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    z >>= np.uint64(40)
    return z.astype(np.float32) * np.float32(2.0**-24)


def _fnv1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return value
