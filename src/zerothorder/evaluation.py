"""Held-out measures: plain and calibrated accuracy, AUC, loss, F1; length-sorted batches, in inference mode."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zerothorder.objectives.classification import class_scores
from zerothorder.objectives.text import Examples
from zerothorder.task import Task

CALIBRATION_ROWS = 500
"""Unlabelled training rows whose median score is the threshold of the calibrated accuracy."""


def evaluate(
    task: Task,
    split: str,
    kind: str,
    rows: int = 0,
    calibrate: int = 0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Measures of the model on `rows` examples of a split (0: all).

    Classification: accuracy (best candidate), loss (cross-entropy), and for two classes AUC of the score
    difference; with `calibrate` also calibrated_accuracy, where candidates are the same for all rows: each one's score
    less its median (`offsets`) over that many unlabelled training examples. Other objectives: their own mean. `rows` is
    the number of examples measured. A model whose scores are not numbers gets NaN for all.
    """
    examples = task.splits[split]
    examples = examples[:rows] if rows else examples
    classes = len(task.classes or examples[0].answers)
    if kind != "classification" and not (kind == "metric" and classes > 1):
        value = mean_value(task, examples, batch_size, progress)
        return {"rows": len(examples), **({"loss": value} if kind == "lm" else {"f1": -value})}
    shared = all(e.answers is examples[0].answers or e.answers == examples[0].answers for e in examples)
    unlabelled = task.splits["train"][:calibrate] if calibrate and shared else ()
    total = len(examples) + len(unlabelled)
    scores = all_scores(task, examples, batch_size, lambda done, _: progress(done, total))
    labels = torch.tensor([e.label for e in examples])
    right = (scores.argmax(1) == labels).double()
    found = {
        "rows": len(examples),
        "accuracy": float("nan") if scores.isnan().any() else float(right.mean()),
        "loss": float(torch.nn.functional.cross_entropy(scores.double(), labels)),
    }
    if shared and scores.shape[1] == 2:
        found["auc"] = auc(scores[:, 1] - scores[:, 0], labels)
    if unlabelled:
        others = all_scores(task, unlabelled, batch_size, lambda done, _: progress(len(examples) + done, total))
        calibrated = ((scores.double() - offsets(others)).argmax(1) == labels).double()
        found["calibrated_accuracy"] = float("nan") if scores.isnan().any() else float(calibrated.mean())
    return found


def offsets(scores: Tensor) -> Tensor:
    """What each candidate's score is usually above the mean of its row: medians over rows, float64 (candidates,).

    With two candidates, to take them off is to compare the score difference with its median.
    """
    scores = scores.double()
    return (scores - scores.mean(1, keepdim=True)).median(0).values


def auc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a positive example scores above a negative one, ties half (Mann-Whitney).

    NaN where one class is missing or a score is no number.
    """
    if scores.isnan().any():
        return float("nan")
    positive, negative = scores[labels == 1].double(), scores[labels == 0].double()
    if not len(positive) or not len(negative):
        return float("nan")
    order, _ = negative.sort()
    below = torch.searchsorted(order, positive).double()
    not_above = torch.searchsorted(order, positive, right=True).double()
    return float(((below + not_above) / 2).mean() / len(negative))


def _batches(examples: Examples, batch_size: int) -> list[list[int]]:
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    return [by_length[at : at + batch_size] for at in range(0, len(by_length), batch_size)]


def all_scores(task: Task, examples: Examples, batch_size: int, progress: Callable[[int, int], None]) -> Tensor:
    """Candidate scores of every example, in their order, float32 (examples, most candidates); else -inf."""
    scores: dict[int, Tensor] = {}
    for rows in _batches(examples, batch_size):
        with torch.inference_mode():
            found = class_scores(task.model, [examples[i] for i in rows], task.pad_id, bool(task.classes)).cpu()
        scores.update(zip(rows, found, strict=True))
        progress(len(scores), len(examples))
    ordered = [scores[i] for i in range(len(examples))]
    return torch.nn.utils.rnn.pad_sequence(ordered, batch_first=True, padding_value=float("-inf"))


def mean_value(task: Task, examples: Sequence[Any], batch_size: int, progress: Callable[[int, int], None]) -> float:
    """The objective's weighted mean over examples."""
    total, weight, done = 0.0, 0.0, 0
    inner = getattr(task.objective, "objective", task.objective)
    for rows in _batches(examples, batch_size):
        with torch.inference_mode():
            values = inner.evaluate(task.model, [examples[i] for i in rows])
        total += float((values.value.double() * values.weight.double()).sum())
        weight += float(values.weight.double().sum())
        done += len(rows)
        progress(done, len(examples))
    return total / weight
