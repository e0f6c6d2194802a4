"""Numbers, durations and settings as a person reads them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any


def number(value: float | None, digits: int = 3) -> str:
    """`0.481`, `12,300`, `3.2e-07`; a dash for nothing."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-3:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}g}"


def score(value: float | None) -> str:
    """A metric, always with three digits: scores in a column must line up."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def change(before: float, after: float) -> str:
    """`+0.171` or `−0.012`, with a real minus sign."""
    text = f"{after - before:+.3f}"
    return text.replace("-", "−")


def size(count: float | None) -> str:
    """Bytes in decimal units, as disks and memory are sold."""
    if count is None or not math.isfinite(count):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def duration(seconds: float | None) -> str:
    """`430 ms`, `12.3 s`, `7 min 05 s`, `1 h 12 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def label(name: str) -> str:
    """`calibrated_accuracy` → `calibrated accuracy`; short forms keep their capitals."""
    words = name.replace("_", " ").replace("-", " ").split()
    return " ".join(word.upper() if word.lower() in ("auc", "f1", "nll") else word for word in words)


def settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) for every leaf of a saved configuration."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from settings(value, f"{name}.")
        else:
            yield name, plain(value)


def plain(value: object) -> str:
    """A setting in words: lists joined, None as a dash, floats short but exact."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "–"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def title(value: object, otherwise: str) -> str:
    """What a section of a configuration is called: itself, or its name or path."""
    if isinstance(value, Mapping):
        found = next((value[key] for key in ("name", "recipe", "path", "kind") if value.get(key)), None)
        return otherwise if found is None else str(found)
    return otherwise if value in (None, "") else plain(value)
