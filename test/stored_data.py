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

"""Where the stored numbers and recordings of the tests are.

Small ones lie in test/data. Full-size ones and recordings are too large for the repository: the
folder that MVDUST3R_TEST_DATA names, without it shared/ beside the checkout. This is the one place
that knows of it; a test that reads from there is marked `more_data` and skipped without.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "MVDUST3R_TEST_DATA"
GOLDEN = Path(__file__).parent / "data" / "golden"
MORE_DATA = Path(os.environ.get(VARIABLE) or Path(__file__).parents[2] / "shared").absolute()
MORE_GOLDEN = MORE_DATA / "golden"
OFFICE = MORE_DATA / "data" / "hololens_office"

HAS_MORE_DATA = (MORE_DATA / "golden").is_dir() and (MORE_DATA / "data").is_dir()
WITHOUT_MORE_DATA = f"needs more data than the repository holds ({VARIABLE})"
needs_more_data = pytest.mark.more_data


def _model_cases() -> list[Any]:
    """Folders of the small cases of the network: those in the repository, then the others."""
    here = ("mvd_v6_48x32_p8", "mvdp_v4_r2_32x48_p16", "mvdp_v4_r2_b2_32x32_p8")
    outside = (
        "mvd_v2_64x64_p16", "mvd_v4_48x64_p16", "mvdp_v4_r2_48x48_p8", "mvdp_v4_r4_32x32_p8",
        "mvdp_v6_r2_32x32_p8", "mvdp_v6_r4_24x32_p8",
    )  # fmt: skip
    return [pytest.param(GOLDEN / "model" / name, id=name) for name in here] + [
        pytest.param(MORE_GOLDEN / "model" / name, id=name, marks=needs_more_data)
        for name in outside
    ]


MODEL_CASES = _model_cases()
