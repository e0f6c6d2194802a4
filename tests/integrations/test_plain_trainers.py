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
from zerothorder.ledger.reader import read

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
    return trainer(
        model=model or llama(), args=args, train_dataset=PAIRS if kind.startswith("Seq2Seq") else DATA, **named | more
    )


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
