"""Rows become token ids: a prompt, and the answers that may follow it.

What a row means depends on the objective:
- classification: the template's prompt, and one candidate answer per verbalizer; without verbalizers the row's own
  `options`, of any number of tokens;
- lm: a `completion` after a prompt, or, without that column, a whole text (then the prompt holds only what
  the tokenizer puts before any text: usually nothing, or one token);
- metric: a prompt and the references that a generated answer is compared with; with verbalizers or options, the
  candidates of a classification and the right one as reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zerothorder.data.options import has_options, options_of
from zerothorder.data.prompts import Ids, Prompter
from zerothorder.data.quiet import hushed
from zerothorder.data.tables import is_missing
from zerothorder.data.templates import Template, Verbalizers, parse_template, parse_verbalizers
from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Example:
    """One row in token ids; `label` is the index of the right one of `answers` (with a head: the class)."""

    prompt: Ids
    answers: tuple[Ids, ...]
    label: int
    text: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """The examples, how many of them had to be cut, and the longest prompt with its longest answer."""

    examples: tuple[Example, ...]
    truncated: int
    max_tokens: int


@dataclass(frozen=True)
class _Goal:
    """What is known of a row beside its prompt."""

    answers: tuple[Ids, ...]
    label: int
    references: tuple[str, ...]


def encode(
    rows: Rows,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    objective: str,
    max_length: int,
    template: str | Template | None = None,
    verbalizers: str | Mapping[Any, str] | Verbalizers | None = None,
    chat: bool = False,
    head: bool = False,
    before: Ids = (),
) -> Encoded:
    """Tokenise `rows` into at most `max_length` tokens each, prompt and answer together.

    What is too long loses the left end of its text: never the template's own words, never the answer. `chat`
    puts the prompt into the tokenizer's chat template as a user's message. With a classification `head` there
    are no answer words, so `verbalizers` only name the classes. `before` are tokens that every prompt begins with,
    whatever else is cut; they count for the length.
    """
    if before:
        plain = encode(
            rows, tokenizer, objective=objective, max_length=max_length - len(before), template=template,
            verbalizers=verbalizers, chat=chat, head=head,
        )  # fmt: skip
        found = tuple(replace(example, prompt=before + example.prompt) for example in plain.examples)
        return Encoded(found, plain.truncated, _longest(found))
    whole = objective == "lm" and not any("completion" in row for row in rows)
    own = verbalizers is None and not head and objective != "lm" and has_options(rows)
    choice = objective == "classification" or (objective == "metric" and (own or verbalizers is not None))
    if whole and chat:
        raise UsageError("a chat needs a question and an answer: give rows with prompt and completion")
    if choice and verbalizers is None and template is None and not head and not own:
        raise UsageError(
            "classification needs to know its question and its answers: give a template like '{text} It was' and "
            "verbalizers that complete it, like 0=terrible,1=great"
        )
    if choice and verbalizers is None and not own:
        raise UsageError(
            "classification needs to know its answers: give verbalizers like 0=terrible,1=great, or every row options "
            "of its own"
        )
    if choice and template is None and not head and not own:
        raise UsageError("classification by words needs a template that they complete, like '{text} It was'")
    if template is None:
        template = "{prompt}" if any("prompt" in row for row in rows) else "{text}"
    prompter = Prompter(tokenizer, parse_template(template) if isinstance(template, str) else template, chat)
    with hushed():
        if whole:
            return _texts(rows, prompter, max_length)
        if own:
            goals = _own_choices(rows, prompter)
        elif choice and verbalizers is not None:
            goals = _choices(rows, prompter, parse_verbalizers(verbalizers), head)
        else:
            goals = _answered(rows, prompter, stop=objective == "lm")
        return _prompted(rows, prompter, goals, max_length)


def _texts(rows: Rows, prompter: Prompter, max_length: int) -> Encoded:
    tokenizer, template = prompter.tokenizer, prompter.template
    # Around an empty text: what starts a text (which may be the same token as the end), then what ends it.
    starts = (tokenizer.bos_token_id, tokenizer.cls_token_id)
    before = tuple(token for token in tokenizer("")["input_ids"][:1] if token in starts)
    room = max_length - len(before)
    if room < 2:
        raise UsageError(f"a maximum length of {max_length} leaves nothing to predict: give more")
    texts = [template.fill(template.cells(row, _where(row, index))) for index, row in enumerate(rows)]
    tokens = [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
    for index, ids in enumerate(tokens):
        if not ids:
            raise UsageError(f"{_where(rows[index], index)} has an empty text: correct or remove it")
    examples = tuple(Example(before, (ids[-room:],), 0, text, (text,)) for ids, text in zip(tokens, texts, strict=True))
    return Encoded(examples, sum(len(ids) > room for ids in tokens), _longest(examples))


def _choices(rows: Rows, prompter: Prompter, verbalizers: Verbalizers, head: bool) -> list[_Goal]:
    answers = () if head else _words(prompter, verbalizers)
    goals: list[_Goal] = []
    for index, row in enumerate(rows):
        where = _where(row, index)
        label = verbalizers.index(_cell(row, "label", where), where)
        goals.append(_Goal(answers, label, (verbalizers.words[label],)))
    return goals


def _own_choices(rows: Rows, prompter: Prompter) -> list[_Goal]:
    _refuse_space(prompter)
    goals: list[_Goal] = []
    for index, row in enumerate(rows):
        where = _where(row, index)
        options, label = options_of(row, where)
        answers = tuple(map(prompter.continuation, options))
        for place, ids in enumerate(answers):
            if not ids or ids in answers[:place]:
                raise UsageError(
                    f"{where} has the option {options[place]!r}, whose tokens are none or another's: change it"
                )
        goals.append(_Goal(answers, label, (options[label],)))
    return goals


def _answered(rows: Rows, prompter: Prompter, stop: bool) -> list[_Goal]:
    end = prompter.tokenizer.eos_token_id
    goals: list[_Goal] = []
    for index, row in enumerate(rows):
        where = _where(row, index)
        if stop:
            # As given, so that the data decides about the space in front; the model has to learn to stop.
            references = (str(_cell(row, "completion", where)),)
            answer = (*prompter.plain(references[0]), *(() if end is None else (end,)))
        else:
            references = _references(row, where)
            answer = prompter.continuation(references[0])
        goals.append(_Goal((answer,), 0, references))
    return goals


def _prompted(rows: Rows, prompter: Prompter, goals: Sequence[_Goal], max_length: int) -> Encoded:
    template = prompter.template
    cells = [template.cells(row, _where(row, index)) for index, row in enumerate(rows)]
    examples: list[Example] = []
    truncated = 0
    for index, (prompt, goal) in enumerate(zip(prompter.prompts(cells), goals, strict=True)):
        room = max_length - max(map(len, goal.answers), default=0)
        if len(prompt) > room:
            prompt, fits = prompter.shortened(cells[index], room)
            if not fits:
                bare = len(prompt) + max_length - room
                raise UsageError(
                    f"{_where(rows[index], index)} does not fit a maximum length of {max_length}: "
                    f"without its text it takes {bare} tokens already; allow more than that"
                )
            truncated += 1
        text = template.fill(cells[index])
        examples.append(Example(prompt, goal.answers, goal.label, text, goal.references))
    return Encoded(tuple(examples), truncated, _longest(examples))


def _words(prompter: Prompter, verbalizers: Verbalizers) -> tuple[Ids, ...]:
    """The tokens of each verbalizer; a classification reads the first of them, so these have to differ."""
    _refuse_space(prompter)
    answers = tuple(prompter.continuation(word) for word in verbalizers.words)
    first: dict[int, str] = {}
    for word, ids in zip(verbalizers.words, answers, strict=True):
        if not ids:
            raise UsageError(f"the verbalizer {word!r} has no tokens in this tokenizer: choose another word")
        if ids[0] in first:
            raise UsageError(
                f"the verbalizers {first[ids[0]]!r} and {word!r} begin with the same token: take other words"
            )
        first[ids[0]] = word
    return answers


def _refuse_space(prompter: Prompter) -> None:
    if prompter.template.tail.endswith(" ") and not prompter.chat:
        raise UsageError("the template ends with a space, but the answer brings its own: take the space away")


def _longest(examples: Sequence[Example]) -> int:
    return max((len(row.prompt) + max(map(len, row.answers), default=0) for row in examples), default=0)


def _where(row: Mapping[str, Any], index: int) -> str:
    return getattr(row, "where", f"row {index + 1}")


def _cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    if is_missing(row.get(column)):
        known = ", ".join(row)
        raise UsageError(f"{where} has nothing in column {column!r} (it has {known}): give every row a {column}")
    return row[column]


def _references(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    column = next((name for name in ("references", "completion", "label") if name in row), "references")
    value = _cell(row, column, where)
    references = tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
    if not references or any(is_missing(reference) for reference in references):
        raise UsageError(f"{where} has an empty answer in column {column!r}: give at least one reference")
    return references
