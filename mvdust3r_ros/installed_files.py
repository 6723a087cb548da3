"""Where the files lie that are installed beside the Python package: models, the demo's room."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def find_installed(name: Path) -> Path | None:
    """A file of the source tree or of a share folder of an installation; None if it is nowhere.

    Args:
        name: relative to the top of the source tree, for example models/room/manifest.yaml.
    """
    source_tree = Path(__file__).parents[1]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    shares = [Path(p) / "share" / "mvdust3r_ros" for p in prefixes if p]
    return next((root / name for root in (source_tree, *shares) if (root / name).is_file()), None)
