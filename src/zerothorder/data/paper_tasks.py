"""The tasks of the papers (MeZO, ZO-Bench) by their `datasets` names, in our own words.

Columns are those of the hub's rows. What is long and may be cut is called `text`, and rows with one text lie in one
split (`held_out`).
"""

import re
from collections.abc import Mapping
from typing import Any

from zerothorder.data.formats import Row
from zerothorder.data.named import NamedTask, each

Made = dict[str, Any]
BLANK = "____"


def _renamed(**columns: str) -> Any:
    """Our columns from the source's, and its label."""
    return each(lambda row: {ours: row[theirs] for ours, theirs in columns.items()} | {"label": row["label"]})


def _wsc(row: Row) -> Made:
    return {"text": row["text"], "noun": row["span1_text"], "pronoun": row["span2_text"], "label": row["label"]}


def _copa(row: Row) -> Made:
    link = {"cause": "because", "effect": "so"}[row["question"]]
    premise = row["premise"].strip()
    made = {"text": premise.rstrip("."), "link": link, "premise": premise}
    return made | _chosen([_within(row["choice1"]), _within(row["choice2"])], row["label"])


def _within(sentence: str) -> str:
    """A sentence inside of another: its first word in lower case, unless it is I."""
    sentence = sentence.strip()
    return sentence if re.match(r"I\b", sentence) else sentence[:1].lower() + sentence[1:]


def _record(row: Row) -> Made:
    """One right name is kept: other spellings of it are right too, so they may not stand among the wrong options."""
    right = row["answers"][0]
    names = [name for name in dict.fromkeys(row["entities"]) if name == right or name not in row["answers"]]
    passage = row["passage"].replace("@highlight\n", "").strip()
    return {"text": passage, "query": row["query"].replace("@placeholder", BLANK)} | _chosen(names, names.index(right))


def _winogrande(row: Row) -> Made:
    """The text up to the blank; each option goes on to the end of the sentence."""
    before, after = row["sentence"].split("_", 1)
    options = [row[name] + after for name in ("option1", "option2")]
    made = {"text": before.strip(), "sentence": row["sentence"].replace("_", BLANK)}
    return made | _chosen(options, int(row["answer"]) - 1)


def _chosen(options: list[str], label: int) -> Made:
    """Options, the right one, and the same as a completion, which the objective lm learns."""
    return {"options": options, "label": int(label), "completion": " " + options[label]}


def _squad(row: Row) -> Made:
    made = {"title": row["title"].replace("_", " "), "text": row["context"], "question": row["question"].strip()}
    return made | _answered(row["answers"]["text"])


def _drop(row: Row) -> Made:
    return {"text": row["passage"], "question": row["question"].strip()} | _answered(_spans(row["answers_spans"]))


def _spans(found: Any) -> list[str]:
    """Spans of DROP: a struct of lists, or a list of structs, by the version of `datasets` that wrote them."""
    return list(found["spans"]) if isinstance(found, Mapping) else [span["spans"] for span in found]


def _answered(answers: list[str]) -> Made:
    return {"references": list(dict.fromkeys(answers)), "completion": " " + answers[0]}


_GLUE = "no known licence for the whole; fetched from the hub"

PAPER = {
    "sst2": NamedTask(
        "is a phrase from a film review positive?",
        "nyu-mll/glue:sst2",
        template="{text}\nAll in all, the film was",
        bare="{text}",
        verbalizers="0=terrible,1=great",
        read=_renamed(text="sentence"),
        licence=_GLUE,
    ),
    "rte": NamedTask(
        "does a text say that a hypothesis is true?",
        "aps/super_glue:rte",
        template='{text}\nGoing by this text, is it true that "{hypothesis}"? Yes or no:',
        bare="{text} {hypothesis}",
        verbalizers="0=Yes,1=No",
        read=_renamed(text="premise", hypothesis="hypothesis"),
        licence=_GLUE,
    ),
    "cb": NamedTask(
        "does a text commit its author to a hypothesis, against it, or neither?",
        "aps/super_glue:cb",
        template='{text}\nDoes the author hold that "{hypothesis}"? Yes, no or maybe:',
        bare="{text} {hypothesis}",
        verbalizers="0=Yes,1=No,2=Maybe",
        read=_renamed(text="premise", hypothesis="hypothesis"),
        licence=_GLUE,
    ),
    "boolq": NamedTask(
        "is the answer to a question about a passage yes?",
        "aps/super_glue:boolq",
        template="{text}\nThe question is: {question}?\nThe passage says yes or no:",
        bare="{text} {question}",
        verbalizers="0=No,1=Yes",
        read=_renamed(text="passage", question="question"),
        licence="CC BY-SA 3.0; fetched from the hub",
    ),
    "wsc": NamedTask(
        "does a pronoun stand for a given noun?",
        "aps/super_glue:wsc.fixed",
        template='{text}\nHere "{pronoun}" means "{noun}". Yes or no:',
        bare="{text} {pronoun} {noun}",
        verbalizers="0=No,1=Yes",
        read=each(_wsc),
        licence=_GLUE,
    ),
    "wic": NamedTask(
        "has a word the same sense in two sentences?",
        "aps/super_glue:wic",
        template='{text}\n{other}\nIn both lines "{word}" has one and the same sense. Yes or no:',
        bare="{text} {other} {word}",
        verbalizers="0=No,1=Yes",
        read=_renamed(text="sentence1", other="sentence2", word="word"),
        licence=_GLUE,
    ),
    "copa": NamedTask(
        "which of two sentences is the cause or the effect of another?",
        "aps/super_glue:copa",
        template="{text} {link}",
        bare="{premise}",
        read=each(_copa),
        licence=_GLUE,
    ),
    "multirc": NamedTask(
        "is a given answer to a question about a passage right?",
        "aps/super_glue:multirc",
        template="{text}\nQuestion: {question}\nA reader answers: {answer}\nIs the reader right? Yes or no:",
        bare="{text} {question} {answer}",
        verbalizers="0=No,1=Yes",
        read=_renamed(text="paragraph", question="question", answer="answer"),
        licence=_GLUE,
    ),
    "record": NamedTask(
        "which name of an article is missing in a sentence about it?",
        "aps/super_glue:record",
        template=f"{{text}}\n\n{{query}}\nThe name that belongs in {BLANK} is",
        bare="{text} {query}",
        read=each(_record),
        licence=_GLUE,
    ),
    "winogrande": NamedTask(
        "which of two names fits into the blank of a sentence?",
        "allenai/winogrande:winogrande_m",
        template="{text}",
        bare="{sentence}",
        read=each(_winogrande),
        licence="CC BY; fetched from the hub",
    ),
    "squad": NamedTask(
        "answer a question in words of a passage",
        "rajpurkar/squad",
        template='{title}\n{text}\nWhat the passage says about "{question}" in a few words:',
        bare="{text} {question}",
        generated=True,
        read=each(_squad),
        licence="CC BY-SA 4.0; fetched from the hub",
    ),
    "drop": NamedTask(
        "answer a question about a passage that takes counting or comparing",
        "ucinlp/drop",
        template="{text}\nFrom this passage, {question}\nIn a word or a number:",
        bare="{text} {question}",
        generated=True,
        read=each(_drop),
        licence="CC BY-SA 4.0; fetched from the hub",
    ),
}
