"""The trainers of TRL on toys: what each is made with, and the slopes of its loss."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import zerothorder as zo
from trl_toys import arguments, llama, rows, scorer, tokenizer
from zerothorder.point import Point

trl = pytest.importorskip("trl")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@dataclass(frozen=True)
class Kind:
    """A trainer, the form of its rows, and what it is given beyond them."""

    trainer: Callable[[], Any]
    form: str
    args: dict[str, Any]
    named: Callable[[], dict[str, Any]]
    names: tuple[str, ...] = ()
    model: Callable[[], Any] = llama


def experimental(module: str, name: str) -> Callable[[], Any]:
    def load() -> Any:
        return getattr(importlib.import_module(f"trl.experimental.{module}"), name)

    return load


def distinct(completions: list[str], **others: Any) -> list[float]:
    return [float(len(set(text.split()))) for text in completions]


_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
KINDS = {
    "sft": Kind(lambda: trl.SFTTrainer, "text", {}, dict, ("mean_token_accuracy", "entropy", "num_tokens")),
    "dpo": Kind(
        lambda: trl.DPOTrainer, "preference", {"precompute_ref_log_probs": True}, dict,
        (*_REWARDS, "logps/chosen", "logits/chosen", "num_tokens"),
    ),
    "dpo with its reference": Kind(
        lambda: trl.DPOTrainer, "preference", {}, lambda: {"ref_model": llama(1)}, (*_REWARDS, "num_tokens")
    ),
    "kto": Kind(
        lambda: trl.KTOTrainer, "unpaired", {"train_sampling_strategy": "sequential"},
        lambda: {"ref_model": llama(1)}, ("kl", "num_tokens"),
    ),
    "reward": Kind(lambda: trl.RewardTrainer, "preference", {}, dict, ("accuracy", "margin", "num_tokens"), scorer),
    "rloo": Kind(
        lambda: trl.RLOOTrainer, "prompt",
        {"num_generations": 2, "max_completion_length": 5, "steps_per_generation": 4, "beta": 0.0},
        lambda: {"reward_funcs": distinct}, ("reward", "completions/mean_length", "num_tokens"),
    ),
    "cpo": Kind(
        experimental("cpo", "CPOTrainer"), "preference", {"max_length": 32}, dict, ("rewards/margins", "nll_loss")
    ),
    "orpo": Kind(
        experimental("orpo", "ORPOTrainer"), "preference", {"max_length": 32}, dict, ("log_odds_ratio", "nll_loss")
    ),
    "tpo": Kind(experimental("tpo", "TPOTrainer"), "reference", {"max_length": 32}, dict, ("rewards/margins",)),
    "grpo": Kind(
        lambda: trl.GRPOTrainer, "prompt", {"num_generations": 2, "max_completion_length": 5, "beta": 0.0},
        lambda: {"reward_funcs": distinct},
    ),
}  # fmt: skip
PERTURBED = [name for name in KINDS if name != "grpo"]
"""GRPO's loss is for gradients alone."""


def _config_of(trainer: Any) -> Any:
    """DPOConfig beside DPOTrainer."""
    package = importlib.import_module(trainer.__module__.rpartition(".")[0])
    name = trainer.__name__.replace("Trainer", "Config")
    return getattr(package, name, None) or getattr(trl, name)


def made(name: str, output: Path, mixed: bool = True, **more: Any) -> Any:
    kind = KINDS[name]
    base = kind.trainer()
    args = arguments(_config_of(base), output, **kind.args | more.pop("args", {}))
    named: dict[str, Any] = {"model": kind.model(), "processing_class": tokenizer(), "train_dataset": rows(kind.form)}
    named |= kind.named()
    if mixed:
        base = type("Mixed" + base.__name__, (zo.TrainerMixin, base), {})
        named["recipe"] = "spsa"
    return base(args=args, **named | more)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(trainer: Any) -> list[dict[str, Any]]:
    return [row for row in trainer.state.log_history if "loss" in row]


def slopes(trainer: Any, inputs: Any, key: Any) -> tuple[float, float]:
    """The trainer's autograd derivative along z, and the central difference that a step would take."""
    optimizer = trainer.create_optimizer()
    run, model = optimizer.run, trainer.model
    model.train()
    loss_of = partial(super(zo.TrainerMixin, trainer).compute_loss, model, inputs)
    loss_of().backward()
    z = {}
    for site in run.space:
        z[site.name] = torch.zeros(site.numel)
        run.direction.shift(z[site.name], z[site.name].clone(), site, key, 1.0, 0, run.state)
    by_name = {site.name: site.parameter for site in run.space}
    slope = sum(float((by_name[n].grad.reshape(-1).double() * z[n].double()).sum()) for n in z)
    model.zero_grad(set_to_none=True)
    if not optimizer.checked:
        optimizer.check(loss_of)
    eps = 5e-4
    prepared = run.prepare(loss_of)
    up, down = run.look([Point(((key, eps),)), Point(((key, -eps),))], prepared)
    return slope, (up.mean() - down.mean()) / (2 * eps)


LOSSES = [
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


def batch_of(trainer: Any) -> Any:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
