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

"""Map a bag: cloud, occupancy grid and camera path in a folder.

python examples/bag_to_map.py demo/room/bag out
"""

import sys
from pathlib import Path

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.drawing.map_files import save_map
from mvdust3r_ros.engines.create import create_engine
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.bag import read_frames


def main(bag: Path, out: Path) -> None:
    """Map `bag` with the default engine and save the map in `out`."""
    engine = create_engine()
    mapper = Mapper(MapperConfig(), engine)
    for frame in read_frames(bag):
        update = mapper.process(frame)
        if update is not None:
            print(f"window {update.window.index}: {update.verdict.name} {update.message}")
    mapper.finish()
    engine.close()
    for path in save_map(mapper.snapshot(), out, "map"):
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
