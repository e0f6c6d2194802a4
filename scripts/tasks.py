"""Build the text tasks that ship with the library, from Debian's packages and one corpus of the package index.

    python scripts/tasks.py            into src/zerothorder/data/shipped/
    python scripts/tasks.py FOLDER     elsewhere, to compare

Package descriptions, their German translations and WordNet come through apt (debian_index.py, wordnet.py), the
conversations from the wheel of chatterbot-corpus. One row a source package and task; packages of summaries, sections
and preferences are disjoint, so nothing of one is answered by another. Which rows are taken, and the split of each,
follow from a hash of the source package's name, or of the synset's: another run on the same index gives the same files.
`built.json` holds the date of the index and the sha256 of every file.
"""

import hashlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from debian_index import (
    LANGUAGE,
    SUITE,
    Description,
    Package,
    drawn,
    fetch_index,
    fetch_package,
    read_descriptions,
    read_packages,
)
from wordnet import PACKAGE, glosses, read_synsets

SHIPPED = Path(__file__).parent.parent / "src" / "zerothorder" / "data" / "shipped"
CORPUS = ("chatterbot-corpus", "1.3.3")
SECTIONS = ("games", "graphics", "mail", "net", "science", "sound")
LABELS = {
    "games": r"games?|gaming|gamers?", "graphics": r"graphics?|graphical(ly)?", "mail": r"e?-?mails?|mailers?|mailing",
    "net": r"net|nets|network(s|ed|ing)?", "science": r"sciences?|scientific(ally)?", "sound": r"sounds?",
}  # fmt: skip
"""Words that give a section away; they are taken out of its texts."""
NAMED_BY = ("package", "synset", "prompt")
"""What names a row, whatever its text: the first of these columns that it has."""
Row = dict[str, Any]


def main() -> int:
    """Fetch, choose, split, write."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    with tempfile.TemporaryDirectory() as scratch:
        lists, date = fetch_index(Path(scratch))
        packages = list(read_packages(next(lists.glob("*_Packages"))))
        english = read_descriptions(next(lists.glob("*_Translation-en")), "en")
        german = read_descriptions(next(lists.glob(f"*_Translation-{LANGUAGE}")), LANGUAGE)
        wordnet, version = fetch_package(Path(scratch), PACKAGE)
        meanings = glosses(read_synsets(wordnet))
        talks = fetch_talks(Path(scratch))
    taken: set[str] = set()
    tasks = {
        "sections": sections(packages, english, taken),
        "summaries": summaries(packages, english, taken),
        "preferences": preferences(packages, english, taken),
        "translations": translations(packages, english, german),
        "conversations": conversations(talks),
        "glosses": meanings,
    }
    built: dict[str, Any] = {"index": f"Debian {SUITE} main, {date}", "wordnet": f"{PACKAGE} {version}"}
    built |= {"corpus": "==".join(CORPUS), "files": {}}
    for name, (rows, dev, test) in tasks.items():
        for split, part in split_rows(rows, dev, test).items():
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part).encode()
            path.write_bytes(data)
            built["files"][f"{name}/{split}.jsonl"] = {
                "rows": len(part), "sha256": hashlib.sha256(data).hexdigest(),
            }  # fmt: skip
            print(f"{name}/{split}: {len(part)} rows, {len(data) / 1e6:.2f} MB")
    (folder / "built.json").write_text(json.dumps(built, indent=1) + "\n")
    return 0


def is_plain(*texts: str) -> bool:
    """No address of a person or a page, no code."""
    return not any(sign in text for text in texts for sign in ("@", "://", ".org", "```"))


def words_of(text: str) -> int:
    """How many there are."""
    return len(text.split())


def origin(package: Package) -> Row:
    """Where a row comes from."""
    return {"package": package.name, "version": package.version}


Task = tuple[list[Row], int, int]


def sections(packages: list[Package], english: dict[str, Description], taken: set[str]) -> Task:
    """Description without the words that name its section → section; at most 260 a section."""
    counts = dict.fromkeys(SECTIONS, 0)
    rows: list[Row] = []
    for package in packages:
        found = english.get(package.digest)
        if found is None or package.section not in counts or counts[package.section] >= 260:
            continue
        if not 15 <= words_of(found.text) <= 70 or package.source in taken or not is_plain(found.text):
            continue
        taken.add(package.source)
        counts[package.section] += 1
        text = " ".join(re.sub(rf"\b({LABELS[package.section]})\b", "", found.text, flags=re.IGNORECASE).split())
        rows.append({"text": text, "label": package.section, **origin(package)})
    return rows, 250, 330


def summaries(packages: list[Package], english: dict[str, Description], taken: set[str]) -> Task:
    """Description → synopsis that does not stand in it word for word."""
    return _described(
        packages, english, taken, 1800, (12, 90), lambda p, d: {"text": d.text, "summary": d.synopsis, **origin(p)}
    ), 300, 300  # fmt: skip


def preferences(packages: list[Package], english: dict[str, Description], taken: set[str]) -> Task:
    """Description; its synopsis is chosen, that of the next package of the same section rejected."""
    found = _described(
        packages, english, taken, 2400, (12, 70),
        lambda p, d: {"prompt": d.text, "chosen": d.synopsis, "section": p.section, **origin(p)},
    )  # fmt: skip
    rows: list[Row] = []
    last: dict[str, Row] = {}
    for row in found:
        section = row.pop("section")
        other = last.get(section)
        last[section] = row
        if other is not None and other["chosen"] != row["chosen"]:
            rows.append(
                {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": other["chosen"]}
                | {"package": row["package"], "version": row["version"], "rejected_from": other["package"]}
            )
    return rows[:1800], 300, 300


def _described(
    packages: list[Package],
    english: dict[str, Description],
    taken: set[str],
    count: int,
    words: tuple[int, int],
    row: Callable[[Package, Description], Row],
) -> list[Row]:
    rows: list[Row] = []
    for package in packages:
        found = english.get(package.digest)
        if len(rows) == count or found is None or package.source in taken:
            continue
        if not words[0] <= words_of(found.text) <= words[1] or not 4 <= words_of(found.synopsis) <= 11:
            continue
        if found.synopsis.lower() in found.text.lower() or not is_plain(found.text, found.synopsis):
            continue
        taken.add(package.source)
        rows.append(row(package, found))
    return rows


def translations(packages: list[Package], english: dict[str, Description], german: dict[str, Description]) -> Task:
    """English → German: a package's synopsis or its first paragraph of 5 to 30 words, in turns."""
    rows: list[Row] = []
    for package in packages:
        ours, theirs = english.get(package.digest), german.get(package.digest)
        if len(rows) == 1800 or ours is None or theirs is None:
            continue
        pairs = [(ours.synopsis, theirs.synopsis)]
        if len(ours.paragraphs) == len(theirs.paragraphs):
            pairs = [*zip(ours.paragraphs, theirs.paragraphs), *pairs] if len(rows) % 2 else [*pairs]
        fits = [(a, b) for a, b in pairs if a != b and is_plain(a, b) and _lengths(a, b)]
        if fits:
            rows.append({"source": fits[0][0], "target": fits[0][1], **origin(package)})
    return rows, 300, 300


def _lengths(ours: str, theirs: str) -> bool:
    return 5 <= words_of(ours) <= 30 and 3 <= words_of(theirs) <= 40


def fetch_talks(scratch: Path) -> dict[str, Any]:
    """The English files of the corpus, topic → its parsed YAML."""
    import yaml

    name, version = CORPUS
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--dest", str(scratch), f"{name}=={version}"], check=True)
    found: dict[str, Any] = {}
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        for member in wheel.namelist():
            if "/english/" in member and member.endswith(".yml"):
                found[Path(member).stem] = yaml.safe_load(wheel.read(member))
    return found


def conversations(talks: dict[str, Any]) -> Task:
    """What one says → what the other answers, each pair of neighbours once."""
    rows: dict[str, Row] = {}
    for topic, talk in sorted(talks.items()):
        for exchange in talk["conversations"]:
            if not isinstance(exchange, list):
                continue
            said = [" ".join(str(line).split()) for line in exchange]
            for prompt, response in itertools.pairwise(said):
                if not (is_plain(prompt, response) and 2 <= words_of(prompt) <= 40 and words_of(response) <= 40):
                    continue
                if len(response) > 1 and prompt.lower() not in rows:
                    rows[prompt.lower()] = {"prompt": prompt, "response": response, "topic": topic}
    return sorted(rows.values(), key=lambda row: drawn(row["prompt"])), 150, 150


def split_rows(rows: Iterable[Row], dev: int, test: int) -> dict[str, list[Row]]:
    """The rows are in the order of a hash, so the ends of the list are as good as any."""
    rows = sorted(rows, key=lambda row: drawn("split " + str(next(row[name] for name in NAMED_BY if name in row))))
    return {"train": rows[dev + test :], "dev": rows[:dev], "test": rows[dev : dev + test]}


if __name__ == "__main__":
    sys.exit(main())
