"""`zo ledger show` and `zo ledger diff`: what is in a ledger, and where two of them part."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import table, terminal

if TYPE_CHECKING:
    from zerothorder.ledger.entry import Entry
    from zerothorder.ledger.reader import Contents

SAME, OTHER = 0, 1


@dataclass(frozen=True, kw_only=True)
class Show:
    """What is in a ledger."""

    ledger: Path
    """The run's ledger.zo."""
    rows: int = 5
    """Entries to show of the beginning and of the end."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Where two ledgers part: in their headers, and at which step. Exit code 0: the same run; 1: not."""

    a: Path
    """A ledger."""
    b: Path
    """Another."""
    json: bool = False
    """Print JSON."""


def show(words: Sequence[str]) -> int:
    """Header, counts and some entries."""
    asked = parse(Show, words, "zo ledger show", positional=("ledger",))
    from zerothorder.ledger.reader import read

    contents = read(asked.ledger)
    facts = {"file": str(asked.ledger), **summary(contents, asked.ledger.stat().st_size)}
    total = len(contents.entries)
    first, last = contents.entries[: asked.rows], contents.entries[max(asked.rows, total - asked.rows) :]
    columns = ("step", *contents.header.columns, "scalars", "lr", "")
    lines = [_line(entry, contents) for entry in first]
    if len(first) + len(last) < total:
        lines.append(("…", *("" for _ in columns[1:])))
    lines += [_line(entry, contents) for entry in last]
    entries = [{"step": e.step, **e.notes, "scalars": [s for _, s in e.terms], "lr": _lr(e), "skipped": e.skipped}
               for e in (*first, *last)]  # fmt: skip
    with terminal(as_json=asked.json) as out:
        told = table(("ledger", ""), ((name, _text(value)) for name, value in facts.items()))
        told.columns[1].justify = "left"
        out.result({**facts, "entries": entries}, told, "", *([table(columns, lines)] if lines else ["no entries yet"]))
    return 0


def summary(contents: "Contents", nbytes: int) -> dict[str, Any]:
    """A ledger's header and counts as plain values."""
    from zerothorder.report.origin import bytes_a_step

    header, entries = contents.header, contents.entries
    weights = sum(_numel(row[1]) for row in header.sites)
    state = "complete" if contents.final else "no end record: stopped or running"
    return {
        "state": f"{state}; the last entry is cut ({contents.torn} bytes)" if contents.torn else state,
        "steps": len(entries),
        "skipped": sum(entry.skipped for entry in entries),
        "bytes": nbytes,
        "header bytes": len(header.encode()),
        "bytes a step": bytes_a_step(contents),
        "sites": len(header.sites),
        "weights": weights,
        "dtypes": ", ".join(dict.fromkeys(row[2] for row in header.sites)),
        "precision": header.precision,
        "recipe": header.recipe,
        "settings": dict(header.settings),
        "base": header.base,
        "final weights": contents.final,
        "run key": header.run_key,
        "generator": header.generator,
        "attachments": contents.attached,
        "data": dict(header.data),
        "origin": dict(header.origin),
    }


def _line(entry: "Entry", contents: "Contents") -> tuple[Any, ...]:
    notes = (f"{entry.notes[name]:.5g}" for name in contents.header.columns)
    scalars = [f"{scalar:.5g}" for _, scalar in entry.terms]
    shown = ", ".join(scalars[:3]) + (f" and {len(scalars) - 3} more" if len(scalars) > 3 else "")
    return (entry.step, *notes, shown, f"{_lr(entry):.3g}", "skipped" if entry.skipped else "")


def _lr(entry: "Entry") -> float:
    return max((rate.lr for rate in entry.rates.values()), default=0.0)


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_text(v)}" for k, v in value.items()) or "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)


def diff(words: Sequence[str]) -> int:
    """Every difference of the headers, then the first step that differs."""
    asked = parse(Diff, words, "zo ledger diff", positional=("a", "b"))
    from zerothorder.ledger.reader import read

    a, b = read(asked.a), read(asked.b)
    found = list(differences(a, b))
    step, what = first_difference(a, b)
    rows = [(name, _text(x), _text(y)) for name, x, y in (*found, *what)]
    if step is not None:
        told = f"first difference at step {step}"
    elif found:
        told = f"all {len(a.entries)} steps are the same"
    else:
        told = f"the same run: {len(a.entries)} steps"
    header = [{"what": name, "a": x, "b": y} for name, x, y in found]
    at = [{"what": name, "a": x, "b": y} for name, x, y in what]
    with terminal(as_json=asked.json) as out:
        shown = table(("differs", str(asked.a), str(asked.b)), rows)
        out.result({"header": header, "step": step, "entry": at}, *([shown, ""] if rows else []), told)
    return OTHER if found or step is not None else SAME


Difference = tuple[str, Any, Any]


def differences(a: "Contents", b: "Contents") -> Iterator[Difference]:
    """(field, value in a, value in b) of the headers, settings one by one; sites as their first difference."""
    left, right = asdict(a.header), asdict(b.header)
    for field in left:
        x, y = left[field], right[field]
        if x == y:
            continue
        if field == "sites":
            pairs = [(p, q) for p, q in zip(x, y) if p != q]
            p, q = pairs[0] if pairs else (f"{len(x)} sites", f"{len(y)} sites")
            yield "sites", str(p), str(q)
        elif isinstance(x, dict):
            for key in dict.fromkeys((*x, *y)):
                if x.get(key) != y.get(key):
                    yield f"{field}.{key}", x.get(key), y.get(key)
        else:
            yield field, x, y
    if a.attached != b.attached:
        yield "attachments", a.attached, b.attached


def first_difference(a: "Contents", b: "Contents") -> tuple[int | None, list[Difference]]:
    """The first step that differs and what of it; a run that ends earlier differs where it ends."""
    for x, y in zip(a.entries, b.entries):
        # as bytes would: a NaN is the same as itself
        what = [
            (name, getattr(x, name), getattr(y, name))
            for name in ("terms", "notes", "rates", "skipped", "absolute", "dense_hash")
            if repr(getattr(x, name)) != repr(getattr(y, name))
        ]
        if what:
            return x.step, [(name, _short(p), _short(q)) for name, p, q in what]
    if len(a.entries) != len(b.entries):
        return min(len(a.entries), len(b.entries)), [("steps", len(a.entries), len(b.entries))]
    if a.final != b.final:
        return len(a.entries), [("end record", a.final, b.final)]
    return None, []


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{scalar:.6g}" for _, scalar in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} lr {v.lr:.6g}" for k, v in value.items())
    return str(value)
