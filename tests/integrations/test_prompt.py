"""Virtual tokens: real ones at the start, the same value in any batch, PEFT's folder, and runs that replay."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import text_models
from text_models import PAD, VOCABULARY, Example, texts
from zerothorder import catalogue
from zerothorder.cli.base import load_base
from zerothorder.config import EvalConfig, TrainConfig
from zerothorder.data import load_model, save_model, virtual_tokens
from zerothorder.errors import UsageError
from zerothorder.evaluation import evaluate
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.integrations.peft import PROMPT_TOKENS, apply_scheme, start_of
from zerothorder.key import Key, run_key
from zerothorder.ledger.reader import read
from zerothorder.objectives.classification import Classification, candidate_scores
from zerothorder.objectives.language_model import LanguageModel
from zerothorder.objectives.metric import TokenF1, generate
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.make import make_plan
from zerothorder.point import Point
from zerothorder.random.philox import lanes
from zerothorder.recipes.mezo import MeZO
from zerothorder.replay import replay
from zerothorder.reporter import Silent
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.task import load_task
from zerothorder.training import train

KEY = run_key(3)
TOKENS = tuple((lanes(Key("prompt", 0).seed(KEY, 0), 32, 0, PROMPT_TOKENS) % VOCABULARY).tolist())
VIRTUAL = tuple(range(VOCABULARY, VOCABULARY + PROMPT_TOKENS))


def prompted(name: str, **how: Any) -> Any:
    return apply_scheme(text_models.build(name, **how), "prompt", KEY)


def examples(*before: int) -> list[Example]:
    return [dataclasses.replace(e, prompt=before + e.prompt) for e in texts((5, 1, 3), ((1, 2),) * 3)]


def prompt_of(model: Any) -> torch.Tensor:
    (site,) = ParameterSpace.of(model)
    assert site.name.endswith(".prompt.weight")
    return site.parameter


@pytest.mark.parametrize("name", text_models.MODELS)
def test_virtual_tokens_start_as_the_real_ones_that_the_run_key_draws(name: str) -> None:
    plain = text_models.build(name)
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    model = prompted(name)
    assert virtual_tokens(model) == VIRTUAL
    with torch.no_grad():
        real, virtual = (
            candidate_scores(plain, examples(*TOKENS), PAD),
            candidate_scores(model, examples(*VIRTUAL), PAD),
        )
    assert torch.equal(real, virtual)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert start_of("prompt", ParameterSpace.of(model)) == {}
    assert not torch.equal(prompt_of(model), prompt_of(apply_scheme(text_models.build(name), "prompt", run_key(4))))
    half = apply_scheme(text_models.build(name).to(torch.bfloat16), "prompt", KEY)
    assert prompt_of(half).dtype == torch.float32
    assert half.get_input_embeddings()(torch.tensor([VIRTUAL])).dtype == torch.bfloat16


@pytest.mark.parametrize("name", text_models.MODELS)
def test_a_row_has_the_same_value_alone_and_in_a_batch_and_executors_agree(name: str) -> None:
    model, rows = prompted(name), examples(*VIRTUAL)
    with torch.no_grad():
        together = candidate_scores(model, rows, PAD)
        alone = torch.cat([candidate_scores(model, [row], PAD) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    points = [Point(((Key("z", 0), sign * 0.3),)) for sign in (1, -1)] + [Point()]
    found = []
    for executor in (Swap(), Copy(), Batched()):
        run = Run(model, ParameterSpace.of(model), MeZO(), Classification(PAD), executor, seed=1)
        values = executor.evaluate(points, run.objective, {"main": rows}, Key("e", 0), run.around)
        assert getattr(executor, "reason", None) is None
        found.append(torch.stack([v.value for v in values]))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], found[1], rtol=1e-5, atol=1e-5)
    assert not torch.equal(found[0][0], found[0][2])


@pytest.mark.parametrize("recipe", ["forward-grad", "low-rank", "adamw"])
def test_other_recipes_search_it_too(recipe: str) -> None:
    model = prompted("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    executor = Batched() if recipe == "low-rank" else Swap()
    run = Run(model, ParameterSpace.of(model), catalogue.build(recipe, lr=1e-2), LanguageModel(PAD), executor, steps=2)
    run.step(examples(*VIRTUAL))
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["model.embed_tokens.prompt.weight"]


@pytest.mark.parametrize("name", ["llama", "opt", "t5"])
def test_it_generates_in_a_batch_as_alone_and_every_forward_is_counted(name: str) -> None:
    model = prompted(name, spread=12.0)
    rows = [Example(VIRTUAL + p, ((4,),), references=("x",)) for p in ((5, 6, 7), (9,), (31, 30))]

    def words(ids: list[int]) -> str:
        return " ".join(str(i) for i in ids if i > 2)  # without special tokens

    together = generate(model, rows, words, PAD, 4)
    assert together == [generate(model, [row], words, PAD, 4)[0] for row in rows]
    assert all(int(word) < VOCABULARY for text in together for word in text.split())
    run = Run(model, ParameterSpace.of(model), MeZO(), TokenF1(PAD, words, 4), Swap(), seed=1)
    run.step(rows)
    assert run.around.meter.calls >= 2


@pytest.mark.parametrize("name", text_models.MODELS)
def test_the_folder_is_peft_s_and_means_the_same_there(name: str, tmp_path: Path) -> None:
    model = prompted(name)
    with torch.no_grad():
        prompt_of(model).add_(torch.randn(PROMPT_TOKENS, 16, generator=torch.Generator().manual_seed(0)))
    from zerothorder.data.soft_prompt import load_prompt, write_prompt

    write_prompt(model, tmp_path)
    theirs: Any = peft.PeftModel.from_pretrained(text_models.build(name), str(tmp_path)).eval()
    ours = load_prompt(text_models.build(name), tmp_path, PROMPT_TOKENS)
    text, more = (7, 20, 9, 33), {"decoder_input_ids": torch.tensor([[0, 5, 6]])} if name == "t5" else {}
    with torch.no_grad():
        a = ours(input_ids=torch.tensor([VIRTUAL + text]), **more).logits
        b = theirs(input_ids=torch.tensor([text]), attention_mask=torch.ones(1, 4, dtype=torch.int64), **more).logits
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in ours.parameters())
    with pytest.raises(UsageError, match="can be measured, but not trained further; train its base"):
        apply_scheme(ours, "lora", KEY)


def test_what_cannot_have_a_prompt_is_said(tmp_path: Path) -> None:
    for name in ("bert", "llama"):
        with pytest.raises(UsageError, match="does not train it; use the scheme lora, head or full"):
            apply_scheme(text_models.classifier(name), "prompt", KEY)
    from zerothorder.data.soft_prompt import load_prompt, write_prompt

    write_prompt(prompted("llama"), tmp_path)
    wider = text_models.classifier("llama")
    wider.set_input_embeddings(torch.nn.Embedding(5, 17))
    with pytest.raises(UsageError, match="has 16 columns, its base 17; give its own base"):
        load_prompt(wider, tmp_path, PROMPT_TOKENS)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"cannot read the prompt in .*; is the folder whole"):
        load_prompt(text_models.build("llama"), tmp_path, PROMPT_TOKENS)


# Whole runs


@pytest.fixture
def config(llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    from zerothorder import training

    monkeypatch.setattr(training, "write_report", lambda folder: folder)
    data = tmp_path / "films.jsonl"
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} film {n}", "label": n % 2} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        output=tmp_path / "run", model=str(llama_folder), data=str(data), template="{text} It was", scheme="prompt",
        verbalizers="0=terrible,1=great", steps=4, batch_size=4, seed=3, check="off", threads=1, lr=1e-2, eps=1e-2,
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [None, 1])
def test_a_run_is_replayed_resumed_and_measured_again(
    config: TrainConfig, stop: int | None, dtype: Any, tmp_path: Path
) -> None:
    class Stopped(Silent):
        def row(self, row: Mapping[str, Any]) -> None:
            if row["kind"] == "step" and row["step"] == stop:
                raise KeyboardInterrupt

    config = dataclasses.replace(config, dtype=dtype)
    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            train(config, Stopped())
    trained = train(dataclasses.replace(config, resume=stop is not None), Silent())
    made = config.output / "model"
    assert not (config.output / "attachments").exists()
    written = json.loads((made / "adapter_config.json").read_text())
    assert written["peft_type"] == "PROMPT_TUNING"
    assert (written["base_model_name_or_path"], written["num_virtual_tokens"]) == (config.model, PROMPT_TOKENS)

    base = load_base(config.model, read(config.output / "ledger.zo"), None, "cpu", False)
    start = prompt_of(base.model).detach().clone()
    replay(base.model, config.output / "ledger.zo")
    assert not torch.equal(prompt_of(base.model), start)
    save_model(base.model, base.tokenizer, tmp_path / "again")
    assert files(tmp_path / "again") == files(made)

    loaded = load_model(str(made), dtype)
    assert torch.equal(loaded.model.get_input_embeddings().prompt.weight, prompt_of(base.model))
    same = {name: getattr(config, name) for name in ("data", "template", "verbalizers", "dtype")}
    task = load_task(EvalConfig(model=str(made), **same))
    assert evaluate(task, "test", "classification", calibrate=500) == pytest.approx(trained, rel=1e-5)


def test_texts_keep_the_room_that_they_have_without_it(config: TrainConfig) -> None:
    plain = load_task(dataclasses.replace(config, scheme="full"), ("train",)).splits["train"]
    found = load_task(config, ("train",))
    before = virtual_tokens(found.model)
    assert [e.prompt for e in found.splits["train"]] == [before + e.prompt for e in plain]
    model, tokenizer = (loaded := load_model(config.model)).model, loaded.tokenizer
    model.config.max_position_embeddings = 18
    folder = Path(config.model).parent / "short"
    save_model(model, tokenizer, folder)
    task = load_task(dataclasses.replace(config, model=str(folder)), ("train",))
    lengths = [len(e.prompt) + 1 for e in task.splits["train"]]
    assert max(lengths) <= 18
    assert task.truncated["train"] > 40
    assert all(e.prompt[:PROMPT_TOKENS] == before for e in task.splits["train"])


@pytest.mark.parametrize("objective", ["lm", "metric"])
def test_it_learns_likelihood_and_scores_of_generations(config: TrainConfig, objective: Any) -> None:
    config = dataclasses.replace(config, objective=objective, verbalizers=None, steps=2, eval_rows=2, test_rows=2)
    if objective == "metric":
        rows = [{"text": f"a film {n}", "references": ["good"]} for n in range(40)]
        Path(config.data).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataclasses.replace(config, template=None if objective == "lm" else config.template)
    assert set(train(config, Silent())) == {"rows", "loss" if objective == "lm" else "f1"}
    if objective == "metric":
        path = Path(config.model) / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.1}))
        with pytest.raises(UsageError, match=r"penalise repetition \(1.1\).*use the scheme prefix"):
            train(dataclasses.replace(config, output=config.output.parent / "never"), Silent())


def test_a_plan_counts_its_tokens(llama_folder: Path) -> None:
    plain, with_prompt = (
        make_plan(PlanConfig(model=str(llama_folder), scheme=scheme, batch_size=2, tokens=12, time=False))
        for scheme in ("full", "prompt")
    )
    assert with_prompt.searched == PROMPT_TOKENS * 16
    assert with_prompt.tokens - plain.tokens == PROMPT_TOKENS * with_prompt.forwards
