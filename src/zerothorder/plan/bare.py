"""A run's model and searched tensors without their numbers, and what a step of it costs."""

import torch
from torch import nn

from zerothorder import catalogue
from zerothorder.execution.evaluate import WEIGHT
from zerothorder.integrations.peft import apply_scheme
from zerothorder.key import run_key
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.prepared import prepared, step_of
from zerothorder.plan.source import Source, find
from zerothorder.plan.trace import build, with_data, without_data
from zerothorder.space import ParameterSpace
from zerothorder.task import freeze


def bare(config: PlanConfig, source: Source) -> tuple[nn.Module, ParameterSpace]:
    """To be called inside `without_data()`, which what comes of it stays bound to."""
    options = {} if config.attention is None else {"attn_implementation": config.attention}
    model = build(source.auto, source.config, getattr(torch, config.dtype), config.model, **options)
    model = apply_scheme(model, config.scheme, run_key(config.seed))
    freeze(model, config.freeze)
    return model, ParameterSpace.of(model, precision=config.precision)


def forwards_a_step(config: PlanConfig) -> int:
    """Forward-equivalents of a step: 1 a value, 2 a slope, 3 a gradient, whatever share of the weights it moves.

    Nothing of the model is read but its configuration. UsageError for an unknown recipe, scheme or model.
    """
    recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
    source = find(config.model, config.head, config.trust_remote_code)
    with without_data():
        _, space = bare(config, source)
        with with_data():
            rounds, _ = step_of(recipe, config.steps, prepared(recipe, space))
    return sum(WEIGHT[point.want] for points in rounds for point in points)
