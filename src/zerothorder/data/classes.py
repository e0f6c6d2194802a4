"""Classes of a classifier: which labels they stand for, in which order, and what a saved model says of that."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerothorder.data.templates import Verbalizers, label_name
from zerothorder.errors import UsageError

CLASSES = "classes.json"
"""The classes of an adapter's folder, in order; a whole model has them in its config.json."""


def classes_in(rows: Sequence[Mapping[str, Any]]) -> Verbalizers:
    """The labels of rows that all have one, in order: whole numbers by size, else by spelling.

    UsageError where there are not two.
    """
    found = {label_name(row["label"]) for row in rows}
    labels = tuple(sorted(found, key=int) if all(_is_whole(label) for label in found) else sorted(found))
    if len(labels) < 2:
        seen = f"only the label {labels[0]!r}" if labels else "no label"
        raise UsageError(f"the training rows have {seen}, and a classifier needs two: name them by --verbalizers")
    return Verbalizers(labels, labels, "one of the labels of the training rows; name all labels by --verbalizers")


def saved_classes(folder: Path) -> Verbalizers | None:
    """The classes of a trained classifier in a folder; None where it holds none, or none with names."""
    try:
        if (folder / CLASSES).is_file():
            names = json.loads((folder / CLASSES).read_text())
        else:
            config = json.loads((folder / "config.json").read_text())
            if not "".join(config.get("architectures") or ()).endswith("ForSequenceClassification"):
                return None
            names = [config["id2label"][str(n)] for n in range(len(config["id2label"]))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    labels = tuple(map(str, names))
    if len(labels) < 2 or _are_numbers(labels):
        return None
    return Verbalizers(labels, labels, "one of the model's classes; say which is which by --verbalizers LABEL=CLASS")


def classes_of(model: Any) -> tuple[str, ...]:
    """The names of a classifier's classes in order; () for another model, and where they have none."""
    if not is_classifier(model):
        return ()
    names: Mapping[int, str] = model.config.id2label
    labels = tuple(str(names[n]) for n in range(len(names)))
    return () if _are_numbers(labels) else labels


def name_classes(model: Any, classes: Verbalizers) -> None:
    """Write the classes' labels into the model's configuration, which is saved with it.

    UsageError where the model's classifier was trained with other classes, or with these in another order: its
    classes have to be the labels or, where verbalizers name both, their words.
    """
    before = classes_of(model)
    if before and before != classes.labels and tuple(map(str.lower, before)) != tuple(map(str.lower, classes.words)):
        pairs = ",".join(f"LABEL={name}" for name in before)
        raise UsageError(
            f"the model's classes are {', '.join(before)}, not {', '.join(classes.labels)}; say which label is which "
            f"by --verbalizers {pairs}"
        )
    model.config.id2label = dict(enumerate(classes.labels))
    model.config.label2id = {label: number for number, label in enumerate(classes.labels)}


def unnamed(model: Any) -> None:
    """Forget the names of a classifier that is new: they were of another one, if of any."""
    count = model.config.num_labels
    model.config.id2label = {number: f"LABEL_{number}" for number in range(count)}
    model.config.label2id = {f"LABEL_{number}": number for number in range(count)}


def is_classifier(model: Any) -> bool:
    """Whether a model (or the one inside an adapter) gives classes, and no words."""
    inner = getattr(model, "get_base_model", None)
    return type(inner() if callable(inner) else model).__name__.endswith("ForSequenceClassification")


def _are_numbers(labels: Sequence[str]) -> bool:
    """Whether the names are those that transformers gives classes without names."""
    return all(label == f"LABEL_{number}" for number, label in enumerate(labels))


def _is_whole(label: str) -> bool:
    return label.removeprefix("-").isdecimal()
