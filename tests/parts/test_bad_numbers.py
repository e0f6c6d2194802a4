"""Numbers that are none: settings are refused, values cost a step, a broken loss ends the run, measures say NaN."""

import math

import numpy as np
import pytest
import torch

import zerothorder as zo
from zerothorder.evaluation import auc


@pytest.mark.parametrize("lr", [math.nan, math.inf, -1.0, 1e39])
def test_a_rate_must_be_finite_and_not_negative(lr: float):
    model = torch.nn.Linear(2, 1)
    before = [p.detach().clone() for p in model.parameters()]
    opt = zo.ZerothOrder(model, "mezo", lr=1e-2)
    opt.param_groups[0]["lr"] = lr  # as a scheduler might
    with pytest.raises(zo.UsageError, match=r"lr is .* at step 0; give a finite number"):
        opt.step(lambda: model(torch.ones(1, 2)).sum())
    with pytest.raises(zo.UsageError, match=r"lr is"):
        zo.ZerothOrder(model, "mezo", lr=lr).step(lambda: model(torch.ones(1, 2)).sum())
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("eps", [0.0, -1e-3, math.inf, math.nan])
def test_eps_must_be_finite_and_positive(eps: float):
    with pytest.raises(zo.UsageError, match="eps is"):
        zo.ZerothOrder(torch.nn.Linear(2, 1), "mezo", eps=eps)


def test_twenty_values_in_a_row_that_are_no_numbers_end_any_run():
    model = torch.nn.Linear(2, 1)
    opt = zo.ZerothOrder(model, "mezo")
    for _ in range(19):
        opt.step(lambda: torch.tensor(math.nan))
    opt.step(lambda: model(torch.ones(1, 2)).sum())  # one good one, and the count begins again
    for _ in range(19):
        opt.step(lambda: torch.tensor(math.nan))
    with pytest.raises(zo.UsageError, match="20 steps in a row"):
        opt.step(lambda: torch.tensor(math.nan))
    with pytest.raises(zo.UsageError, match="20 steps in a row"):
        zo.minimize(lambda v: math.nan, np.zeros(2), budget=100)


def test_auc_of_scores_that_are_no_numbers_is_none():
    labels = torch.tensor([0, 1, 0, 1])
    assert math.isnan(auc(torch.tensor([0.1, math.nan, 0.2, 0.3]), labels))
    assert auc(torch.tensor([0.1, 0.4, 0.2, 0.3]), labels) == 1.0
