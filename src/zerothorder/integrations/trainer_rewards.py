"""The rewards that a trainer is given, checked whoever gave them: TRL takes one that is no number for none at all."""

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from zerothorder.errors import UsageError
from zerothorder.integrations.rewards import Check, checked

CONSTANT = 20
"""Generations in a row with one and the same reward, after which a run stops: it would learn nothing from them."""


class Rewards:
    """Of `trainer.reward_funcs`, functions are put behind a check; models are called by TRL itself, so what they say is
    heard where they are `listening`. Where all that are learned from are constant, the run stops: one of them alone may
    be, as a format that is always right, and so may one of weight zero, which is only looked at."""

    def __init__(self, trainer: Any) -> None:
        given = getattr(trainer, "reward_funcs", None)
        given = list(given) if isinstance(given, list | tuple) else []
        weights = getattr(trainer.args, "reward_weights", None) or [1.0] * len(given)
        flat = [_Flat(_name(own)) for own in given]
        self.learned = [own for own, weight in zip(flat, weights, strict=True) if weight]
        self.training = False
        checks = [Check(own.name, partial(self._heard, own)) for own in flat]
        pairs = list(zip(given, checks, strict=True))
        self.models = [(own, check) for own, check in pairs if isinstance(own, nn.Module)]
        if len(self.models) < len(given):
            trainer.reward_funcs = [own if isinstance(own, nn.Module) else checked(own, check) for own, check in pairs]

    @contextmanager
    def listening(self) -> Generator[None]:
        """Training: check what reward models give inside the block, and whether anything can be learned from it."""
        with ExitStack() as hooks:
            for model, check in self.models:
                hooks.callback(model.register_forward_hook(_heard(check)).remove)
            self.training = True
            try:
                yield
            finally:
                self.training = False

    def _heard(self, flat: "_Flat", numbers: Sequence[float]) -> None:
        if not self.training:  # an evaluation has other prompts, perhaps a single completion of each
            return
        flat.hear(numbers)
        if self.learned and all(own.generations >= CONSTANT for own in self.learned):
            said = " and ".join(f"the reward {own.name} gave {own.value:g}" for own in self.learned)
            raise UsageError(
                f"{said} to every completion of {CONSTANT} generations; nothing can be learned from a constant"
            )


@dataclass
class _Flat:
    """For how many generations in a row a reward has been one and the same number."""

    name: str
    value: float = math.nan
    generations: int = 0

    def hear(self, numbers: Sequence[float]) -> None:
        if len(numbers) < 2:  # says nothing of a difference
            return
        same = len(set(numbers)) == 1
        self.generations = (self.generations + 1 if numbers[0] == self.value else 1) if same else 0
        self.value = numbers[0]


def _heard(check: Check) -> Any:
    def hook(module: nn.Module, given: Any, output: Any) -> None:
        check(output.logits[:, 0].float().tolist())

    return hook


def _name(reward: Any) -> str:
    path = getattr(getattr(reward, "config", None), "_name_or_path", "")
    return str(path or getattr(reward, "__name__", type(reward).__name__))
