"""A text task for preference optimisation: prompts and reference answers, as two templates write them from rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zerothorder.data import read_rows
from zerothorder.data.quiet import need
from zerothorder.data.templates import parse_template
from zerothorder.errors import UsageError

Asked = Mapping[str, Sequence[str]]
"""{"prompt": …, "reference": …}"""


@dataclass(frozen=True)
class Answers:
    """Rows of `data` (what `read_rows` knows) by the templates `prompt` and `reference`, columns in braces; prompts of
    more than `longest` tokens are left out."""

    data: str
    prompt: str
    reference: str
    longest: int = 48

    def rows(self, tokenizer: Any, split: str, count: int) -> dict[str, list[str]]:
        """The first `count` rows of the split whose prompts are short enough. UsageError where there is none."""
        prompt, reference = parse_template(self.prompt), parse_template(self.reference)
        found: dict[str, list[str]] = {"prompt": [], "reference": []}
        for row in read_rows(self.data, split):
            text = prompt.fill(prompt.cells(row, row.where))
            if len(tokenizer(text)["input_ids"]) <= self.longest and len(found["prompt"]) < count:
                found["prompt"].append(text)
                found["reference"].append(reference.fill(reference.cells(row, row.where)))
        if not found["prompt"]:
            raise UsageError(f"no prompt of {self.data} has at most {self.longest} tokens; raise longest")
        return found


def prompts(asked: Asked) -> Any:
    """A data set for RLOO; the reward is given the references."""
    return need("datasets", "prompts").Dataset.from_dict({name: list(values) for name, values in asked.items()})


def share(rows: Any, number: int, size: int) -> Any:
    """The `number`-th part of `size` rows of a data set, which begins again where it ends."""
    count = len(rows)
    return rows.select([at % count for at in range(number * size, number * size + min(size, count))])


def pairs(asked: Asked) -> Any:
    """TRL's preference rows: the reference against that of the next prompt."""
    others = [*asked["reference"][1:], *asked["reference"][:1]]
    rows = zip(asked["prompt"], asked["reference"], others, strict=True)
    made = [{"prompt": p, "chosen": _said(p, a), "rejected": _said(p, b)} for p, a, b in rows if a != b]
    return need("datasets", "preference rows").Dataset.from_list(made)


def demonstrations(asked: Asked) -> Any:
    """TRL's rows for supervised fine-tuning: the reference as what is said to a prompt."""
    rows = zip(asked["prompt"], asked["reference"], strict=True)
    made = [{"prompt": p, "completion": _said(p, a)} for p, a in rows]
    return need("datasets", "demonstrations").Dataset.from_list(made)


def _said(prompt: str, answer: str) -> str:
    """As a completion: after a space, where the prompt has none, and with the line's end that stops one."""
    return f"{answer}\n" if prompt[-1:].isspace() else f" {answer}\n"
