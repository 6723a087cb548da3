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

"""Nothing is unpickled at run time; plans come from named folders; the audit says what it did."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvdust3r_ros.engines import create
from mvdust3r_ros.engines.base import EngineError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mvdust3r_ros"
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
# What has to be said for a loader to be harmless.
SAFE = {
    "np.load": ("allow_pickle", "False"),
    "torch.load": ("weights_only", "True"),
    "yaml.load": ("Loader", "_PlainLoader"),
}


def faults(source: str) -> Iterator[str]:
    """What a source does that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            yield f"line {node.lineno}: from {node.module}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            reached = (node.value.id in UNPICKLERS, node.attr == "UnpicklingError")
            if reached == (True, False):
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            said = {(k.arg, ast.unparse(k.value)) for k in node.keywords}
            bad = name in ("eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load")
            if bad or ("shell", "True") in said or (name in SAFE and SAFE[name] not in said):
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.slow
def test_no_source_can_run_what_it_reads() -> None:
    found = {str(p): list(faults(p.read_text())) for p in PACKAGE.rglob("*.py")}
    assert len(found) > 50
    assert {p: f for p, f in found.items() if f} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle\npickle.loads(b'')", "from pickle import loads", "np.load(p)", "eval('1')",
     "torch.load(p, weights_only=False)", "yaml.load(t, Loader=yaml.Loader)",
     "subprocess.run('ls', shell=True)"],
)  # fmt: skip
def test_a_source_that_could_is_noticed(source: str) -> None:
    assert list(faults(source))


RUN = """
import sys
def refuse(event, args):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickled {args}")
from pathlib import Path
from mvdust3r_ros.config import KeyframeSettings, MapperConfig
from mvdust3r_ros.engines.create import create_engine
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.drawing.map_files import save_map
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.atlas.session_file import read_session, session_bytes
from mvdust3r_ros.synthetic.sequence import synthetic_frames
sys.addaudithook(refuse)
import pickle
try:
    pickle.loads(pickle.dumps(Path))
except RuntimeError:
    pass
else:
    sys.exit("the hook does not work")
config = MapperConfig(keyframes=KeyframeSettings(
    window_size=3, window_overlap=1, max_interval_s=0.1
))
frames = list(synthetic_frames(0, 8, (60, 80)))
with_network = Mapper(config, create_engine())
windows = sum(with_network.process(frame) is not None for frame in frames)
mapper = Mapper(config, OracleEngine())
for frame in frames:
    mapper.process(frame)
stored = session_bytes(mapper.saved()[1])
Path("map.npz").write_bytes(stored)
Mapper(config, OracleEngine()).restore(read_session(Path("map.npz")))
save_map(mapper.snapshot(), Path("maps"), "map", {"npz": stored})
print("windows", windows)
"""


@pytest.mark.slow
def test_a_mapper_at_work_unpickles_nothing(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 1


def test_plans_are_loaded_from_a_named_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = create.default_engine_folder()
    shutil.copy(default / "manifest.yaml", tmp_path)
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("backend: mvs", "backend: tensorrt"))
    monkeypatch.setattr(create, "default_engine_folder", lambda: tmp_path)
    with pytest.raises(EngineError, match="can carry code: they are loaded only from a folder"):
        create.create_engine()


def test_an_audit_that_cannot_ask_says_so_and_fails_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "audit")],
        capture_output=True, text=True, timeout=60, env={"PATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[audit] SKIPPED: pip-audit is not installed\n")
