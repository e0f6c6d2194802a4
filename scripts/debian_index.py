"""Debian's package index and packages, through apt: what the scripts that build shipped files read.

apt's own sources name the archive; lists are kept in a scratch folder, the machine's are not touched.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUITE, LANGUAGE = "bookworm", "de"


@dataclass(frozen=True)
class Package:
    """A binary package of the index: the first of its source, by name."""

    name: str
    version: str
    source: str
    section: str
    digest: str


@dataclass(frozen=True)
class Description:
    """First line, and the paragraphs that are running text."""

    synopsis: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.paragraphs)


def fetch_index(scratch: Path) -> tuple[Path, str]:
    """The index's files under an apt configuration of our own, and the date of its release file."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    if not found:
        raise SystemExit(f"apt knows no archive of {SUITE}; add one to its sources")
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    (scratch / "cache").mkdir()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (scratch / "sources.list").write_text(f"deb [signed-by={key}] {found[0]} {SUITE} main\n")
    settings = scratch / "apt.conf"
    settings.write_text(
        f"""#clear Acquire::Languages;
Acquire::Languages {{ "en"; "{LANGUAGE}"; }};
Acquire::GzipIndexes "false";
Dir::State::lists "{lists}";
Dir::Cache "{scratch / "cache"}";
Dir::Etc::SourceList "{scratch / "sources.list"}";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Parts "/dev/null";
APT::Sandbox::User "";
"""
    )
    subprocess.run(["apt-get", "update", "-qq"], env=_settings_of(scratch), check=True)
    release = next(lists.glob("*_InRelease")).read_text()
    return lists, next(line.removeprefix("Date: ") for line in release.splitlines() if line.startswith("Date: "))


def _settings_of(scratch: Path) -> dict[str, str]:
    return os.environ | {"APT_CONFIG": str(scratch / "apt.conf")}


def fetch_package(scratch: Path, name: str) -> tuple[Path, str]:
    """A package unpacked in `scratch`, where `fetch_index` was, and its version."""
    subprocess.run(["apt-get", "download", "-qq", name], cwd=scratch, env=_settings_of(scratch), check=True)
    archive = next(scratch.glob(f"{name}_*.deb"))
    asked = ["dpkg-deb", "--field", str(archive), "Version"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(scratch / name)], check=True)
    return scratch / name, version


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """The fields of each paragraph of an index file; lines that go on keep their line breaks."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1] == " ":
                fields[name] += "\n" + line[1:]
            else:
                name, _, value = line.partition(": ")
                fields[name] = value
        if fields:
            yield fields


def read_packages(path: Path) -> Iterator[Package]:
    """One package a source: the one whose name comes first among those with the shortest name."""
    best: dict[str, Package] = {}
    for fields in stanzas(path):
        source = fields.get("Source", fields["Package"]).partition(" ")[0]
        own = Package(
            fields["Package"], fields["Version"], source, fields.get("Section", ""), fields.get("Description-md5", "")
        )
        other = best.get(source)
        if other is None or (len(own.name), own.name) < (len(other.name), other.name):
            best[source] = own
    yield from sorted(best.values(), key=lambda package: drawn(package.source))


def read_descriptions(path: Path, language: str) -> dict[str, Description]:
    """Descriptions by their digest."""
    return {fields["Description-md5"]: describe(fields[f"Description-{language}"]) for fields in stanzas(path)}


def describe(text: str) -> Description:
    """Lists and code begin with another space, and a paragraph that has one is left out."""
    synopsis, *lines = text.split("\n")
    paragraphs, running = list[str](), True
    words = list[str]()
    for line in [*lines, "."]:
        if line.strip() == ".":
            # what ends in a colon leads to a list
            if words and running and not words[-1].endswith(":"):
                paragraphs.append(" ".join(words))
            words, running = [], True
        elif line.startswith((" ", "*", "-")):
            running = False
        else:
            words.append(line.strip())
    return Description(synopsis.strip(), tuple(paragraphs))


def drawn(name: str) -> str:
    """What rows are sorted by."""
    return hashlib.sha256(f"zerothorder tasks 1: {name}".encode()).hexdigest()
