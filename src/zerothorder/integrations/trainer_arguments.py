"""Training arguments that make no sense without a backward pass: switched off with a note, or refused with why."""

import logging
from collections.abc import Callable
from typing import Any

from zerothorder.errors import UsageError

_log = logging.getLogger(__name__)

_NO_BACKWARD = "no backward pass keeps activations"
_OFF: dict[str, tuple[Any, str]] = {
    "gradient_checkpointing": (False, _NO_BACKWARD),
    "activation_offloading": (False, _NO_BACKWARD),
    "use_liger_kernel": (False, "its kernels compute gradients within the forward"),
    "max_grad_norm": (0.0, "there is no gradient to clip"),
}
"""Argument → (its value without effect, why)."""


def _on(name: str) -> Callable[[Any, Any], bool]:
    return lambda trainer, args: bool(getattr(args, name, None))


_REFUSED: tuple[tuple[Callable[[Any, Any], bool], str], ...] = (
    (_on("fp16"), "fp16=True scales gradients, of which there are none; use bf16=True, or load the model in float16"),
    (_on("deepspeed"), "DeepSpeed shards the weights, which are perturbed here; leave deepspeed out"),
    (_on("fsdp"), "FSDP shards the weights, which are perturbed here; leave fsdp out"),
    (
        lambda trainer, args: getattr(args, "world_size", 1) > 1 or getattr(args, "n_gpu", 1) > 1,
        "training on several devices is not supported yet; start one process with one device",
    ),
    (
        _on("use_weighting"),
        (
            "use_weighting=True multiplies the loss by weights that are constant to a gradient but not to a "
            "perturbation: a step would follow another function; leave it out"
        ),
    ),
    (
        lambda trainer, args: any("GRPO" in kind.__name__ for kind in type(trainer).__mro__),
        (
            "GRPO divides by the policy's own probabilities, which move with every perturbation: the ratio is 1 "
            "everywhere and the estimate exactly 0; use RLOO, which keeps the probabilities of the generation"
        ),
    ),
)


def settle(trainer: Any, note: Callable[[str], None] = _log.warning) -> None:
    """Change or refuse what `trainer.args` asks for. UsageError names the argument and what to do instead."""
    args = trainer.args
    for asked, why in _REFUSED:
        if asked(trainer, args):
            raise UsageError(why)
    for name, (off, why) in _OFF.items():
        if getattr(args, name, off) != off:
            if name != "max_grad_norm" or args.max_grad_norm != _default(args, name):
                note(f"{name} is switched off: {why}")
            setattr(args, name, off)
    if "discopop" in _losses(args):
        note(
            "discopop falls where the reference is: from there its slope rewards making the chosen answer less likely "
            "(+0.78 beta at tau 0.05); begin from a policy that has left the reference"
        )
    model = trainer.model
    if getattr(model, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_disable()


def _default(args: Any, name: str) -> Any:
    field = type(args).__dataclass_fields__.get(name)
    return None if field is None else field.default


def _losses(args: Any) -> tuple[str, ...]:
    found = getattr(args, "loss_type", ()) or ()
    return (found,) if isinstance(found, str) else tuple(found)
