"""The rewards that a trainer is given, checked whoever gave them: TRL takes one that is no number for none at all."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from zerothorder.integrations.rewards import Check, checked


class Rewards:
    """Of `trainer.reward_funcs`, functions are put behind a check; models are called by TRL itself, so what they say is
    heard where they are `listening`. One of weight zero is only looked at, and may be constant."""

    def __init__(self, trainer: Any) -> None:
        given = getattr(trainer, "reward_funcs", None)
        given = list(given) if isinstance(given, list | tuple) else []
        weights = getattr(trainer.args, "reward_weights", None) or [1.0] * len(given)
        learned = [weight != 0 for weight in weights]
        pairs = list(zip(given, learned, strict=True))
        self.models = [(own, Check(_name(own), moves)) for own, moves in pairs if isinstance(own, nn.Module)]
        if len(self.models) < len(given):
            trainer.reward_funcs = [
                own if isinstance(own, nn.Module) else checked(own, _name(own), moves) for own, moves in pairs
            ]

    @contextmanager
    def listening(self) -> Generator[None]:
        """Check what reward models give inside the block."""
        with ExitStack() as hooks:
            for model, check in self.models:
                hooks.callback(model.register_forward_hook(_heard(check)).remove)
            yield


def _heard(check: Check) -> Any:
    def hook(module: nn.Module, given: Any, output: Any) -> None:
        check(output.logits[:, 0].float().tolist())

    return hook


def _name(reward: Any) -> str:
    path = getattr(getattr(reward, "config", None), "_name_or_path", "")
    return str(path or getattr(reward, "__name__", type(reward).__name__))
