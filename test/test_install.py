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

"""What `tools/install` takes over from pip, and what it says while an installer is at work."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def install() -> ModuleType:
    path = str(Path(__file__).parents[1] / "tools" / "install")
    loader = SourceFileLoader("install", path)
    spec = importlib.util.spec_from_loader("install", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(module)
    return module


def test_settings_of_pip_reach_uv_and_the_nearer_ones_win(install: ModuleType) -> None:
    listed = [
        ":env:.find-links='/opt/wheels /opt/more'",
        ":env:.timeout='7'",
        "download.cert='/other.pem'",
        "global.index-url='https://everybody/simple'",
        "global.extra-index-url='\\nhttps://one/simple\\nhttps://two/simple'",
        "global.no-color='true'",
        "global.timeout='60'",
        "install.index-url='https://ours/simple'",
    ]
    assert install.uv_environment(listed) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://ours/simple",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_FIND_LINKS": "/opt/wheels,/opt/more",
        "UV_HTTP_TIMEOUT": "7",
    }


def test_what_is_left_to_download_is_said(install: ModuleType) -> None:
    progress = install.Progress()
    assert str(progress).endswith("s, looking for what fits together")
    for line in ("Resolved 140 packages in 6.34s", "Downloading scipy (100.0MiB)",
                 "Downloading numpy (10.0MiB)", "   Building empy==4.2.1"):  # fmt: skip
        progress.read(line)
    assert str(progress).endswith(
        "s, downloading: 0 of 115 MB; to come: scipy (105 MB), numpy (10 MB)"
    )
    progress.read(" Downloaded scipy")
    assert str(progress).endswith("s, downloading: 105 of 115 MB; to come: numpy (10 MB)")
    progress.read(" Downloaded numpy")
    assert str(progress).endswith("s, unpacking: 115 of 115 MB")
    progress.read("Prepared 82 packages in 9.09s")
    assert str(progress).endswith("s, unpacking: 115 of 115 MB")


def test_pip_is_understood_too(install: ModuleType) -> None:
    progress = install.Progress()
    progress.read("Collecting onnxruntime>=1.17")
    progress.read("  Downloading onnxruntime-1.32.0-cp311-manylinux_2_28_x86_64.whl (27.8 MB)")
    progress.read("  Downloading empy-4.2.1.tar.gz (174 kB)")
    assert str(progress).endswith("s, downloading: 28 of 28 MB")
    progress.read("Installing collected packages: empy, onnxruntime")
    assert "unpacking" in str(progress)


@pytest.mark.slow
def test_an_installer_is_heard_and_its_failure_shown(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    monkeypatch.setattr(install, "EVERY_S", 0.2)
    code = "import time; print('Downloading torch (191.0MiB)', flush=True); time.sleep(1)"
    assert install.run([sys.executable, "-c", code], {}) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) >= 3  # while nothing comes, too
    assert said[-2].endswith("downloading: 0 of 200 MB; to come: torch (200 MB)")
    code = "import sys; print('No matching distribution'); sys.exit(3)"
    assert install.run([sys.executable, "-c", code], {}) == 3
    assert "No matching distribution" in capsys.readouterr().err
    assert "torch" in (tmp_path / "install.log").read_text()
