"""Language modelling: negative log-likelihood of an answer after its prompt, teacher forced."""

from dataclasses import dataclass

import torch
from torch import nn

from zerothorder.objectives.sequences import answer_nll
from zerothorder.objectives.text import Examples, TextObjective
from zerothorder.point import Values


@dataclass(frozen=True)
class LanguageModel(TextObjective):
    """L = -(1/T) Σ_t log p(x_t | prompt, x_<t) over the answer's T tokens: nats a token, an example weighs T."""

    def evaluate(self, model: nn.Module, prepared: Examples) -> Values:
        """Mean NLL of each example's answer, weighted by its tokens."""
        # a text without a prompt is predicted from its first token on
        cut = [(e.prompt, e.answers[e.label]) if e.prompt else (e.answers[0][:1], e.answers[0][1:]) for e in prepared]
        nll = answer_nll(model, [p for p, _ in cut], [a for _, a in cut], self.pad_id)
        lengths = torch.tensor([float(len(a)) for _, a in cut], device=nll.device)
        return Values.of(nll / lengths, lengths)
