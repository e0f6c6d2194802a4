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
from zerothorder.errors import LedgerError, UsageError
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


def test_a_mixin_after_its_trainer_is_refused() -> None:
    with pytest.raises(UsageError, match="Late has TrainerMixin after its trainer; put it first"):
        type("Late", (transformers.Trainer, zo.TrainerMixin), {})
    type("First", (zo.TrainerMixin, transformers.Trainer), {})


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


def test_a_loss_that_no_point_would_reach_is_refused_and_has_its_place(tmp_path: Path) -> None:
    """What comes before the mixin would add to the loss that is shown alone; what comes behind it is trained."""

    def penalised(base: Any) -> Any:
        class Penalised(base):
            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
                loss = loss + 1e3 * outputs.logits.square().sum()
                return (loss, outputs) if return_outputs else loss

        return Penalised

    def trainer_of(kind: Any, name: str) -> Any:
        args = arguments(transformers.TrainingArguments, tmp_path / name)
        return kind(model=llama(), args=args, train_dataset=DATA, recipe="spsa")

    plain = transformers.Trainer
    with pytest.raises(UsageError, match=r"comes before TrainerMixin's .* move it into a trainer behind the mixin"):
        trainer_of(penalised(type("Mixed", (zo.TrainerMixin, plain), {})), "before")
    trainer = trainer_of(type("Mixed", (zo.TrainerMixin, penalised(plain)), {}), "behind")
    trainer.train()
    entry = read(tmp_path / "behind/ledger.zo").entries[0]
    assert entry.notes["loss"] == pytest.approx(trainer.state.log_history[0]["loss"], rel=1e-3)
    assert abs(entry.projected_gradient) > 10


def test_the_caller_s_arguments_stay_as_they_are(tmp_path: Path) -> None:
    """Another trainer, for comparison, may be made with them."""
    args = arguments(transformers.TrainingArguments, tmp_path / "run", max_grad_norm=0.5)
    trainer = type("Mixed", (zo.TrainerMixin, transformers.Trainer), {})(
        llama(), args, train_dataset=DATA, recipe="spsa"
    )
    assert (trainer.args.max_grad_norm, args.max_grad_norm) == (0.0, 0.5)


def test_a_line_is_logged_once_however_often_the_loss_is_computed(tmp_path: Path) -> None:
    class Talking(transformers.Trainer):
        _metrics = "somebody else's"

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            self.log({"mine": 1.0})
            return super().compute_loss(*args, **kwargs)

    args = arguments(transformers.TrainingArguments, tmp_path / "run")
    trainer = type("Mixed", (zo.TrainerMixin, Talking), {})(llama(), args, train_dataset=DATA, recipe="spsa")
    trainer.train()
    assert sum("mine" in row for row in trainer.state.log_history) == 4 * 2


@pytest.mark.parametrize("recipe", ["zopro", "block-wise", "sparse-gradient"])
def test_the_logged_norm_is_as_long_as_the_step(recipe: str, tmp_path: Path) -> None:
    """SGD without decay moves by lr times the estimate, whatever the direction's length is. Of n Gaussians it is √n but
    for a share of 1/√2n: 0.9 % of all 6,736 weights, 2.2 % of the smallest block."""
    from zerothorder.recipes.zopro import guide

    args = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_steps": 1, "logging_steps": 1}
    mu = {name: own.detach() for name, own in llama(1).named_parameters()}
    begin: dict[str, Any] = {"begin": lambda run: guide(run, mu)} if recipe == "zopro" else {}
    trainer = made(tmp_path / "run", recipe=build(recipe, eps=1e-2), args=args, **begin)
    before = [own.detach().clone() for own in trainer.model.parameters()]
    trainer.train()
    moved = torch.cat([(a - b).flatten() for a, b in zip(trainer.model.parameters(), before, strict=True)]).detach()
    (row,) = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert float(moved.norm()) / 1e-2 == pytest.approx(row["grad_norm"], rel=0.05)
    entry = read(tmp_path / "run/ledger.zo").entries[0]
    assert row["zo/projected_gradient"] == entry.projected_gradient
    if recipe == "zopro":
        assert row["grad_norm"] == pytest.approx(
            abs(entry.projected_gradient) * sum(float(own.square().sum()) for own in mu.values()) ** 0.5, rel=1e-5
        )


def test_a_failed_resume_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    """The same trainer again: its model stands at the end, and a run is rebuilt from the base."""
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = made(tmp_path / "run", args=args)
    trainer.train()
    before = (tmp_path / "run/ledger.zo").read_bytes()
    with pytest.raises(LedgerError, match=r"another base.*this trainer has trained before.*make the trainer anew"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    assert (tmp_path / "run/ledger.zo").read_bytes() == before
    assert not list((tmp_path / "run").glob("ledger.*.zo"))
    again = made(tmp_path / "run", args=args)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    assert read(tmp_path / "run/ledger.zo").entries == read(tmp_path / "run/ledger.1.zo").entries


def test_a_finished_run_s_ledger_is_free_for_others(tmp_path: Path) -> None:
    import subprocess
    import sys

    trainer = made(tmp_path / "run")
    trainer.train()
    code = "import sys; from pathlib import Path; from zerothorder.ledger.lock import claim; claim(Path(sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run/ledger.zo")], check=False).returncode == 0
    assert trainer.model is not None


def test_a_first_order_run_is_drawn_from_its_checkpoints_though_its_base_is_named(tmp_path: Path) -> None:
    """Its ledger holds hashes of gradients, which nothing can be replayed from."""
    from zerothorder.cli.main import main

    llama().save_pretrained(tmp_path / "base")
    args = {"save_strategy": "steps", "save_steps": 1}
    made(tmp_path / "run", recipe="adamw", args=args).train()
    base = str(tmp_path / "base")
    words = ["interplay", str(tmp_path / "run"), "--base", base, "--start", base, "-o", str(tmp_path / "page.html")]
    assert main(words) == 0


def test_gradients_of_micro_batches_are_summed_as_they_come(tmp_path: Path) -> None:
    """Each is as large as the model: of eight none but the last is held beside the sum."""
    args = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "max_steps": 2}
    trainer = made(tmp_path / "run", recipe="adamw", args=args)
    held: list[int] = []
    compute_loss = trainer.compute_loss

    def looked(*given: Any, **named: Any) -> Any:
        found = compute_loss(*given, **named)
        values = trainer._zo_optimizer.accumulated.values
        held.append(sum(own.gradient is not None for batch in values for own in batch))
        return found

    trainer.compute_loss = looked
    trainer.train()
    assert held == [1] * 16
