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

"""The report in a real browser: plots are drawn, nothing complains, nothing is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mvdust3r_ros.cli import main
from room_bag import RoomBag

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]
SOFTWARE_GL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
TIMEOUT_MS = 120_000


@dataclass
class Visit:
    """A page and what it said and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def open_page() -> Iterator[Callable[..., Visit]]:
    with sync_api.sync_playwright() as playwright:
        browsers: dict[bool, Any] = {}

        def visit(file: Path, width: int = 1280, *, gl: bool = True) -> Visit:
            if gl not in browsers:
                words = SOFTWARE_GL if gl else ["--disable-gpu", "--disable-3d-apis"]
                browsers[gl] = playwright.chromium.launch(
                    executable_path=BROWSER, args=["--no-sandbox", *words]
                )
            made = Visit(browsers[gl].new_page(viewport={"width": width, "height": 850}))
            made.page.set_default_timeout(TIMEOUT_MS)
            made.page.on(
                "console",
                lambda m: made.complaints.append(m.text) if m.type == "error" else None,
            )
            made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
            made.page.on("request", lambda request: made.requests.append(request.url))
            made.page.goto(file.as_uri())
            made.page.wait_for_function(
                "!document.getElementById('viewer')"
                " || document.getElementById('viewer').dataset.state !== 'loading'"
            )
            return made

        yield visit
        for browser in browsers.values():
            browser.close()


@pytest.fixture
def report(oracle_report: Path) -> Path:
    return oracle_report / "report.html"


@pytest.fixture(scope="module")
def comparison(
    oracle_report: Path, other_report: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    page = tmp_path_factory.mktemp("comparison") / "compare.html"
    assert main(["compare", str(oracle_report), str(other_report), "--out", str(page)]) == 0
    return page


PLOTS = """() => [...document.querySelectorAll('.card svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  return [box.width, box.height, svg.querySelectorAll('path, image, use').length];
})"""


@pytest.mark.parametrize("width", [1280, 390])
def test_plots_are_drawn_and_nothing_is_fetched(
    report: Path, open_page: Callable[..., Visit], width: int
) -> None:
    visit = open_page(report, width)
    plots = visit.page.evaluate(PLOTS)
    assert len(plots) >= 11
    for plot_width, plot_height, marks in plots:
        assert plot_width > 200
        assert plot_height > 100
        assert marks > 5
    assert visit.requests == [report.as_uri()]
    assert visit.complaints == []
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    pictures = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 20)).length"
    assert visit.page.evaluate(pictures) == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_a_comparison_is_a_page_too(
    comparison: Path, open_page: Callable[..., Visit], width: int
) -> None:
    visit = open_page(comparison, width)
    plots = visit.page.evaluate(PLOTS)
    assert len(plots) == 5
    for plot_width, plot_height, marks in plots:
        assert plot_width > 200
        assert plot_height > 100
        assert marks > 5
    assert visit.requests == [comparison.as_uri()]
    assert visit.complaints == []
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_cloud_is_drawn_and_can_be_turned(
    report: Path, open_page: Callable[..., Visit]
) -> None:
    visit = open_page(report)
    viewer = visit.page.locator("#viewer")
    assert viewer.get_attribute("data-state") == "drawn"
    before = picture(viewer)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 50
    visit.page.click("#view-top")
    assert not np.array_equal(picture(viewer), before)
    assert visit.complaints == []


def picture(element: Any) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(element.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def test_without_webgl_a_still_picture_stays(
    report: Path, open_page: Callable[..., Visit]
) -> None:
    visit = open_page(report, gl=False)
    assert visit.page.get_attribute("#viewer", "data-state") == "still"
    assert visit.page.locator("#viewer img").is_visible()
    assert "cannot draw the 3-D view" in visit.page.text_content("#viewer-note")


def test_a_report_without_a_map_is_a_page_too(
    room_bag: RoomBag, tmp_path: Path, open_page: Callable[..., Visit]
) -> None:
    (tmp_path / "params.yaml").write_text("keyframes: {max_translation_m: 5.0}\n")
    words = ["--engine", "oracle", "--params", str(tmp_path / "params.yaml"), "--max-frames", "1"]
    assert main(["evaluate", str(room_bag.bag), *words, "--out", str(tmp_path)]) == 0
    visit = open_page(tmp_path / "report.html")
    assert "No window was made of 1 keyframe" in visit.page.text_content("main")
    assert visit.complaints == []
    assert visit.requests == [(tmp_path / "report.html").as_uri()]
