"""Every forward is counted in one place: rows and tokens through the root module, whoever called it."""

import functools
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.objectives.sequences import base_model


class Meter:
    """Totals since the run began: `calls` of the model, `examples` (rows) and `tokens` (padding left out). A forward
    that is differentiated counts three times: its backward pass costs two. (What a loss computes beside it under
    no_grad, a reference's probabilities, counts once.)"""

    def __init__(self) -> None:
        self.calls = self.examples = self.tokens = 0
        self._watched: list[nn.Module] = []
        self._weight, self._graded = 1, False

    @contextmanager
    def watching(self, model: nn.Module) -> Generator[None]:
        """Count every call of `model` inside the block, `generate` and `prepare` included; blocks may nest."""
        if any(own is model for own in self._watched):
            yield
            return
        self._watched.append(model)
        # inside a PEFT wrapper: its generate() calls the model in it, never the wrapper
        inner = base_model(model)
        own, placed = inner.forward, "forward" in vars(inner)

        # forward itself, not a hook: PEFT below 0.21 calls it without calling the module
        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._count(args, kwargs)
            return own(*args, **kwargs)

        inner.forward = forward
        try:
            yield
        finally:
            if placed:
                inner.forward = own
            else:
                del inner.forward
            self._watched.pop()

    @contextmanager
    def weighing(self, weight: int, graded: bool = False) -> Generator[None]:
        """Rows and tokens inside the block count `weight` times; where it is `graded`, those that a gradient goes
        through."""
        self._weight, self._graded = weight, graded
        try:
            yield
        finally:
            self._weight, self._graded = 1, False

    def add(self, examples: int, tokens: int = 0) -> None:
        """Count an evaluation that no module saw (a numpy function, a person)."""
        weight = 1 if self._graded and not torch.is_grad_enabled() else self._weight
        examples, tokens = weight * examples, weight * tokens
        self.calls, self.examples, self.tokens = (
            self.calls + 1,
            self.examples + examples,
            self.tokens + tokens,
        )

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = [kwargs.get(n) for n in ("input_ids", "decoder_input_ids", "inputs_embeds", "pixel_values")]
        first = next((t for t in (*named, *args, *kwargs.values()) if isinstance(t, Tensor)), None)
        if first is None or first.ndim == 0:
            self.add(1)
            return
        mask = kwargs.get("attention_mask")
        is_text = first.dtype in (torch.int32, torch.int64) and first.ndim == 2
        tokens = first.numel() if is_text else 0
        if is_text and isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= first.shape[1]:
            tokens = int(mask[:, -first.shape[1] :].sum())  # what comes before is a prefix or a cache
        self.add(first.shape[0], tokens)
