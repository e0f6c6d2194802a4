"""Token F1 of generated answers: an objective with no gradient."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zerothorder.objectives.head import packed_head_input
from zerothorder.objectives.sequences import device_of, is_encoder_decoder, pad
from zerothorder.objectives.text import Examples, TextObjective
from zerothorder.point import Values

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """Words in lower case without punctuation and articles (the SQuAD rule)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Best over references of 2·|common| / (|answer| + |reference|) in words with multiplicity; 1 if both empty."""

    def one(reference: str) -> float:
        a, b = normalised(answer), normalised(reference)
        if not a or not b:
            return float(a == b)
        return 2 * sum((Counter(a) & Counter(b)).values()) / (len(a) + len(b))

    return max(map(one, references))


def generate(
    model: nn.Module, examples: Examples, decode: Callable[[list[int]], str], pad_id: int, max_new_tokens: int
) -> list[str]:
    """Greedy continuations of the prompts, up to the first newline; pads masked out."""
    batch = pad([e.prompt for e in examples], pad_id, device_of(model), left=not is_encoder_decoder(model))
    batch.pop("position_ids", None)  # generate() derives them from the mask
    call: Any = model
    with packed_head_input(model):
        out = call.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad_id)
    new = out if is_encoder_decoder(model) else out[:, batch["input_ids"].shape[1] :]
    return [decode(row).split("\n")[0].strip() for row in new.tolist()]


@dataclass(frozen=True)
class TokenF1(TextObjective):
    """-F1 between the generated answer and the best reference, an example. Source: MeZO's SQuAD objective.

    `decode` turns token ids into text without special tokens; at most `max_new_tokens` are generated.
    """

    decode: Callable[[list[int]], str]
    max_new_tokens: int = 50

    def evaluate(self, model: nn.Module, prepared: Examples) -> Values:
        """Minus F1 of each example."""
        answers = generate(model, prepared, self.decode, self.pad_id, self.max_new_tokens)
        scores = [-token_f1(answer, e.references) for answer, e in zip(answers, prepared, strict=True)]
        return Values.of(torch.tensor(scores))
