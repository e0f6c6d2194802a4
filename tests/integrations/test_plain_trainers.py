"""`TrainerMixin` before the trainers of transformers, whose loss is the model's, a smoothed one or the user's own."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

import zerothorder as zo
from trl_toys import arguments, llama, t5
from zerothorder.catalogue import build
from zerothorder.errors import UsageError
from zerothorder.key import Key
from zerothorder.ledger.reader import read
from zerothorder.point import Point
from zerothorder.replay import replay

transformers = pytest.importorskip("transformers")

TEXTS = [torch.tensor(ids) for ids in ([3, 4, 5, 6], [7, 8, 9, 3])] * 4
DATA = [{"input_ids": ids, "labels": ids} for ids in TEXTS]
PAIRS = [row | {"decoder_input_ids": row["labels"].roll(1)} for row in DATA]
"""For an encoder-decoder, whose loss may be computed outside."""


def own_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return functional.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten(), reduction="sum") / 16


def made(output: Path, kind: str = "Trainer", model: Any = None, mixed: bool = True, **more: Any) -> Any:
    base = getattr(transformers, kind)
    named = {"recipe": build("spsa", eps=1e-6)} if mixed else {}
    trainer = type("Mixed", (zo.TrainerMixin, base), {}) if mixed else base
    args = arguments(
        getattr(transformers, kind.replace("Trainer", "TrainingArguments")), output, **more.pop("args", {})
    )
    data = PAIRS if kind.startswith("Seq2Seq") else DATA
    return trainer(model=model or llama(), args=args, **{"train_dataset": data, **named, **more})


@pytest.mark.parametrize("kind", ["Trainer", "Seq2SeqTrainer"])
@pytest.mark.parametrize(
    "more",
    [{}, {"args": {"label_smoothing_factor": 0.1}}, {"compute_loss_func": own_loss}],
    ids=["the model's loss", "smoothed labels", "the user's loss"],
)
def test_the_loss_is_the_plain_trainer_s_at_every_point(more: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """A loss that takes the labels out of its batch finds them again at the next point."""
    model = llama if kind == "Trainer" else t5
    first: list[float] = []
    for mixed in (True, False):
        args = {"max_steps": 1, **more.get("args", {})}
        trainer = made(tmp_path / str(mixed), kind, model(), mixed, **{**more, "args": args})
        trainer.train()
        first.append(trainer.state.log_history[0]["loss"])
    assert first[0] == pytest.approx(first[1], rel=1e-4)
    (entry,) = read(tmp_path / "True" / "ledger.zo").entries
    assert not entry.skipped
    assert entry.terms[0][1] != 0


def test_checkpointing_that_was_asked_for_is_switched_off_with_one_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = made(tmp_path / "run", args={"gradient_checkpointing": True})
    assert not trainer.args.gradient_checkpointing
    assert caplog.text.count("gradient_checkpointing is switched off") == 1


class Acts:
    """A trainer that acts on its arguments as it is made."""

    def __init__(self, model: Any, args: Any) -> None:
        self.model, self.args = model, args
        self.acted = [name for name in ("use_liger_kernel", "activation_offloading") if getattr(args, name)]


def test_what_is_switched_off_is_so_before_the_trainer_acts_on_it(caplog: pytest.LogCaptureFixture) -> None:
    args = SimpleNamespace(per_device_train_batch_size=1, use_liger_kernel=True, activation_offloading=True)
    with caplog.at_level(logging.WARNING):
        trainer: Any = type("Mixed", (zo.TrainerMixin, Acts), {})(None, args)
    assert trainer.acted == []
    assert "use_liger_kernel is switched off" in caplog.text
    assert "activation_offloading is switched off" in caplog.text


@pytest.mark.parametrize(
    "more",
    [
        lambda own: {"optimizers": (own, None)},
        lambda own: {"optimizers": (None, torch.optim.lr_scheduler.ConstantLR(own))},
        lambda own: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {})},
    ],
    ids=["an optimizer", "a scheduler of another optimizer", "an optimizer's class"],
)
def test_an_optimizer_beside_the_recipe_is_refused(more: Any, tmp_path: Path) -> None:
    model = llama()
    with pytest.raises(UsageError, match=r"the recipe brings the optimizer.*set learning_rate, lr_scheduler_type"):
        made(tmp_path / "run", model=model, **more(torch.optim.SGD(model.parameters())))


def test_a_model_made_anew_in_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give model=model_init\(\)"):
        type("Mixed", (zo.TrainerMixin, transformers.Trainer), {})(
            model_init=lambda: llama(),
            args=arguments(transformers.TrainingArguments, tmp_path / "run"),
            train_dataset=DATA,
        )


def test_a_step_without_compute_loss_is_told(tmp_path: Path) -> None:
    """Where names do not give it away before."""
    trainer = made(tmp_path / "run")
    trainer.create_optimizer()
    with pytest.raises(UsageError, match=r"a step without compute_loss\(\)"):
        trainer.optimizer.step()


def test_a_last_group_that_is_smaller_and_a_second_epoch_are_the_plain_trainer_s(tmp_path: Path) -> None:
    """Three micro-batches an epoch, two an update: the second update of an epoch is of one."""
    args = {"max_steps": -1, "num_train_epochs": 2, "learning_rate": 1e-12}
    mine = made(tmp_path / "mine", args=args, train_dataset=DATA[:6])
    plain = made(tmp_path / "plain", mixed=False, args=args, train_dataset=DATA[:6])
    for trainer in (mine, plain):
        trainer.train()
    losses = [row["loss"] for row in plain.state.log_history if "loss" in row]
    entries = read(tmp_path / "mine" / "ledger.zo").entries
    assert len(losses) == 4
    assert [entry.notes["loss"] for entry in entries] == pytest.approx(losses, rel=1e-4)


def test_the_points_of_a_step_share_their_dropout(tmp_path: Path) -> None:
    trainer = made(tmp_path / "run", "Seq2SeqTrainer", t5(0.5))
    run = trainer.create_optimizer().run
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))

    def loss() -> Any:
        return super(zo.TrainerMixin, trainer).compute_loss(trainer.model, dict(batch))

    point = Point(((Key("z", 0), 1e-2),))
    values = [run.look([point, point], run.prepare(loss, part), part) for part in (0, 1)]
    once, again = ([value.mean() for value in own] for own in values)
    assert once[0] == once[1]
    assert again[0] == again[1]
    assert once[0] != again[0]  # micro-batches differ, so dropout there was


@pytest.mark.parametrize("name", ["zo-sgd-cons", "zo-adam", "forward-grad"])
def test_recipes_of_other_kinds_train_and_are_replayed(name: str, tmp_path: Path) -> None:
    """One that asks for a point more after its first ones, one with moments, one whose points are slopes."""
    trainer = made(tmp_path / "run", recipe=name, args={"max_steps": 2})
    trainer.train()
    again = llama()
    replay(again, tmp_path / "run" / "ledger.zo")
    trained = trainer.model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in again.state_dict().items())
    assert any(not torch.equal(tensor, trained[name]) for name, tensor in llama().state_dict().items())
