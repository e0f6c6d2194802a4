"""Training arguments that make no sense without a backward pass: switched off with a note, or refused with why."""

import inspect
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

from zerothorder import catalogue
from zerothorder.errors import UsageError
from zerothorder.recipe import Recipe

_log = logging.getLogger(__name__)

_NO_BACKWARD = "no backward pass keeps activations"
_OFF: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("gradient_checkpointing", "activation_checkpointing"), False, _NO_BACKWARD),
    (("activation_offloading",), False, _NO_BACKWARD),
    (("use_liger_kernel",), False, "its kernels compute gradients within the forward"),
    (("max_grad_norm",), 0.0, "there is no gradient to clip"),
)
"""(names of one argument, of which transformers' versions have one or both; its value without effect, why)."""

_Asked = Callable[[Any, Any], bool]


def _on(name: str) -> _Asked:
    return lambda trainer, args: bool(getattr(args, name, None))


def _loss(name: str) -> _Asked:
    return lambda trainer, args: name in _losses(args)


def _kind(*names: str) -> _Asked:
    return lambda trainer, args: any(kind.__name__.endswith(names) for kind in type(trainer).__mro__)


def _own_backward(trainer: Any, args: Any) -> bool:
    """Whether a class of the trainer's calls backward() on a loss that does not come from compute_loss."""
    for kind in type(trainer).__mro__:
        for name in ("training_step", "train"):
            own = kind.__dict__.get(name)
            code = getattr(inspect.unwrap(own), "__code__", None) if callable(own) else None
            if code is not None and "backward" in code.co_names and "compute_loss" not in code.co_names:
                return True
    return False


def _over_the_mixin(trainer: Any, args: Any) -> bool:
    """Whether a class that comes before TrainerMixin computes a part of the loss, which no point would reach."""
    kinds = type(trainer).__mro__
    mixin = next((at for at, kind in enumerate(kinds) if kind.__name__ == "TrainerMixin"), 0)
    return any("compute_loss" in kind.__dict__ for kind in kinds[:mixin])


_REFUSED: tuple[tuple[_Asked, str], ...] = (
    (_on("fp16"), "fp16=True scales gradients, of which there are none; use bf16=True, or load the model in float16"),
    (_on("deepspeed"), "DeepSpeed shards the weights, which are perturbed here; leave deepspeed out"),
    (_on("fsdp"), "FSDP shards the weights, which are perturbed here; leave fsdp out"),
    (
        lambda trainer, args: getattr(args, "world_size", 1) > 1 or getattr(args, "n_gpu", 1) > 1,
        "training on several devices is not supported yet; start one process with one device",
    ),
    (
        _on("torch_compile"),
        "torch_compile=True fixes the weights a graph reads, which are exchanged at every point; leave it out",
    ),
    (
        _on("auto_find_batch_size"),
        (
            "auto_find_batch_size=True begins the training again with smaller batches, in the middle of a run that its "
            "ledger has written down; set per_device_train_batch_size"
        ),
    ),
    (
        lambda trainer, args: getattr(trainer, "model_init", None) is not None,
        (
            "model_init makes another model in train() than the one the ledger begins with; give model=model_init(), "
            "and search hyperparameters with a trainer for each trial"
        ),
    ),
    (
        _over_the_mixin,
        (
            "a compute_loss that comes before TrainerMixin's is evaluated at no perturbed point, so what it adds would "
            "not be trained; move it into a trainer behind the mixin: class Mine(zo.TrainerMixin, WithMyLoss)"
        ),
    ),
    (
        _own_backward,
        (
            "this trainer computes its loss in a training_step of its own, where no other point can be evaluated; use "
            "one that has it in compute_loss: DPO, KTO, RLOO"
        ),
    ),
)

_FOLLOWS_ANOTHER = "that is constant to a gradient but not to a perturbation: a step would follow another function"
_NOT_CONSTANT: tuple[tuple[_Asked, str], ...] = (
    (_on("use_weighting"), f"use_weighting=True multiplies the loss by a weight {_FOLLOWS_ANOTHER}; leave it out"),
    (
        _loss("dft"),
        f"loss_type 'dft' multiplies the loss by a probability {_FOLLOWS_ANOTHER}; use loss_type 'nll'",
    ),
    (
        _kind("SDFTTrainer", "SDPOTrainer", "IWOPDTrainer"),
        (
            f"self-distillation on sampled tokens multiplies the loss by a log-ratio {_FOLLOWS_ANOTHER}; use "
            "DistillationTrainer or GKDTrainer, whose divergence is a function of the weights"
        ),
    ),
    (
        _kind("BCOTrainer"),
        (
            f"BCOTrainer subtracts a running mean of the policy's rewards {_FOLLOWS_ANOTHER}; use DPOTrainer with "
            "loss_type 'bco_pair', or KTOTrainer"
        ),
    ),
    (
        _kind("GRPOTrainer"),
        (
            "GRPO divides by the policy's own probabilities, which move with every perturbation: the ratio is 1 "
            "everywhere and the estimate exactly 0; use RLOO, which keeps the probabilities of the generation"
        ),
    ),
)
"""Losses with a factor made constant by detach(), which nobody outside can tell; a gradient knows it for what it is."""


def perturbs(recipe: str | Recipe) -> bool:
    """Whether a recipe evaluates the loss at other weights than θ; first-order ones do not."""
    return bool((catalogue.row(recipe).recipe if isinstance(recipe, str) else recipe).tags)


def given(values: Iterable[Any]) -> Any | None:
    """The training arguments among what a trainer is made with, wherever its signature has them."""
    return next((value for value in values if hasattr(value, "per_device_train_batch_size")), None)


def settle(trainer: Any, args: Any, recipe: str | Recipe, note: Callable[[str], None] = _log.warning) -> None:
    """Change or refuse what `args` ask for. UsageError names the argument and what to do instead."""
    for asked, why in (*_REFUSED, *(_NOT_CONSTANT if perturbs(recipe) else ())):
        if asked(trainer, args):
            raise UsageError(why)
    for names, off, why in _OFF:
        on = [name for name in names if getattr(args, name, off) != off]
        if on and getattr(args, on[0]) not in [_default(args, name) for name in names]:
            note(f"{on[0]} is switched off: {why}")
        for name in on:
            setattr(args, name, off)
    model: Any = getattr(trainer, "model", None)
    if getattr(model, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_disable()


def advise(args: Any, note: Callable[[str], None] = _log.warning) -> None:
    """Say what is allowed and seldom meant."""
    if "discopop" in _losses(args) and (slope := discopop_slope(args.beta, args.discopop_tau)) > 0:
        note(
            "discopop falls where the reference is: from there its slope rewards making the chosen answer less likely "
            f"({slope:+.3g} at beta {args.beta:g} and discopop_tau {args.discopop_tau:g}); set discopop_tau to 0.11 or "
            "more, or begin from a policy that has left the reference"
        )


def discopop_slope(beta: float, tau: float) -> float:
    """Derivative of DiscoPOP's loss in the log-ratio difference, where policy and reference agree."""
    return beta * ((1 - math.log(2)) / (4 * tau) - 3 / 4)


def _default(args: Any, name: str) -> Any:
    field = getattr(type(args), "__dataclass_fields__", {}).get(name)
    return None if field is None else field.default


def _losses(args: Any) -> tuple[str, ...]:
    found = getattr(args, "loss_type", ()) or ()
    return (found,) if isinstance(found, str) else tuple(found)
