"""Where names lead: packaged models and tasks first, then files and folders."""

from pathlib import Path

PACKAGED = (
    "smollm2-135m", "minilm", "llama-2.5m",
    "conversations", "glosses", "preferences", "sections", "summaries", "translations",
    "rotten-tomatoes", "food-reviews", "synopses",
    "sst2", "rte", "cb", "boolq", "wsc", "wic", "copa", "multirc", "record", "winogrande", "squad", "drop",
)  # fmt: skip
"""Names of packaged models, shipped texts and named tasks: they win over files and folders of that name."""


def absolute(name: str) -> str:
    """The absolute path of a file or folder that exists, also behind the name of a task; any other name as it is."""
    task, colon, place = name.partition(":")
    if colon and task in PACKAGED:
        return f"{task}:{_absolute(place)}"
    return name if name in PACKAGED else _absolute(name)


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    if not path.exists():
        return name
    # a linked file keeps its name: what it leads to may lack the ending that tells its format
    return str(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)


def same_place(a: str, b: str) -> bool:
    """Two names of one file or folder. A name that is no path here is the same as itself only."""
    one, other = Path(absolute(a)), Path(absolute(b))
    return absolute(a) == absolute(b) or (
        one.is_absolute() and other.is_absolute() and one.resolve() == other.resolve()
    )
