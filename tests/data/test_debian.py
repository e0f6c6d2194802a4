"""Packages of Debian and the objects of R in them: read whole in each compression, refused in words."""

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from zerothorder.data import debian, read_rows, reviews
from zerothorder.errors import UsageError

RAW_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "lzma": lambda data: b"Z" + lzma.compress(data, lzma.FORMAT_RAW, filters=RAW_LZMA),
    "bzip2": lambda data: b"2" + bz2.compress(data),
    "stored": lambda data: b"0" + data,
}


def unparsed(value: object) -> bytes:
    """The bytes of an R object."""
    rdata = pytest.importorskip("rdata", reason="the extra `tasks` is not installed")
    converted = rdata.conversion.convert_python_to_r_data(value)
    return rdata.unparser.unparse_data(converted, file_type="rds")


def lazy(folder: Path, packing: str, **objects: object) -> Path:
    """R's pair of files, with each object behind another."""
    data, variables = b"", {}
    for name, value in objects.items():
        whole = unparsed(value)
        entry = struct.pack(">I", len(whole)) + PACKED[packing](whole)
        variables[name] = np.array([len(data), len(entry)], dtype=np.int32)
        data += entry
    (folder / "Rdata.rdb").write_bytes(data)
    index = unparsed({"variables": variables, "references": {}, "compressed": 3})
    (folder / "Rdata.rdx").write_bytes(gzip.compress(index) if packing == "lzma" else zlib.compress(index))
    return folder / "Rdata"


@pytest.mark.parametrize("packing", PACKED)
def test_an_object_comes_out_of_every_compression(tmp_path: Path, packing: str):
    database = lazy(tmp_path, packing, first=np.array(["a", "b"]), second={"score": np.array(["great"] * 50), "n": 1.5})
    assert list(debian.r_object(database, "first")) == ["a", "b"]
    second = debian.r_object(database, "second")
    assert list(second["score"]) == ["great"] * 50
    assert float(second["n"][0]) == 1.5
    with pytest.raises(UsageError, match="has no object 'third'"):
        debian.r_object(database, "third")


def test_an_object_that_is_cut_short(tmp_path: Path):
    database = lazy(tmp_path, "stored", first=np.array(["a", "b"]))
    entry = (tmp_path / "Rdata.rdb").read_bytes()
    (tmp_path / "Rdata.rdb").write_bytes(struct.pack(">I", 7) + entry[4:])
    with pytest.raises(UsageError, match="is damaged at 'first': fetch it again"):
        debian.r_object(database, "first")


def test_a_machine_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(UsageError, match="toys is a package of Debian, and apt-get is not here: do that"):
        debian.fetch_package("toys", ["usr/a"], tmp_path, "do that")


def test_apt_s_own_words_and_what_is_not_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    failed = SimpleNamespace(returncode=100, stderr="W: slow\nE: Unable to locate package toys\n")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: failed)
    with pytest.raises(UsageError, match=r"apt: Unable to locate package toys\): run apt-get update, or do that"):
        debian.fetch_package("toys", ["usr/a"], tmp_path, "do that")

    def run(words: list[str], cwd: str = "", **options: object) -> SimpleNamespace:
        if words[0] == "apt-get":
            (Path(cwd) / "toys_1.deb").touch()
        else:
            (Path(words[-1]) / "usr").mkdir(parents=True)
            (Path(words[-1]) / "usr" / "a").write_text("data")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    debian.fetch_package("toys", ["usr/a"], tmp_path, "do that")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(UsageError, match=r"toys_1.deb does not hold usr/b: do that"):
        debian.fetch_package("toys", ["usr/a", "usr/b"], tmp_path, "do that")


def test_food_reviews_of_another_release_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"product": "p", "review": [f"good<br />food {n}" for n in range(9)], "score": "great"})
    monkeypatch.setenv("ZEROTHORDER_CACHE", str(tmp_path))
    monkeypatch.setattr(reviews, "need", lambda module, purpose: None)
    monkeypatch.setattr(reviews, "fetch_package", lambda *words: None)
    monkeypatch.setattr(reviews, "r_object", lambda database, name: table)
    with pytest.raises(UsageError, match=r"are not those that were tested: sha256 .*--data food-reviews:FOLDER"):
        reviews.food_reviews()
    assert not list((tmp_path / "data").glob("food*")), "nothing half-made is kept"


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the package comes through apt")
def test_food_reviews():
    pytest.importorskip("rdata", reason="the extra `tasks` is not installed")
    parts = {split: read_rows("food-reviews", split, required=["text", "label"]) for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 3479, "dev": 500, "test": 1000}
    assert [sum(row["label"] == "great" for row in rows) for rows in parts.values()] == [2262, 322, 658]
    assert not any("<br" in row["text"] for rows in parts.values() for row in rows)
    seen = [{row["text"] for row in rows} for rows in parts.values()]
    assert not seen[0] & seen[1]
