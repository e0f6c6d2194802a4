"""The interplay page in headless Chromium: it draws, its controls work, and it says nothing on the console."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from zerothorder.interplay.look import look
from zerothorder.interplay.page import write_page

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
REPORT = f"<script>\n{(Path(__file__).parent / 'used.js').read_text()}</script>"


class Made:
    """A path that was made up."""

    def __init__(self, name: str, updates: list[torch.Tensor]) -> None:
        self.name, self.updates = name, updates
        self.moments = [10 * i for i in range(len(updates) + 1)]
        self.names = ("layers.0.weight", "layers.1.weight")

    def places(self, name: str) -> Any:
        half = slice(0, 40) if name.startswith("layers.0") else slice(40, 64)
        place = torch.zeros(64)
        yield place[half].clone()
        for update in self.updates:
            place = place + update
            yield place[half].clone()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that goes straight on, and a reward model that goes anywhere."""
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(64, generator=generator)
    tracks = [Made("policy", [line] * 7), Made("reward", list(torch.randn(7, 64, generator=generator)))]
    return write_page(look(tracks), tmp_path_factory.mktemp("page") / "interplay.html", ("pca", "tsne"))


def chromium(*words: str) -> "subprocess.CompletedProcess[str]":
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000"]
    return subprocess.run(
        [CHROMIUM, *flags, "--enable-logging=stderr", *words], capture_output=True, text=True, check=True, timeout=120
    )


@pytest.fixture(scope="module")
def told(page: Path) -> dict[str, Any]:
    """What the page says of itself after each of its controls was used."""
    used = page.with_name("used.html")
    used.write_text(page.read_text().replace("</body>", REPORT + "</body>"))
    found = chromium("--dump-dom", "--window-size=1200,1000", used.as_uri())
    assert "CONSOLE" not in found.stderr, found.stderr
    match = re.search(r'<pre id="told">(.*?)</pre>', found.stdout, re.DOTALL)
    assert match, found.stdout[-2000:]
    return json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_every_picture_is_drawn(told: dict[str, Any]) -> None:
    first = told["first"]
    assert (first["path"]["dots"], len(first["path"]["lines"])) == (16, 2)
    assert first["successive"]["dots"] == 2 * 6
    assert first["successive"]["bands"] == first["pairs"]["bands"] == 1
    assert first["pairs"]["dots"] == 7 + 6
    assert first["lengths"]["dots"] == 14
    assert told["rows"] == 3
    numbers = " ".join(line for own in first.values() for line in own["lines"])
    assert "NaN" not in numbers
    assert "Infinity" not in numbers


def test_controls_change_what_they_say_they_change(told: dict[str, Any]) -> None:
    assert "drag to turn" in told["first"]["path"]["caption"]
    assert "drag" not in told["flat"]["path"]["caption"]
    assert told["flat"]["path"]["lines"] != told["first"]["path"]["lines"]
    assert told["flat"]["successive"] == told["first"]["successive"]
    assert told["angles"]["successive"]["caption"].startswith("Angle in degrees")
    assert "90" in told["angles"]["pairs"]["texts"]
    assert told["chosen"].startswith("layers.")
    assert told["tensor"]["lengths"]["lines"] != told["first"]["lengths"]["lines"]
    assert told["turned"]
    assert told["maps"] == ["pca", "tsne"]
    assert told["mapped"]["path"]["caption"].startswith("t-SNE of the distances")
    assert told["mapped"]["path"]["lines"] != told["first"]["path"]["lines"]


def test_nothing_is_wider_than_the_window(told: dict[str, Any], page: Path) -> None:
    assert told["overflow"] <= 0
    narrow = page.with_name("narrow.html")
    narrow.write_text(page.read_text().replace("</body>", REPORT + "</body>"))
    found = chromium("--dump-dom", "--window-size=500,900", narrow.as_uri())
    match = re.search(r'"overflow":(-?\d+)', found.stdout)
    assert match
    assert int(match[1]) <= 0


def test_a_picture_of_the_page_is_not_empty(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    chromium(f"--screenshot={shot}", "--window-size=1200,1400", page.as_uri())
    assert shot.stat().st_size > 30_000
