"""What a task gives away without a model: the commonest answer, and the words that texts and answers share."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerothorder.data.options import has_options, options_of
from zerothorder.data.splits import words
from zerothorder.data.tables import read_rows
from zerothorder.data.tasks import task_of
from zerothorder.data.templates import Template, label_name, parse_template
from zerothorder.errors import UsageError
from zerothorder.objectives.metric import token_f1

Rows = Sequence[Mapping[str, Any]]


def baselines(
    data: str | Path | Mapping[str, Rows],
    split: str = "test",
    template: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """`{"majority": …, "overlap": …}` on a split of what `read_rows` knows, or of rows by split, with a train split.

    majority: the commonest answer of the training rows, whatever the text. overlap: words alone.

    - Classes: accuracy; overlap is multinomial naive Bayes over the words of the training texts, add-one smoothed,
      which takes argmax_c log p(c) + Σ_w log p(w|c).
    - Options of a row's own: accuracy; majority is the commonest place of the right one; overlap takes the option of
      whose different words the largest share stands in the text, and `overlap_idf` the largest share of Σ idf(w), with
      idf(w) = log((1 + n) / (1 + texts with w)) of the n training texts. A tie counts as a guess among the tied.
    - Answers in free text: token F1; overlap answers with the sentence of the text that shares most words with the
      question.

    `template` names the columns that make up the text; by default those of the task, else `text` or `prompt`.
    """
    if isinstance(data, Mapping):
        train, rows = data["train"], data[split]
    else:
        train, rows = (read_rows(data, name, columns) for name in ("train", split))
        task = task_of(str(data))
        template = template or (task.bare if task else None)
    if template is None:
        template = "{prompt}" if any("prompt" in row for row in rows) else "{text}"
    shown = parse_template(template)
    if has_options(rows):
        return _by_options(train, rows, shown)
    return _by_answers(train, rows) if "references" in rows[0] else _by_class(train, rows, shown)


def equal_guesses(data: str) -> float | None:
    """Cross-entropy in nats of giving all classes, or options of a row, the same probability; None for free text."""
    rows = read_rows(data, "train")
    if has_options(rows):
        return math.fsum(math.log(len(options_of(row, _where(row, i))[0])) for i, row in enumerate(rows)) / len(rows)
    return math.log(len({label_name(row["label"]) for row in rows})) if "label" in rows[0] else None


def _text(row: Mapping[str, Any], index: int, template: Template) -> str:
    return template.fill(template.cells(row, _where(row, index)))


def _where(row: Mapping[str, Any], index: int) -> str:
    return getattr(row, "where", f"row {index + 1}")


def _by_class(train: Rows, rows: Rows, template: Template) -> dict[str, float]:
    counts: dict[str, Counter[str]] = {}
    classes: Counter[str] = Counter()
    for index, row in enumerate(train):
        label = _label(row, index)
        classes[label] += 1
        counts.setdefault(label, Counter()).update(words(_text(row, index, template)))
    known = set[str]().union(*counts.values())
    sums = {label: sum(own.values()) + len(known) for label, own in counts.items()}

    def likeliest(text: str) -> str:
        seen = [word for word in words(text) if word in known]
        return max(
            sorted(classes),
            key=lambda c: math.log(classes[c]) + sum(math.log((counts[c][word] + 1) / sums[c]) for word in seen),
        )

    commonest = min(classes, key=lambda label: (-classes[label], label))
    right = [(_label(row, index), likeliest(_text(row, index, template))) for index, row in enumerate(rows)]
    return {
        "majority": sum(label == commonest for label, _ in right) / len(right),
        "overlap": sum(label == found for label, found in right) / len(right),
    }


def _label(row: Mapping[str, Any], index: int) -> str:
    if "label" not in row:
        raise UsageError(
            f"{_where(row, index)} has no label, options or references, only {', '.join(row)}; a column of labels with "
            "another name is given with --label-column"
        )
    if row["label"] is None:
        raise UsageError(f"{_where(row, index)} has nothing in column 'label': name it, or give every row a label")
    return label_name(row["label"])


def _by_options(train: Rows, rows: Rows, template: Template) -> dict[str, float]:
    texts = [set(words(_text(row, index, template))) for index, row in enumerate(train)]
    seen = Counter(word for own in texts for word in own)
    places = Counter(options_of(row, _where(row, index))[1] for index, row in enumerate(train))
    commonest = min(places, key=lambda place: (-places[place], place))

    def idf(word: str) -> float:
        return math.log((1 + len(texts)) / (1 + seen[word]))

    right: dict[str, float] = {"majority": 0.0, "overlap": 0.0, "overlap_idf": 0.0}
    for index, row in enumerate(rows):
        options, label = options_of(row, _where(row, index))
        text = set(words(_text(row, index, template)))
        right["majority"] += label == commonest
        for name, weight in (("overlap", lambda word: 1.0), ("overlap_idf", idf)):
            shares = [_share(set(words(option)), text, weight) for option in options]
            best = [place for place, share in enumerate(shares) if share == max(shares)]
            right[name] += (label in best) / len(best)  # of a tie, what a guess among them is worth
    return {name: value / len(rows) for name, value in right.items()}


def _share(option: set[str], text: set[str], weight: Any) -> float:
    whole = math.fsum(map(weight, option))
    return math.fsum(map(weight, option & text)) / whole if whole else 0.0


def _by_answers(train: Rows, rows: Rows) -> dict[str, float]:
    answers = Counter(str(row["references"][0]) for row in train)
    commonest = min(answers, key=lambda answer: (-answers[answer], answer))
    majority = overlap = 0.0
    for row in rows:
        question = set(words(str(row.get("question", ""))))
        sentences = re.split(r"(?<=[.!?])\s+", str(row["text"]))
        shared = [len(question & set(words(sentence))) for sentence in sentences]
        majority += token_f1(commonest, row["references"])
        overlap += token_f1(sentences[shared.index(max(shared))], row["references"])
    return {"majority": majority / len(rows), "overlap": overlap / len(rows)}
