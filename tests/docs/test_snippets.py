"""Every snippet of README.md and docs/ runs: what a reader copies must work.

A page's blocks run in order in one namespace and one empty folder: ```python blocks as code, and in
```console blocks every line that starts with `$ zo ` through the command's own entry point.
`<!-- no-run: reason -->` before a block leaves it out, with its reason; `<!-- test: e2e -->` anywhere on a
page marks the page's test.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$")
_NO_RUN = re.compile(r"^<!--\s*no-run:(?P<reason>.*)-->$")
_MARK = re.compile(r"<!--\s*test:\s*(?P<mark>e2e|slow)\s*-->")
_SHELL = re.compile(r"^(\||\|\||&&|;|&|>|>>|<|2>&1)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text, the line it starts at, and why it is not run."""

    language: str
    text: str
    line: int
    no_run: str | None


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown page, in order, also those inside lists and tabs."""
    lines = page.splitlines()
    at, no_run = 0, None
    while at < len(lines):
        line = lines[at]
        at += 1
        if comment := _NO_RUN.match(line.strip()):
            no_run = comment["reason"].strip()
            continue
        opened = _FENCE.match(line)
        if not opened:
            no_run = no_run if not line.strip() else None  # the comment belongs to the block right after it
            continue
        start, body = at + 1, list[str]()
        closing = re.compile(rf"^ *{re.escape(opened['fence'][0])}{{{len(opened['fence'])},}} *$")
        while at < len(lines) and not closing.match(lines[at]):
            body.append(lines[at])
            at += 1
        assert at < len(lines), f"the block at line {start - 1} is never closed"
        at += 1
        language = (opened["info"].split() or [""])[0].strip("{}.")
        yield Block(language, textwrap.dedent("\n".join(body)) + "\n", start, no_run)
        no_run = None


def commands(console: str) -> Iterator[tuple[int, list[str]]]:
    """(line within the block, arguments) of each `$ zo ` line, with its continuation lines."""
    lines = console.splitlines()
    for at, line in enumerate(lines):
        if not line.startswith("$ zo "):
            continue
        words = line[len("$ zo ") :]
        last = at
        while words.endswith("\\"):
            last += 1
            words = words[:-1] + " " + lines[last].removeprefix("> ").strip()
        arguments = shlex.split(words, comments=True)
        shell = [word for word in arguments if _SHELL.match(word)]
        assert not shell, f"`$ zo {words}` needs a shell ({shell[0]}): split it, or mark the block no-run"
        yield at, arguments


def run_page(name: str, page: str) -> None:
    """Run a page's blocks in order; an error names page and line as if the page were the program."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.no_run is not None:
            assert block.no_run, f"{name}:{block.line}: no-run needs a reason"
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), namespace)
        elif block.language == "console":
            for offset, arguments in commands(block.text):
                code, line = run_zo(arguments), block.line + offset
                assert code == 0, f"{name}:{line}: zo {shlex.join(arguments)} ended with {code}"


def run_zo(arguments: list[str]) -> int:
    """The exit code of the `zo` command."""
    from zerothorder.cli import main

    try:
        return int(main(arguments) or 0)
    except SystemExit as stop:
        return 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 1


def _as_test(page: Path) -> Any:
    marks = [getattr(pytest.mark, mark) for mark in _MARK.findall(page.read_text(encoding="utf-8"))]
    return pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=marks)


@pytest.mark.parametrize("page", [_as_test(page) for page in PAGES])
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))


EXAMPLE = """\
# Title

```python
x = 1
```

- a list

    ```python
    if x:
        y = x + 1
    ```

<!-- no-run: needs a hub -->

```python
raise SystemExit
```

````text
```python
never
```
````

```console
$ make demo
$ zo plan --model 'a b' \\
>   --recipe mezo
a table
$ zo recipes  # all of them
```
"""


def test_blocks_are_found_with_language_line_and_reason() -> None:
    found = list(blocks(EXAMPLE))
    assert [(block.language, block.line) for block in found] == [
        ("python", 4),
        ("python", 10),
        ("python", 17),
        ("text", 21),
        ("console", 27),
    ]
    assert found[1].text == "if x:\n    y = x + 1\n"
    assert [block.no_run for block in found] == [None, None, "needs a hub", None, None]


def test_commands_are_parsed_as_a_shell_would() -> None:
    console = list(blocks(EXAMPLE))[-1].text
    assert list(commands(console)) == [(1, ["plan", "--model", "a b", "--recipe", "mezo"]), (4, ["recipes"])]
    with pytest.raises(AssertionError, match="needs a shell"):
        list(commands("$ zo ledger show x | head\n"))


def test_a_page_shares_one_namespace_and_an_error_names_its_line() -> None:
    run_page("page.md", "```python\nx = 1\n```\n```python\nassert x == 1\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_page("page.md", "words\n\n```python\nx = 1\n1 / 0\n```\n")
    assert (str(caught.traceback[-1].path), caught.traceback[-1].lineno + 1) == ("page.md", 5)


def test_a_failing_command_fails_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.run_zo", lambda arguments: 2)
    with pytest.raises(AssertionError, match=r"page.md:2: zo train --steps 0 ended with 2"):
        run_page("page.md", "```console\n$ zo train --steps 0\n```\n")


def test_no_run_needs_a_reason_and_stands_right_before_its_block() -> None:
    with pytest.raises(AssertionError, match="needs a reason"):
        run_page("page.md", "<!-- no-run: -->\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError):
        run_page("page.md", "<!-- no-run: far away -->\nwords\n\n```python\n1 / 0\n```\n")
