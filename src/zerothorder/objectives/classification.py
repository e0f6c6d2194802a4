"""Classification: which of a few words does the model put after the prompt, or which class does its head give?"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zerothorder.objectives.sequences import answer_nll, choice_logits, class_logits
from zerothorder.objectives.text import Examples, TextObjective
from zerothorder.point import Values


def candidate_scores(model: nn.Module, examples: Examples, pad_id: int) -> Tensor:
    """Mean log-probability of each candidate's tokens (up to a constant a row), float32 (rows, candidates).

    Where all candidates are single tokens and the same for every row this is one forward of the prompts;
    otherwise every (prompt, candidate) pair is a row of its own.
    """
    prompts, first = [e.prompt for e in examples], examples[0].answers
    if all(len(a) == 1 for a in first) and all(e.answers is first or e.answers == first for e in examples):
        return choice_logits(model, prompts, [a[0] for a in first], pad_id)
    if len({len(e.answers) for e in examples}) > 1:
        scores = [candidate_scores(model, [e], pad_id)[0] for e in examples]
        return torch.nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=float("-inf"))
    pairs = [(e.prompt, answer) for e in examples for answer in e.answers]
    nll = answer_nll(model, [p for p, _ in pairs], [a for _, a in pairs], pad_id)
    lengths = torch.tensor([len(a) for _, a in pairs], device=nll.device)
    return (-nll / lengths).view(len(examples), -1)


def class_scores(model: nn.Module, examples: Examples, pad_id: int, head: bool) -> Tensor:
    """Scores whose largest is the model's choice, float32 (rows, classes): of a `head` its logits, else
    `candidate_scores`."""
    return (
        class_logits(model, [e.prompt for e in examples], pad_id) if head else candidate_scores(model, examples, pad_id)
    )


@dataclass(frozen=True)
class Classification(TextObjective):
    """Cross-entropy over the candidates' mean log-probabilities, nats an example.

    L = -log softmax_c( (1/|c|) Σ_t log p(c_t | prompt, c_<t) )[label], as in MeZO; float32. With a classification
    `head` the scores under the softmax are its logits.
    """

    head: bool = False

    def evaluate(self, model: nn.Module, prepared: Examples) -> Values:
        """Cross-entropy of each example."""
        scores = class_scores(model, prepared, self.pad_id, self.head)
        labels = torch.tensor([e.label for e in prepared], device=scores.device)
        return Values.of(nn.functional.cross_entropy(scores, labels, reduction="none"))


@dataclass(frozen=True)
class Accuracy(TextObjective):
    """-1 for an example whose best candidate (or class of a `head`) is the right one, else 0: a metric, not
    differentiable."""

    head: bool = False

    def evaluate(self, model: nn.Module, prepared: Examples) -> Values:
        """Minus correctness of each example."""
        scores = class_scores(model, prepared, self.pad_id, self.head)
        labels = torch.tensor([e.label for e in prepared], device=scores.device)
        return Values.of(-(scores.argmax(1) == labels).float())
