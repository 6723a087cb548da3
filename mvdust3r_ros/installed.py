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

"""Location of the files that come with the package: in the source tree, or installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SOURCE_TREE = Path(__file__).parents[1]


def installed(path: Path) -> Path | None:
    """Find a file of the package.

    Args:
        path: relative to the source tree and to share/mvdust3r_ros, such as config/mapper.yaml.

    Returns:
        The first match; None if it is not installed.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    shares = [Path(p) / "share" / "mvdust3r_ros" for p in prefixes if p]
    return next((root / path for root in (SOURCE_TREE, *shares) if (root / path).exists()), None)
