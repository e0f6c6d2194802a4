"""Data in packages of Debian: fetched through apt, which checks them, and read where R keeps it."""

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zerothorder.data.quiet import need
from zerothorder.errors import UsageError


def fetch_package(name: str, members: Sequence[str], folder: Path, instead: str) -> None:
    """Put `members` of a package, paths from the root, into `folder` under their last names.

    Nothing is installed, and no right of an administrator is needed. `instead` is what to do where there is no apt.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UsageError(f"{name} is a package of Debian, and {tool} is not here: {instead}")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        asked = ["apt-get", "download", "-o", "APT::Sandbox::User=", name]
        done = subprocess.run(asked, cwd=scratch, capture_output=True, text=True, check=False)
        found = sorted(Path(scratch).glob("*.deb"))
        if done.returncode or len(found) != 1:
            lines = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
            reason = (lines or [f"exit code {done.returncode}"])[-1]
            raise UsageError(
                f"cannot fetch the Debian package {name} (apt: {reason}): run apt-get update, or {instead}"
            )
        root = Path(scratch) / "root"
        subprocess.run(["dpkg-deb", "-x", str(found[0]), str(root)], check=True, capture_output=True)
        for member in members:
            if not (root / member).is_file():
                raise UsageError(f"{found[0].name} does not hold {member}: {instead}")
            shutil.copyfile(root / member, folder / Path(member).name)


def r_object(database: Path, name: str) -> Any:
    """One object of R's pair NAME.rdx (index) and NAME.rdb (data); data frames come as those of pandas.

    The index is a compressed object, variables → (offset, length). An entry of the data is its unpacked size, four
    bytes, then zlib, or a letter and data: Z raw LZMA2, 2 bzip2, 0 as it is.
    """
    variables = _converted(_inflated(database.with_suffix(".rdx").read_bytes()))["variables"]
    if name not in variables:
        raise UsageError(f"{database} has no object {name!r}: another version of the package may have")
    offset, length = (int(number) for number in variables[name])
    with database.with_suffix(".rdb").open("rb") as stream:
        stream.seek(offset)
        entry = stream.read(length)
    (size,) = struct.unpack(">I", entry[:4])
    data = _unpacked(entry[4:])
    if len(data) != size:
        raise UsageError(f"{database} is damaged at {name!r}: fetch it again")
    return _converted(data)


def _inflated(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else zlib.decompress(data)


def _unpacked(data: bytes) -> bytes:
    kind, rest = data[:1], data[1:]
    if kind == b"Z":
        return lzma.decompress(rest, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    if kind == b"2":
        return bz2.decompress(rest)
    return rest if kind == b"0" else zlib.decompress(data)


def _converted(data: bytes) -> Any:
    rdata = need("rdata", "reading data of R")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it guesses the file's type, and reads a tibble as a data frame: both right
        return rdata.conversion.convert(rdata.parser.parse_data(data))
