"""A classification head as a task: values without regard to padding, classes that stay in order, runs that replay."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import text_models
from text_models import PAD, VOCABULARY, Example
from zerothorder.cli.base import load_base
from zerothorder.config import EvalConfig, TrainConfig
from zerothorder.data import load_model, save_model
from zerothorder.data.classes import classes_in, saved_classes
from zerothorder.data.prefix_cache import by_either_name
from zerothorder.errors import LedgerError, UsageError
from zerothorder.evaluation import evaluate
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.integrations.peft import apply_scheme
from zerothorder.key import Key, run_key
from zerothorder.ledger.reader import read
from zerothorder.objectives.classification import Accuracy, Classification
from zerothorder.objectives.sequences import class_logits
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.make import make_plan
from zerothorder.point import Point
from zerothorder.recipes.mezo import MeZO
from zerothorder.replay import replay
from zerothorder.reporter import Silent
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.task import load_task
from zerothorder.training import Training, train

KEY = run_key(3)
DECODERS = ("llama", "gpt2", "opt")
CASES = [
    (name, scheme)
    for name in text_models.CLASSIFIERS
    for scheme in ("full", "head", "lora", *(["prefix"] if name in DECODERS else []))
]


def examples(name: str) -> list[Example]:
    """Three texts of other lengths, a class each; what T5 reads ends in its end token."""
    generator = torch.Generator().manual_seed(1)
    end = (2,) if name == "t5" else ()
    rows = [tuple(torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()) + end for n in (5, 1, 3)]
    return [Example(row, (), label) for label, row in enumerate(rows)]


# The objective


@pytest.mark.parametrize("name", text_models.CLASSIFIERS)
def test_the_loss_is_the_cross_entropy_of_the_model_s_own_logits(name: str) -> None:
    model, rows = text_models.classifier(name), examples(name)
    with torch.no_grad():
        found = Classification(PAD, head=True).evaluate(model, rows)
        right = Accuracy(PAD, head=True).evaluate(model, rows)
        plain = [model(input_ids=torch.tensor([row.prompt])).logits[0].tolist() for row in rows]
    assert found.value.dtype == torch.float32
    for row, scores, value, score in zip(rows, plain, found.value.tolist(), right.value.tolist(), strict=True):
        assert value == pytest.approx(math.log(math.fsum(math.exp(s - scores[row.label]) for s in scores)), abs=1e-4)
        assert score == -float(max(scores) == scores[row.label])
    assert len({tuple(scores) for scores in plain}) == 3


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_the_logits_of_a_bf16_model_are_computed_in_float32(name: str) -> None:
    model, texts = text_models.classifier(name).to(torch.bfloat16), [row.prompt for row in examples(name)]
    with torch.no_grad():
        found = class_logits(model, texts, PAD)
        rounded = torch.cat([model(input_ids=torch.tensor([text])).logits for text in texts])
    assert (found.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert not torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, rounded.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_a_row_has_the_same_value_alone_and_in_a_batch_and_executors_agree(name: str, scheme: str) -> None:
    model, rows = apply_scheme(text_models.classifier(name), scheme, KEY), examples(name)
    with torch.no_grad():
        together = class_logits(model, [row.prompt for row in rows], PAD)
        alone = torch.cat([class_logits(model, [row.prompt], PAD) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    space, found = ParameterSpace.of(model), []
    points = [Point(((Key("z", 0), sign * 0.1),)) for sign in (1, -1)] + [Point()]
    for executor in (Swap(), Copy(), Batched()):
        run = Run(model, space, MeZO(), Classification(PAD, head=True), executor, seed=1)
        values = executor.evaluate(points, run.objective, {"main": rows}, Key("e", 0), run.around)
        found.append(torch.stack([v.value for v in values]))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], found[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(found[0][0], found[0][2])


@pytest.mark.parametrize("name", text_models.CLASSIFIERS)
def test_an_adapter_has_the_head_with_it(name: str) -> None:
    model = text_models.classifier(name)
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    head = {n for n, p in apply_scheme(text_models.classifier(name), "head", KEY).named_parameters() if p.requires_grad}
    for scheme in ("lora", "prefix") if name in DECODERS else ("lora",):
        adapted = apply_scheme(text_models.classifier(name), scheme, KEY)
        sites = {site.name: site.parameter for site in ParameterSpace.of(adapted)}
        whole = {n.replace(".modules_to_save.default", ""): p for n, p in sites.items() if ".modules_to_save." in n}
        assert set(whole) == head
        assert all(torch.equal(p, values[n]) for n, p in whole.items())
        assert adapted.peft_config["default"].task_type == "SEQ_CLS"


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "t5"])
def test_what_keeps_no_keys_takes_no_prefix(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' does not have.*; use the scheme lora"):
        apply_scheme(text_models.classifier(name), "prefix", KEY)


def test_a_head_whose_name_tells_nothing_is_not_taken_for_the_whole_model() -> None:
    # T5 for text calls its body encoder and decoder, not by its prefix
    with pytest.raises(UsageError, match="cannot be told from names; use the scheme full with --freeze"):
        apply_scheme(text_models.build("t5"), "head", KEY)


# Classes


def rows_of(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"a film {n}", "label": label} for n, label in enumerate(labels)]


def test_classes_come_in_order_whatever_the_rows_order() -> None:
    assert classes_in(rows_of(10, 9, "-1", 9.0)).labels == ("-1", "9", "10")
    assert classes_in(rows_of("b", "10", "a")).labels == ("10", "a", "b")
    with pytest.raises(UsageError, match="only the label '1', and a classifier needs two: name them by --verbalizers"):
        classes_in(rows_of(1, "1"))


@pytest.fixture
def config(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    from zerothorder import training

    monkeypatch.setattr(training, "write_report", lambda folder: folder)
    data = tmp_path / "films.jsonl"
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} film {n}", "label": ("fine", "awful")[n % 2]} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        output=tmp_path / "run", model=str(bert_folder), data=str(data), head=True, steps=3, batch_size=4, seed=3,
        check="off", threads=1, lr=1e-2, eps=1e-2,
    )  # fmt: skip


def test_labels_of_the_training_rows_are_the_classes_and_others_are_refused(config: TrainConfig) -> None:
    task = load_task(config)
    assert task.classes == ("awful", "fine")
    assert task.model.config.id2label == {0: "awful", 1: "fine"}
    assert all(e.answers == () and e.label == int("bad" in e.text) for e in task.splits["train"])
    assert task.splits["train"][0].text.startswith("a ")  # no template: there are no words to complete it
    path = Path(config.data)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    folder = path.parent / "splits"
    folder.mkdir()
    for split, some in {"train": rows[:40], "dev": rows[40:50], "test": [*rows[50:], rows_of("new")[0]]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    with pytest.raises(UsageError, match=r"row 11 has the label 'new', not one of the labels of the training rows"):
        load_task(dataclasses.replace(config, data=str(folder)))
    task = load_task(dataclasses.replace(config, data=str(folder), verbalizers="fine=1,awful=2,new=3"))
    assert task.classes == ("fine", "awful", "new")
    assert task.model.config.num_labels == 3


def test_what_cannot_be_is_said(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match=r"is an encoder, which writes no words: put a classifier on it \(--head"):
        train(dataclasses.replace(config, head=False, template="{text} It", verbalizers="fine=a,awful=good"), Silent())
    with pytest.raises(UsageError, match="--objective lm goes without --head"):
        train(dataclasses.replace(config, objective="lm"), Silent())
    assert not config.output.exists()
    with pytest.raises(UsageError, match=r"is an encoder.*--head"):
        make_plan(PlanConfig(model=config.model, time=False))


def test_a_metric_of_a_head_is_its_accuracy(config: TrainConfig) -> None:
    task = load_task(dataclasses.replace(config, objective="metric", eps=1.0))
    found = evaluate(task, "train", "metric")
    value = task.objective.evaluate(task.model, task.splits["train"]).value
    assert found["accuracy"] == pytest.approx(-float(value.mean()))


# Whole runs


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rebuilt(base: str, ledger: Path, out: Path) -> dict[str, bytes]:
    found = load_base(base, read(ledger), None, "cpu", False)
    replay(found.model, ledger)
    save_model(found.model, found.tokenizer, out)
    return files(out)


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 11, 3]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("bert", "full"), ("bert", "head"), ("bert", "lora"), ("llama", "full"), ("llama", "lora"), ("llama", "prefix")],
)
def test_a_run_is_replayed_read_and_measured_again(
    config: TrainConfig, llama_folder: Path, kind: str, scheme: Any, tmp_path: Path
) -> None:
    base = config.model if kind == "bert" else str(llama_folder)
    config = dataclasses.replace(config, model=base, scheme=scheme, steps=30)
    trained = train(config, Silent())
    assert set(trained) == {"rows", "accuracy", "loss", "auc", "calibrated_accuracy"}
    made = config.output / "model"
    assert rebuilt(base, config.output / "ledger.zo", tmp_path / "again") == files(made)

    # it names its classes, and others read it
    assert saved_classes(made).labels == ("awful", "fine")  # type: ignore[union-attr]
    ours = load_model(str(made), head=2).model
    if scheme in ("lora", "prefix"):
        theirs: Any = peft.AutoPeftModelForSequenceClassification.from_pretrained(made, num_labels=2).eval()
        theirs = by_either_name(theirs)  # without it peft 0.21 finds no cache in classifiers of transformers 5.24
    else:
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(made).eval()
        assert theirs.config.id2label == {0: "awful", 1: "fine"}
    assert torch.equal(logits_of(ours), logits_of(theirs))
    assert not torch.equal(logits_of(ours), logits_of(load_model(base, head=2).model))

    # measured again it is what the run measured, with the classes it names: here the data has one label only
    task = load_task(EvalConfig(model=str(made), data=config.data, head=True))
    assert evaluate(task, "test", "classification", calibrate=500) == pytest.approx(trained, rel=1e-5)
    one = tmp_path / "one.jsonl"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows_of(*["fine"] * 20)))
    assert load_task(EvalConfig(model=str(made), data=str(one), head=True), ("test",)).splits["test"][0].label == 1
    one.write_text("".join(json.dumps(row) + "\n" for row in rows_of(*[1] * 20)))
    with pytest.raises(UsageError, match=r"'1', not one of the model's classes; .* --verbalizers LABEL=CLASS"):
        load_task(EvalConfig(model=str(made), data=str(one), head=True), ("test",))
    with pytest.raises(UsageError, match="the model's classes are awful, fine, not fine, awful"):
        load_task(EvalConfig(model=str(made), data=config.data, head=True, verbalizers="fine=a,awful=b"))


def test_other_classes_do_not_go_on_with_a_run_and_do_not_replay_it(config: TrainConfig, tmp_path: Path) -> None:
    class Stopped(Silent):
        def row(self, row: Mapping[str, Any]) -> None:
            if row["kind"] == "step" and row["step"] == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, Stopped())
    header = read(config.output / "ledger.zo").header
    assert (header.origin["head"], header.origin["classes"]) == (2, ["awful", "fine"])
    for field, value in (("head", False), ("verbalizers", "fine=a,awful=b")):
        with pytest.raises(UsageError, match=f"was started with {field} = "):
            Training(dataclasses.replace(config, resume=True, **{field: value}), Silent(), complete=True).go()
    # the saved flags themselves changed: another order of classes is other data
    path = config.output / "config.json"
    saved = path.read_text()
    path.write_text(saved.replace('"verbalizers": null', '"verbalizers": "fine=a,awful=b"'))
    with pytest.raises(UsageError, match="gives other rows than when this run began"):
        train(dataclasses.replace(config, resume=True), Silent())
    path.write_text(saved)
    train(dataclasses.replace(config, resume=True), Silent())
    # its base, with a classifier that was trained on the same classes in another order
    other = dataclasses.replace(config, output=tmp_path / "other", verbalizers="fine=a,awful=b")
    train(other, Silent())
    with pytest.raises(UsageError, match="the model's classes are fine, awful, not awful, fine"):
        rebuilt(str(other.output / "model"), config.output / "ledger.zo", tmp_path / "never")
    three = dataclasses.replace(config, output=tmp_path / "three", verbalizers="awful=a,fine=b,none=c")
    train(three, Silent())
    found = load_base(config.model, read(three.output / "ledger.zo"), None, "cpu", False)
    with pytest.raises(
        LedgerError, match=r"'classifier.weight' of shape \[2, 16\] in float32, this base has \[3, 16\]"
    ):
        replay(found.model, config.output / "ledger.zo")


@pytest.mark.parametrize("scheme", ["full", "lora", "head"])
def test_a_plan_searches_what_a_run_does(bert_folder: Path, scheme: Any) -> None:
    planned = make_plan(PlanConfig(model=str(bert_folder), scheme=scheme, head=3, time=False))
    space = ParameterSpace.of(apply_scheme(load_model(str(bert_folder), head=3).model, scheme, KEY))
    assert (planned.searched, planned.sites) == (space.numel, len(space))


@pytest.mark.e2e
def test_the_packaged_encoder_is_a_classifier_of_the_packaged_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zerothorder import training

    monkeypatch.setattr(training, "write_report", lambda folder: folder)
    config = TrainConfig(
        output=tmp_path / "run", model="minilm", head=True, scheme="lora", steps=3, eval_rows=16, test_rows=64,
        check="joint", threads=1,
    )  # fmt: skip
    run = Training(config, Silent())
    assert run.go()["rows"] == 64
    assert run.task.classes == ("0", "1")
    assert load_model(str(config.output / "model"), head=2).model.config.id2label == {0: "0", 1: "1"}
    found, made = rebuilt("minilm", config.output / "ledger.zo", tmp_path / "again"), files(config.output / "model")
    # reading texts takes the tokenizer's own truncation away, which is the run's to do
    assert {n: b for n, b in found.items() if "tok" not in n} == {n: b for n, b in made.items() if "tok" not in n}
