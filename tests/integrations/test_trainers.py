"""`TrainerMixin` before the trainers of transformers and TRL: what they do with gradients they do without."""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zerothorder as zo
from trl_kinds import (
    KINDS,
    LOSSES,
    PERTURBED,
    batch_of,
    distinct,
    experimental,
    logged,
    made,
    same,
    slopes,
    weights,
)
from trl_toys import arguments, llama, rows, scorer, tokenizer
from zerothorder.catalogue import CATALOGUE
from zerothorder.errors import LedgerError, UsageError
from zerothorder.integrations import trainer_rewards
from zerothorder.integrations.trainer_arguments import discopop_slope, settle
from zerothorder.key import Key
from zerothorder.ledger.header import fingerprint
from zerothorder.ledger.reader import read
from zerothorder.recipes.zopro import difference, guide
from zerothorder.replay import replay
from zerothorder.run import Run

trl = pytest.importorskip("trl")


def graded(trainer: Any) -> set[str]:
    """Names of the weights that get a .grad while the trainer trains, also of those it has forgotten since."""
    from transformers import TrainerCallback

    found: set[str] = set()
    named = dict(trainer.model.named_parameters())

    class Watch(TrainerCallback):
        pass

    def look(*args: Any, **kwargs: Any) -> None:
        found.update(name for name, parameter in named.items() if parameter.grad is not None)

    for event in ("substep_end", "pre_optimizer_step", "optimizer_step"):  # before zero_grad()
        setattr(Watch, f"on_{event}", look)
    trainer.add_callback(Watch)
    for name, parameter in named.items():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, own=name: found.add(own))
    return found


@pytest.mark.parametrize("name", PERTURBED)
def test_a_trainer_trains_without_a_gradient_logs_as_ever_and_leaves_a_ledger(name: str, tmp_path: Path) -> None:
    trainer = made(name, tmp_path / "run")
    before, gradients = weights(trainer.model), graded(trainer)
    trainer.train()
    after = weights(trainer.model)
    assert not same(before, after)
    assert not gradients
    entries = read(tmp_path / "run" / "ledger.zo").entries
    assert [entry.skipped for entry in entries] == [False] * 4
    assert read(tmp_path / "run" / "ledger.zo").final == fingerprint(trainer.model)
    trainer.model.load_state_dict(before)
    replay(trainer.model, tmp_path / "run" / "ledger.zo")
    assert same(weights(trainer.model), after)
    last = {metric: value for row in logged(trainer) for metric, value in row.items()}
    for wanted in (*KINDS[name].names, "learning_rate", "grad_norm", "zo/projected_gradient", "zo/forwards"):
        assert math.isfinite(last[wanted]), wanted
    assert last["zo/projected_gradient"] == entries[-1].terms[0][1]
    assert last["grad_norm"] == pytest.approx(
        abs(entries[-1].terms[0][1]) * sum(p.numel() for p in trainer.model.parameters()) ** 0.5, rel=1e-6
    )


def test_a_gradient_would_be_seen(tmp_path: Path) -> None:
    """The test above can fail: the plain trainer has a gradient of every weight, and has forgotten all at its end."""
    trainer = made("sft", tmp_path / "run", mixed=False)
    gradients = graded(trainer)
    trainer.train()
    assert gradients == {name for name, _ in trainer.model.named_parameters()}
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def _kept(trainer: Any) -> int:
    """How many numbers autograd keeps for a backward pass while the trainer trains."""
    numbers: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        numbers.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.train()
    return sum(number for number in numbers if number > 1)  # what the trainer does with the loss itself


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("sft", "spsa"), ("dpo", "spsa"), ("dpo with its reference", "spsa"), ("kto", "spsa"), ("reward", "forward-grad")],
)
def test_nothing_is_kept_for_a_backward_pass(name: str, recipe: str, tmp_path: Path) -> None:
    """One forward at a time is all the memory there is beside the model; a first-order recipe keeps its activations."""
    trainers = [made(name, tmp_path / own, recipe=own, args={"max_steps": 2}) for own in (recipe, "adamw")]
    without, adamw = map(_kept, trainers)
    assert without == 0
    assert adamw > 2 * 2 * trainers[1].model.num_parameters()


@pytest.mark.parametrize("name", ["sft", "dpo with its reference", "kto", "reward", "rloo", "cpo", "orpo", "tpo"])
def test_the_first_step_s_metrics_and_tokens_are_those_of_the_plain_trainer(name: str, tmp_path: Path) -> None:
    """Counted once, not once a forward; equal but for a perturbation of 1e-6."""
    settings = {"args": {"max_steps": 1, "gradient_checkpointing": False}}
    from zerothorder.catalogue import build

    mine = made(name, tmp_path / "mine", recipe=build("spsa", eps=1e-6), **settings)
    mine.train()
    plain = made(name, tmp_path / "plain", mixed=False, **settings)  # seeds the generators again
    plain.train()
    own, theirs = logged(mine)[0], logged(plain)[0]
    timed = {"step_time", "grad_norm"}
    assert own.keys() - timed == (theirs.keys() - timed) | {
        "zo/projected_gradient", "zo/forwards", "zo/tokens", "zo/seconds", "zo/cpu_seconds", "zo/skipped",
    }  # fmt: skip
    for metric in theirs.keys() - timed:
        assert own[metric] == pytest.approx(theirs[metric], rel=1e-3, abs=2e-4), metric


def noted(trainer: Any) -> list[dict[str, int]]:
    """How many values of each metric the trainer has collected, each time that it logs."""
    found: list[dict[str, int]] = []
    own = trainer.log

    def log(*args: Any, **kwargs: Any) -> None:
        stores = (getattr(trainer, name, {}) for name in ("_metrics", "_stored_metrics"))  # the latter: CPO and its kin
        found.append({name: len(values) for store in stores for name, values in store.get("train", {}).items()})
        own(*args, **kwargs)

    trainer.log = log
    return found


@pytest.mark.parametrize("name", ["sft", "dpo with its reference", "kto", "reward", "rloo", "cpo", "orpo", "tpo"])
def test_a_metric_is_collected_once_a_micro_batch_not_once_a_forward(name: str, tmp_path: Path) -> None:
    """What is collected at the points of a step beyond the first would be a mean of the same micro-batches again."""
    counts: dict[bool, list[dict[str, int]]] = {}
    for mixed in (True, False):
        trainer = made(name, tmp_path / str(mixed), mixed, args={"max_steps": 2})
        counts[mixed] = noted(trainer)
        trainer.train()
    assert counts[True] == counts[False]
    assert [max(row.values(), default=0) for row in counts[True][:2]] == [2, 2], "two micro-batches an update"


def test_micro_batches_of_an_update_share_one_direction_and_make_the_step_of_the_wholebatch_of(tmp_path: Path) -> None:
    whole = made("dpo", tmp_path / "whole", args={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1})
    parts = made("dpo", tmp_path / "parts", args={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4})
    for trainer in (whole, parts):
        trainer.train()
    for one, other in zip(*(read(tmp_path / n / "ledger.zo").entries for n in ("whole", "parts")), strict=True):
        assert [key for key, _ in one.terms] == [key for key, _ in other.terms]
        assert one.terms[0][1] == pytest.approx(other.terms[0][1], rel=2e-3)


def test_a_token_mean_over_micro_batches_is_weighted_as_the_trainer_weights_it(tmp_path: Path) -> None:
    """SFT divides by the tokens of the whole update: micro-batches of unlike length are not averaged as equals."""
    from datasets import Dataset

    texts = Dataset.from_list([{"text": " ".join(["w1", "w2", "w3"] * n)} for n in (1, 4, 2, 3)])
    found: list[float] = []
    for name, rows_each in (("whole", 4), ("parts", 1)):
        args = {"per_device_train_batch_size": rows_each, "gradient_accumulation_steps": 4 // rows_each, "max_steps": 1}
        made("sft", tmp_path / name, args=args, train_dataset=texts).train()
        found.append(read(tmp_path / name / "ledger.zo").entries[0].terms[0][1])
    assert found[0] == pytest.approx(found[1], rel=2e-3)


def test_rates_are_the_trainer_s(tmp_path: Path) -> None:
    trainer = made(
        "sft", tmp_path / "run", args={"lr_scheduler_type": "linear", "warmup_steps": 1, "weight_decay": 0.1}
    )
    trainer.train()
    entries = read(tmp_path / "run" / "ledger.zo").entries
    assert [entry.rates["decay"].lr for entry in entries] == pytest.approx([0.0, 1e-3, 2e-3 / 3, 1e-3 / 3])
    assert [entry.rates["decay"].decay for entry in entries] == pytest.approx([0.1] * 4)
    assert {entry.rates["plain"].decay for entry in entries} == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(dtype: torch.dtype, tmp_path: Path) -> None:
    saving = {"args": {"save_strategy": "steps", "save_steps": 2}}
    whole = made("dpo", tmp_path / "run", model=llama().to(dtype), **saving)
    whole.train()
    entries = read(tmp_path / "run" / "ledger.zo").entries
    again = made("dpo", tmp_path / "run", model=llama().to(dtype), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert read(tmp_path / "run" / "ledger.zo").entries == entries
    assert same(weights(again.model), weights(whole.model))
    # counts and clocks go on too, and a run is never cheaper for having been stopped
    for name in ("zo/forwards", "zo/tokens", "zo/cpu_seconds"):
        ours, theirs = ([row[name] for row in logged(trainer)] for trainer in (again, whole))
        assert ours == sorted(ours)
        assert name == "zo/cpu_seconds" or ours[-1] >= theirs[-1]
    # what came after the checkpoint was not thrown away
    assert read(tmp_path / "run" / "ledger.1.zo").entries == entries


def test_adapters_are_trained_alone_and_resume_from_the_ledger_whatever_they_began_with(tmp_path: Path) -> None:
    from peft import LoraConfig

    saving = {"args": {"save_strategy": "steps", "save_steps": 2, "precompute_ref_log_probs": False}}

    def adapted() -> Any:
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        return made("dpo", tmp_path / "run", peft_config=lora, **saving)

    torch.manual_seed(1)
    whole = adapted()
    base = weights(whole.model)
    whole.train()
    moved = {name for name, tensor in weights(whole.model).items() if not torch.equal(tensor, base[name])}
    assert {"lora_" in name for name in moved} == {True}
    torch.manual_seed(2)
    again = adapted()
    again.train(resume_from_checkpoint=True)  # at the last step: nothing is left to train
    assert same(weights(again.model), weights(whole.model))
    torch.manual_seed(3)
    from_two = adapted()
    from_two.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")
    assert same(weights(from_two.model), weights(whole.model))


def test_a_reference_is_asked_once_a_batch_not_once_a_point(tmp_path: Path) -> None:
    trainer = made("dpo with its reference", tmp_path / "run")
    calls: list[int] = []
    trainer.ref_model.register_forward_pre_hook(lambda *args: calls.append(1))
    own = trainer.ref_model.forward
    computed: list[int] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        computed.append(1)
        return own(*args, **kwargs)

    trainer.ref_model.forward = forward
    trainer.train()
    # 4 updates of 2 micro-batches, and one for the check before the first
    assert len(computed) == 9
    assert len(calls) > 2 * 8


def _apart(pairs: list[tuple[float, float]]) -> float:
    """The largest relative error, of the slopes that are not next to zero."""
    largest = max(abs(slope) for slope, _ in pairs)
    return max(abs(found - slope) / abs(slope) for slope, found in pairs if abs(slope) > 0.05 * largest)


SMOOTHED = {"exo_pair": 1e-3, "robust": 0.1}
"""Losses whose label_smoothing 0 would be another loss, or none."""


@pytest.mark.parametrize("loss", LOSSES)
def test_every_dpo_loss_has_the_slope_that_autograd_has(loss: str, tmp_path: Path) -> None:
    """Card preference-losses, check 3: relative error below 2e-3 at eps 5e-4 in float32."""
    args: dict[str, Any] = {"loss_type": [loss], "per_device_train_batch_size": 8, "precompute_ref_log_probs": False}
    args |= {"label_smoothing": SMOOTHED[loss]} if loss in SMOOTHED else {}
    trainer = made("dpo with its reference", tmp_path / "run", args=args)
    inputs = batch_of(trainer)
    pairs = [slopes(trainer, inputs, Key("z", seed)) for seed in range(5)]
    assert _apart(pairs) < 2e-3
    assert max(abs(a) for a, _ in pairs) > 1e-3


@pytest.mark.parametrize("name", ["kto", "cpo", "orpo", "tpo", "reward", "sft"])
def test_other_losses_have_the_slope_that_autograd_has(name: str, tmp_path: Path) -> None:
    """KTO's KL term is a constant to autograd, and so it is to a step."""
    trainer = made(name, tmp_path / "run", args={"per_device_train_batch_size": 8})
    inputs = batch_of(trainer)
    pairs = [slopes(trainer, inputs, Key("z", seed)) for seed in range(5)]
    assert max(abs(a - b) for a, b in pairs) < 2e-3 * max(abs(a) for a, _ in pairs)


def test_a_term_under_no_grad_that_moved_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail: with KTO's KL term perturbed too, the slope is another one."""
    from zerothorder.integrations.trainer_loss import TrainerLoss

    monkeypatch.setattr(TrainerLoss, "constant_without_grad", False)
    trainer = made("kto", tmp_path / "run", args={"per_device_train_batch_size": 8})
    inputs = batch_of(trainer)
    pairs = [slopes(trainer, inputs, Key("z", seed)) for seed in range(5)]
    assert max(abs(a - b) for a, b in pairs) > 1e-2 * max(abs(a) for a, _ in pairs)


def _said(batch: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The rows of a batch of RLOO without their padding: (prompt, completion)."""
    parts = [
        [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(batch[f"{n}_ids"], batch[f"{n}_mask"], strict=True)]
        for n in ("prompt", "completion")
    ]
    return list(zip(*parts, strict=True))


@pytest.mark.parametrize(
    ("steps", "generations"), [(4, [0, 2, 4]), (2, [0, 1, 2, 3, 4, 5])], ids=["a generation for two", "for each update"]
)
def test_rloo_generates_once_for_its_steps_and_uses_every_slice_once(
    steps: int, generations: list[int], tmp_path: Path
) -> None:
    trainer = made("rloo", tmp_path / "run", args={"max_steps": 6, "steps_per_generation": steps})
    generated: list[tuple[int, list[Any]]] = []
    used: dict[int, list[list[Any]]] = {}
    generate, loss = trainer._generate_and_score_completions, trainer._compute_loss

    def counted(batch: Any) -> Any:
        found = generate(batch)
        generated.append((trainer.state.global_step, _said(found)))
        return found

    def looked(model: Any, inputs: Any) -> Any:
        used.setdefault(trainer._step, []).append(_said(inputs))
        return loss(model, inputs)

    trainer._generate_and_score_completions, trainer._compute_loss = counted, looked
    trainer.train()
    # 6 updates × 2 micro-batches, `steps` micro-batches a generation
    assert [update for update, _ in generated] == generations
    assert len(read(tmp_path / "run" / "ledger.zo").entries) == 6
    # every micro-batch one buffered slice of its own, however often it is looked at
    assert list(used) == list(range(12))
    assert all(len(looks) >= 2 and look == looks[0] for looks in used.values() for look in looks)
    for number, (_, said) in enumerate(generated):
        assert len(set(said)) == len(said) == 2 * steps
        taken = [used[step][0] for step in range(number * steps, (number + 1) * steps)]
        assert sorted(row for rows in taken for row in rows) == sorted(said)


def test_a_run_of_rloo_that_is_resumed_between_two_generations_generates_anew(tmp_path: Path) -> None:
    """TRL's buffer is in no checkpoint. What was taken stays in the ledger, whose replay is the resumed run."""
    args = {"max_steps": 4, "steps_per_generation": 4, "save_strategy": "steps", "save_steps": 1}
    whole = made("rloo", tmp_path / "run", args=args)
    whole.train()
    first = read(tmp_path / "run/ledger.zo").entries
    again = made("rloo", tmp_path / "run", args=args)
    generated: list[int] = []
    generate = again._generate_and_score_completions

    def counted(batch: Any) -> Any:
        generated.append(again.state.global_step)
        return generate(batch)

    again._generate_and_score_completions = counted
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    entries = read(tmp_path / "run/ledger.zo").entries
    assert generated[0] == 1
    assert entries[:1] == first[:1]
    assert len(entries) == 4
    rebuilt = llama(0)
    replay(rebuilt, tmp_path / "run/ledger.zo")
    assert same(weights(rebuilt), weights(again.model))


def _broken_scorer() -> Any:
    model = scorer()
    torch.nn.init.constant_(model.score.weight, math.nan)
    return model


def _undefined(completions: list[str], **others: Any) -> list[float]:
    return [math.nan for _ in completions]


@pytest.mark.parametrize("reward", [_broken_scorer, lambda: _undefined], ids=["a model", "a function"])
def test_a_reward_that_is_no_number_stops_the_run_whoever_gave_it(reward: Callable[[], Any], tmp_path: Path) -> None:
    """TRL takes it for a completion without a reward, and a run of them learns nothing without a word."""
    trainer = made("rloo", tmp_path / "run", reward_funcs=[reward()], reward_processing_classes=[tokenizer()])
    with pytest.raises(UsageError, match=r"the reward .* is nan for completion 0"):
        trainer.train()


def _flat(completions: list[str], **others: Any) -> list[float]:
    return [0.5 for _ in completions]


@pytest.mark.parametrize(
    ("weights", "stops"), [([1.0, 0.0], False), (None, False), ([0.0, 1.0], True)],
    ids=["looked at", "beside another", "alone"],
)  # fmt: skip
def test_a_constant_reward_stops_the_run_only_where_nothing_else_is_learned_from(
    weights: list[float] | None, stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_rewards, "CONSTANT", 2)
    named: dict[str, Any] = {"reward_funcs": [distinct, _flat], "args": {"reward_weights": weights}}
    trainer = made("rloo", tmp_path / "run", **named)
    if stops:
        with pytest.raises(UsageError, match=r"the reward _flat gave 0\.5 to every completion of 2 generations"):
            trainer.train()
    else:
        trainer.train()
        key = "rewards/_flat/mean"
        assert {row[key] for row in trainer.state.log_history if key in row} == {0.5}


async def _later(completions: list[str], **others: Any) -> list[float | None]:
    return [None, *distinct(completions[1:])]


def test_a_reward_may_be_async_and_say_nothing_of_a_completion(tmp_path: Path) -> None:
    trainer = made("rloo", tmp_path / "run", args={"max_steps": 1}, reward_funcs=[_later, distinct])
    trainer.train()
    assert len(read(tmp_path / "run" / "ledger.zo").entries) == 1
    assert "rewards/_later/mean" in logged(trainer)[0]


def numbers(completions: list[str], **others: Any) -> list[float]:
    """The sum of a completion's words: seldom the same for two."""
    return [float(sum(int(word.strip("w<>") or 0) for word in text.split() if word[0] == "w")) for text in completions]


def test_zopro_trains_a_policy_by_rloo(tmp_path: Path) -> None:
    """Card ZOPrO, check 5: at θ the surrogate is 0 (the ratio is 1, advantages cancel) and no graph exists."""
    from safetensors.torch import save_file

    from zerothorder.catalogue import build

    save_file(difference(weights(llama(1)), weights(llama(0))), tmp_path / "mu.safetensors")
    recipe = build("zopro", eps=1e-3, mu=str(tmp_path / "mu.safetensors"))
    args = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    args |= {"steps_per_generation": 1, "num_generations": 2}
    trainer = made("rloo", tmp_path / "run", args=args, recipe=recipe, reward_funcs=numbers)
    seen: list[torch.Tensor] = []
    advantages: list[torch.Tensor] = []
    own = trainer._compute_loss

    def looked(model: Any, inputs: Any) -> Any:
        seen.append(own(model, inputs))
        advantages.append(inputs["advantages"])
        return seen[-1]

    trainer._compute_loss = looked
    trainer.train()
    entries = read(tmp_path / "run" / "ledger.zo").entries
    assert [len(entry.terms) for entry in entries] == [2, 2, 2]
    # what TRL's own loss gave, as it gave it, inside the step
    assert not any(found.requires_grad or found.grad_fn is not None for found in seen)
    assert len(seen) > 2 * 3
    assert abs(float(seen[0])) < 1e-5  # the check's first look is at θ
    assert float(advantages[0].abs().min()) >= 0.5, "not 0 for want of a reward"
    assert abs(float(seen[-1])) > 1e-4, "a step's own look is elsewhere"
    again = llama(0)
    replay(again, tmp_path / "run" / "ledger.zo")
    assert same(weights(again), weights(trainer.model))


def test_generation_is_counted(tmp_path: Path) -> None:
    trainer = made("rloo", tmp_path / "run", args={"max_steps": 1})
    trainer.train()
    without = made("rloo", tmp_path / "other", args={"max_steps": 1, "max_completion_length": 1})
    without.train()
    assert logged(trainer)[0]["zo/forwards"] > logged(without)[0]["zo/forwards"]


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("dpo", {"use_weighting": True}, "constant to a gradient but not to a perturbation.*leave it out"),
        ("sft", {"loss_type": "dft"}, "constant to a gradient but not to a perturbation.*use loss_type 'nll'"),
        ("dpo", {"fp16": True}, "fp16=True scales gradients"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(
    name: str, args: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(name, tmp_path / "run", args=args)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"deepspeed": "zero.json"}, "DeepSpeed shards the weights.*leave deepspeed out"),
        ({"fsdp": "full_shard"}, "FSDP shards the weights.*leave fsdp out"),
        ({"world_size": 2}, "one process with one device"),
        ({"torch_compile": True}, "torch_compile=True fixes the weights.*leave it out"),
        ({"auto_find_batch_size": True}, "begins the training again.*set per_device_train_batch_size"),
    ],
)
def test_what_would_part_the_run_from_its_ledger_is_refused(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        settle(None, SimpleNamespace(**asked), "mezo")


def test_a_trainer_with_a_backward_of_its_own_is_refused() -> None:
    pytest.importorskip("trl.experimental.online_dpo")
    with pytest.raises(UsageError, match=r"computes its loss in a training_step of its own.*use one that has it"):
        settle(object.__new__(experimental("online_dpo", "OnlineDPOTrainer")()), None, "mezo")


@pytest.mark.parametrize(
    ("module", "name"),
    [("sdft", "SDFTTrainer"), ("sdpo", "SDPOTrainer"), ("iw_opd", "IWOPDTrainer"), ("bco", "BCOTrainer")],
)
def test_trainers_whose_loss_has_a_detached_factor_are_refused(module: str, name: str) -> None:
    pytest.importorskip(f"trl.experimental.{module}")  # which of them there are depends on TRL's version
    trainer = object.__new__(experimental(module, name)())
    with pytest.raises(UsageError, match="constant to a gradient but not to a perturbation"):
        settle(trainer, None, "mezo")
    settle(trainer, None, "sgd")


def test_grpo_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the ratio is 1 everywhere"):
        made("grpo", tmp_path / "run")


def test_arguments_without_effect_are_switched_off_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = made("dpo", tmp_path / "run", args={"max_grad_norm": 0.5})
    assert trainer.args.max_grad_norm == 0
    assert "max_grad_norm is switched off" in caplog.text
    assert "gradient_checkpointing" not in caplog.text  # TRL's default; nobody asked for it


@pytest.mark.parametrize("model", [llama, lambda: _checkpointing(llama())], ids=["by the arguments", "by the model"])
def test_no_activation_is_checkpointed_while_training(model: Callable[[], Any], tmp_path: Path) -> None:
    trainer = made("sft", tmp_path / "run", model=model(), args={"gradient_checkpointing": True, "max_steps": 1})
    seen: list[bool] = []
    trainer.model.register_forward_pre_hook(lambda model, args: seen.append(model.is_gradient_checkpointing))
    trainer.train()
    assert set(seen) == {False}


def _checkpointing(model: Any) -> Any:
    model.gradient_checkpointing_enable()
    return model


def test_bfloat16_losses_and_a_small_eps_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from zerothorder.catalogue import build

    for eps, told in ((1e-5, True), (1e-3, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            made("sft", tmp_path / str(eps), args={"bf16": True}, recipe=build("spsa", eps=eps)).create_optimizer()
        assert ("rounds the losses" in caplog.text) == told


def test_a_second_training_keeps_the_first_one_s_ledger(tmp_path: Path) -> None:
    trainer = made("sft", tmp_path / "run")
    trainer.train()
    first = read(tmp_path / "run" / "ledger.zo").entries
    trainer.train()
    assert read(tmp_path / "run" / "ledger.1.zo").entries == first
    assert len(read(tmp_path / "run" / "ledger.zo").entries) == 4


@pytest.mark.parametrize(("tau", "told"), [(0.05, True), (0.2, False)])
def test_discopop_at_the_reference_is_told_where_its_slope_there_is_uphill(
    tau: float, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DPO's slope there is -beta/2: the ratio of the two, by TRL's own losses, is what the sentence speaks of."""
    found: list[float] = []
    for loss in ("discopop", "sigmoid"):
        args = {"loss_type": [loss], "discopop_tau": tau, "precompute_ref_log_probs": False, "beta": 0.3}
        with caplog.at_level(logging.WARNING):
            trainer = made("dpo", tmp_path / loss, args=args, ref_model=llama(0))  # the policy itself
        found.append(slopes(trainer, batch_of(trainer), Key("z", 0))[0])
    assert found[0] / found[1] == pytest.approx(discopop_slope(0.3, tau) / -0.15, rel=1e-3)
    assert (found[0] / found[1] < 0) == told == ("less likely (+0.235 at beta 0.3" in caplog.text)


def test_resuming_without_the_ledger_or_from_no_checkpoint_says_so(tmp_path: Path) -> None:
    trainer = made("sft", tmp_path / "run", args={"save_strategy": "steps", "save_steps": 2})
    with pytest.raises(UsageError, match="no checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    # a folder that was being written when the run was killed is passed over
    (tmp_path / "run" / "checkpoint-9").mkdir()
    made("sft", tmp_path / "run").train(resume_from_checkpoint=True)
    (tmp_path / "run" / "ledger.zo").unlink()
    with pytest.raises(UsageError, match=r"no .*ledger\.zo to resume from"):
        made("sft", tmp_path / "run").train(resume_from_checkpoint=True)


def test_resuming_on_another_base_names_it(tmp_path: Path) -> None:
    made("sft", tmp_path / "run", args={"save_strategy": "steps", "save_steps": 2}).train()
    with pytest.raises(LedgerError, match="another base"):
        made("sft", tmp_path / "run", model=llama(5)).train(resume_from_checkpoint=True)


def test_the_model_is_evaluated_at_its_weights(tmp_path: Path) -> None:
    trainer = made("dpo", tmp_path / "run", eval_dataset=rows("preference", 4))
    trainer.train()
    first = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == first


@pytest.mark.parametrize("name", ["sft", "dpo with its reference", "kto", "reward", "cpo", "orpo", "tpo"])
def test_an_evaluation_is_the_plain_trainer_s_at_the_same_weights(name: str, tmp_path: Path) -> None:
    """Before a step, between steps and after the last one: nowhere a perturbed weight is left."""
    given = rows(KINDS[name].form, 6)
    trainer = made(name, tmp_path / "mine", eval_dataset=given, args={"eval_strategy": "steps", "eval_steps": 2})
    between: list[tuple[float, dict[str, torch.Tensor]]] = []
    own = trainer.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        found = own(*args, **kwargs)
        between.append((found["eval_loss"], weights(trainer.model)))
        return found

    trainer.evaluate = evaluate
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    plain = made(name, tmp_path / "plain", mixed=False, eval_dataset=given)
    assert len(between) == 4
    for loss, at in between:
        plain.model.load_state_dict(at)
        assert plain.evaluate()["eval_loss"] == loss
    assert len({loss for loss, _ in between[:3]}) == 3


def test_plain_transformers_trainers_take_it_too(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    class Mixed(zo.TrainerMixin, Trainer):
        pass

    data = [{"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)} for ids in ([3, 4, 5, 6], [7, 8, 9, 3])] * 4
    trainer = Mixed(llama(), arguments(TrainingArguments, tmp_path / "run"), train_dataset=data, recipe="low-rank")
    trainer.train()
    assert len(read(tmp_path / "run" / "ledger.zo").entries) == 4
    history = json.loads(json.dumps(trainer.state.log_history))
    assert "zo/projected_gradient" in history[0]


@pytest.mark.parametrize(
    ("name", "more"),
    [("dpo", {}), ("dpo", {"use_weighting": True}), ("sft", {"loss_type": "dft"}), ("grpo", {})],
    ids=["dpo", "weighted dpo", "dft", "grpo"],
)
def test_adamw_is_the_trainer_s_own_run(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    """The baseline beside a zeroth-order run is what TRL would have done: accumulation, schedule and decay. A gradient
    knows what is detached, so losses that a perturbation cannot follow are had here."""
    args = {"lr_scheduler_type": "linear", "max_grad_norm": 0.0, "weight_decay": 0.1, "learning_rate": 1e-2, **more}
    theirs = made(name, tmp_path / "theirs", mixed=False, args=args)
    theirs.train()  # each right after it was made, which seeds the generators
    ours = made(name, tmp_path / "ours", recipe="adamw", args=args)
    gradients = graded(ours)
    ours.train()
    for row, own in zip(logged(theirs), logged(ours), strict=True):
        # the lowest transformers logs no norm where nothing is clipped
        for name in {"loss", "grad_norm", "rewards/margins", "learning_rate"} & row.keys():
            assert own[name] == pytest.approx(row[name], rel=1e-3, abs=1e-6), name
    expected = weights(theirs.model)
    for name, tensor in weights(ours.model).items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name
    assert not gradients


FIRST_ORDER = ("sgd", "adamw", "hybrid")
"""Their ledgers hold hashes of gradients."""


@pytest.mark.parametrize("recipe", sorted(CATALOGUE.keys() - {"forward-grad"}))
def test_any_recipe_trains_and_is_replayed(recipe: str, tmp_path: Path) -> None:
    """Gradients are not in a ledger: what needs them says so, and is repeated with its data."""

    def begin(run: Run) -> None:
        if recipe == "zopro":
            guide(run, *({site.name: torch.randn(site.shape) for site in run.space} for _ in range(2)))

    runs: list[dict[str, torch.Tensor]] = []
    for name in ("one", "two"):
        trainer = made("dpo", tmp_path / name, recipe=recipe, begin=begin, args={"max_steps": 3, "learning_rate": 1e-2})
        torch.manual_seed(1)
        trainer.train()
        runs.append(weights(trainer.model))
    assert same(*runs)
    assert not [name for name, tensor in weights(llama(0)).items() if torch.equal(tensor, runs[0][name])]
    contents = read(tmp_path / "one" / "ledger.zo")
    assert len(contents.entries) == 3
    assert contents.header.recipe == recipe
    assert contents.final == fingerprint(trainer.model)
    again = llama(0)
    if recipe in FIRST_ORDER:
        with pytest.raises(LedgerError, match="gradient"):
            replay(again, tmp_path / "one" / "ledger.zo")
    else:
        replay(again, tmp_path / "one" / "ledger.zo")
        assert same(weights(again), runs[0])


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_forward_gradients_follow_the_losses_that_have_such_a_derivative(name: str, tmp_path: Path) -> None:
    """From its kernels on, TRL computes log-probabilities by a function without one, which is said in a sentence."""
    trainer = made(name, tmp_path / "run", recipe="forward-grad")
    if name == "dpo" and importlib.util.find_spec("trl.kernels") is not None:
        with pytest.raises(UsageError, match=r"has no forward-mode derivative.*or take a recipe of two points"):
            trainer.train()
    else:
        trainer.train()
        again = KINDS[name].model()
        replay(again, tmp_path / "run" / "ledger.zo")
        assert same(weights(again), weights(trainer.model))
        assert not same(weights(again), weights(KINDS[name].model()))


def test_callbacks_hear_what_they_hear_from_the_plain_trainer(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Heard(TrainerCallback):
        def __init__(self) -> None:
            self.events: list[str] = []

    for event in ("train_begin", "step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end", "log",
                  "epoch_end", "evaluate", "save", "train_end"):  # fmt: skip
        setattr(Heard, f"on_{event}", lambda self, *args, _event=event, **kwargs: self.events.append(_event))
    heard: dict[bool, Heard] = {}
    for mixed in (True, False):
        heard[mixed] = Heard()
        args = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
        trainer = made(
            "sft", tmp_path / str(mixed), mixed, args=args, eval_dataset=rows("text", 4), callbacks=[heard[mixed]]
        )
        trainer.train()
    assert heard[True].events == heard[False].events
    assert {"evaluate", "save", "substep_end", "optimizer_step"} <= set(heard[True].events)


def test_a_model_card_and_a_tracker_are_written_as_ever(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logs = tmp_path / "logs"
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(logs)
    try:
        trainer = made("dpo", tmp_path / "run", args={"report_to": ["tensorboard"]})
        trainer.train()
    finally:
        del os.environ["TENSORBOARD_LOGGING_DIR"]
    trainer.create_model_card(model_name="a test")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "a test" in card
    assert "dpo" in card
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = [path.parent for path in tmp_path.rglob("events.out.tfevents*")]
    assert found
    seen = EventAccumulator(str(found[0]))
    seen.Reload()
    assert {"train/loss", "train/rewards/margins", "train/zo/projected_gradient"} <= set(seen.Tags()["scalars"])


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("dpo", {"args": {"precompute_ref_log_probs": False}}),
        ("kto", {"ref_model": None}),
        ("rloo", {"args": {"beta": 0.1}}),
    ],
    ids=["dpo", "kto", "rloo"],
)
def test_training_a_trained_adapter_is_replayed_with_the_copy_that_is_the_reference(
    objective: str, more: dict[str, Any], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from zerothorder.cli.replay import main

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    llama(0).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(llama(0), lora)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, own in adapted.named_parameters():
            if ".lora_" in name:  # B is zero in a new one
                own.copy_(torch.randn(own.shape, generator=generator) * 0.1)
    start = {name: own.clone() for name, own in adapted.named_parameters() if ".default." in name}

    trainer = made(objective, tmp_path / "run", model=adapted, **more)
    trainer.train()
    trained = dict(trainer.model.named_parameters())
    for name, own in start.items():  # the reference stayed, the adapter moved
        assert torch.equal(trained[name.replace(".default.", ".ref.")], own)
        assert not torch.equal(trained[name], own)

    assert main([str(tmp_path / "base"), str(tmp_path / "run/ledger.zo"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert not (tmp_path / "out/ref").exists()
    again = load_file(tmp_path / "out/adapter_model.safetensors")
    assert len(again) == len(start)
    assert all(torch.equal(again[name.replace(".default", "")], trained[name]) for name in start)


def test_adapters_over_an_int8_base_are_trained_and_replayed(tmp_path: Path) -> None:
    """The base's codes and scales are what the ledger's fingerprint is of; only the adapter moves."""
    quantization = pytest.importorskip("torchao.quantization")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, TorchAoConfig

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")

    def base(seed: int = 0) -> Any:
        folder = tmp_path / f"base-{seed}"
        llama(seed).save_pretrained(folder)
        config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)

    # TRL 1.16 cannot hash quantised weights for its cache; the reference is the base below the adapter anyway
    args = {"precompute_ref_log_probs": False}
    trainer = made("dpo", tmp_path / "run", model=base(), peft_config=lora, args=args)
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {"lora_" in name for name in moved} == {True}
    again = get_peft_model(base(), lora)
    replay(again, tmp_path / "run" / "ledger.zo")
    trained = dict(trainer.model.named_parameters())
    found = dict(again.named_parameters())
    assert moved
    assert all(torch.equal(found[name], trained[name]) for name in moved)
    assert fingerprint(base()) == fingerprint(base()) != fingerprint(base(1))
    with pytest.raises(LedgerError, match="belongs to another base"):
        replay(get_peft_model(base(1), lora), tmp_path / "run" / "ledger.zo")
