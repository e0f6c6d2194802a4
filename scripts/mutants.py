"""Plant the field's published defects one by one in a copy of the package: each must turn a test red.

    python scripts/mutants.py [NAME ...]     all of tests/mutants.toml, or those named

First the same tests run against the unchanged copy, where they must be green. Exit code 1 if a defect survives, 2 if
one cannot be planted or the tests cannot tell.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "zerothorder"


@dataclass(frozen=True)
class Mutant:
    """A defect as a substitution of text, and the tests that should find it."""

    name: str
    what: str
    file: str
    find: str
    replace: str
    tests: list[str]


def load(names: list[str]) -> list[Mutant]:
    """The mutants of tests/mutants.toml, all or those named."""
    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    for name in names:
        if name not in table:
            raise SystemExit(f"there is no mutant {name!r}; known are {', '.join(table)}")
    return [Mutant(name, **row) for name, row in table.items() if not names or name in names]


def plant(mutant: Mutant, copy: Path) -> None:
    """Write the defect into the copy; SystemExit 2 where its text is not found exactly once."""
    path = copy / mutant.file
    text = path.read_text()
    if text.count(mutant.find) != 1:
        print(f"{mutant.name}: {text.count(mutant.find)} places in {mutant.file} read {mutant.find!r}; mend the mutant")
        raise SystemExit(2)
    path.write_text(text.replace(mutant.find, mutant.replace))


def run(tests: list[str], path: Path) -> tuple[int, str]:
    """pytest's exit code and output, with the package taken from `path`."""
    # no bytecode: a defect of the same length in the same second would be taken for the file it replaced
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def is_the_copy(path: Path) -> bool:
    """Whether Python takes the package from `path` and not from where it is installed."""
    words = [sys.executable, "-c", "import zerothorder; print(zerothorder.__path__[0])"]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, check=False
    )
    return Path(done.stdout.strip()) == path / "zerothorder"


def main(names: list[str]) -> int:
    """Print the table; the exit code."""
    mutants, survived, broken = load(names), 0, 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        path = Path(folder).resolve()
        copy = path / "zerothorder"
        # times are kept and compiled kernels come along: nothing is compiled again but what a defect changes
        shutil.copytree(PACKAGE, copy)
        if not is_the_copy(path):
            print("the package is not imported from the copy; nothing would be tested")
            return 2
        code, said = run(sorted({test for mutant in mutants for test in mutant.tests}), path)
        if code:
            print(said[-3000:] + "\nthe tests are not green without a defect; mend them first")
            return 2
        print(f"{len(mutants)} defects; without them every test is green\n", flush=True)
        width = max(len(mutant.name) for mutant in mutants)
        for mutant in mutants:
            began = time.monotonic()
            plant(mutant, copy)
            code, said = run(mutant.tests, path)
            shutil.copy2(PACKAGE / mutant.file, copy / mutant.file)
            red = re.search(r"^FAILED (\S+)", said, re.MULTILINE)
            if code == 1 and red:
                verdict = f"red    {red[1]}"
            elif code == 0:
                survived, verdict = survived + 1, f"ALIVE  {mutant.what}"
            else:
                broken, verdict = broken + 1, f"BROKEN pytest ended with {code}: {said.strip().splitlines()[-1]}"
            print(f"{mutant.name:<{width}}  {time.monotonic() - began:4.0f} s  {verdict}", flush=True)
    print(f"\n{len(mutants) - survived - broken} found, {survived} alive, {broken} broken")
    return 2 if broken else int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
