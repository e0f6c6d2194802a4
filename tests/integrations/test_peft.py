"""Schemes through peft: what is drawn, what it starts from, and that a run with an adapter replays like any other."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import text_models
from text_models import PAD, Example, texts
from zerothorder.cli.base import load_base
from zerothorder.config import TrainConfig
from zerothorder.data import load_model, save_model
from zerothorder.data.adapters import write_adapter
from zerothorder.errors import LedgerError, UsageError
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.integrations import peft as schemes
from zerothorder.integrations.peft import ALPHA, PREFIX_TOKENS, RANK, apply_scheme, kaiming_uniform, start_of
from zerothorder.key import Key, run_key
from zerothorder.ledger.reader import read
from zerothorder.objectives.classification import Classification, candidate_scores
from zerothorder.objectives.metric import TokenF1, generate
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.make import make_plan
from zerothorder.point import Point
from zerothorder.random.philox import lanes
from zerothorder.recipes.mezo import MeZO
from zerothorder.replay import START, replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.training import train

KEY = run_key(3)
TARGETS = {"llama": ["q_proj", "v_proj"], "opt": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "t5": ["q", "v"]}
ADAPTERS = ("lora", "prefix")


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


# LoRA


@pytest.mark.parametrize("name", text_models.MODELS)
def test_lora_sits_on_queries_and_values_and_starts_as_the_model_itself(name: str) -> None:
    model = text_models.build(name)
    examples = texts((5, 2, 3), ((1, 2),) * 3)
    before = candidate_scores(model, examples, PAD)
    adapted = apply_scheme(model, "lora", KEY)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (RANK, ALPHA, 0.0) == (8, 16, 0.0)
    assert sorted(config.target_modules) == TARGETS[name]
    assert not any(module.training for module in adapted.modules())
    # B is zero, below; that its product is added in other memory is seen by MKL, in the last bit
    assert torch.allclose(candidate_scores(adapted, examples, PAD), before, rtol=0, atol=2e-6)
    space = ParameterSpace.of(adapted)
    assert {site.name.split(".")[-3] for site in space} == {"lora_A", "lora_B"}
    for site in space:
        if ".lora_B." in site.name:
            assert not site.parameter.any()
        else:
            bound = 1 / math.sqrt(site.shape[1])
            assert 0.8 * bound < float(site.parameter.detach().abs().max()) <= bound


def test_kaiming_uniform_is_uniform_and_its_bits_are_frozen() -> None:
    draw = kaiming_uniform(12345, (200, 100)).double()
    bound = 0.1
    assert draw.abs().max() < bound
    n = draw.numel()
    assert abs(float(draw.mean())) < 4 * bound / math.sqrt(3 * n)
    # Var(x²) = b⁴·4/45
    assert float((draw**2).mean()) == pytest.approx(bound**2 / 3, abs=4 * bound**2 * math.sqrt(4 / 45 / n))
    assert float((draw < bound / 2).double().mean()) == pytest.approx(0.75, abs=4 * math.sqrt(0.1875 / n))
    # ledgers of LoRA runs are replayed from these bits
    k = [int(lane) >> 8 for lane in lanes(7, 32, 0, 3)]
    exact = [(2 * i + 1 - 2**24) / 2**24 / math.sqrt(3) for i in k]
    assert kaiming_uniform(7, (1, 3))[0].tolist() == pytest.approx(exact, rel=1e-7)
    frozen = ["0x1.0cc2c80000000p-1", "0x1.27c8860000000p-2", "-0x1.c833aa0000000p-2"]
    assert [x.hex() for x in kaiming_uniform(7, (1, 3))[0].tolist()] == frozen


def test_lora_s_start_is_a_function_of_run_key_and_name_alone() -> None:
    first = parameters(apply_scheme(text_models.build("llama"), "lora", KEY))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = parameters(apply_scheme(text_models.build("llama", seed=5), "lora", KEY))  # another base
    assert torch.equal(torch.get_rng_state(), state)
    other = parameters(apply_scheme(text_models.build("llama"), "lora", run_key(4)))
    factors = [name for name in first if ".lora_A." in name]
    assert len(factors) == 4
    for name in factors:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[factors[0]], first[factors[2]])  # the same projection of two layers


def test_at_b_zero_half_of_lora_s_coordinates_carry_noise() -> None:
    """dL/dA = 0 while B = 0: perturbing A alone changes no loss, yet the first step moves A by ρ·z."""
    adapted = apply_scheme(text_models.build("llama"), "lora", KEY)
    whole = ParameterSpace.of(adapted)
    factors = ParameterSpace.of(adapted, lambda name: ".lora_A." in name)
    assert 0.3 < factors.numel / whole.numel < 0.7
    examples = texts((5, 2, 3), ((1, 2),) * 3)
    run = Run(adapted, factors, MeZO(), Classification(PAD), Swap(), seed=1)
    points = [Point(((Key("z", 0), c),)) for c in (0.5, -0.5, 0.0)]
    values = run.executor.evaluate(points, run.objective, {"main": examples}, Key("e", 0), run.around)
    assert torch.equal(values[0].value, values[2].value)
    assert torch.equal(values[1].value, values[2].value)
    before = parameters(adapted)
    entry = Run(adapted, whole, MeZO(lr=1e-2, eps=1e-1), Classification(PAD), Swap(), seed=1).step(examples)
    assert entry.terms[0][1] != 0
    for name, tensor in adapted.named_parameters():
        assert torch.equal(tensor, before[name]) != ("lora_" in name), name


# Prefix


@pytest.mark.parametrize("name", text_models.MODELS)
def test_a_prefix_starts_as_real_tokens_before_the_text(name: str) -> None:
    """The keys and values of 5 tokens: the model must answer as if it had read these tokens first."""
    model = text_models.build(name)
    drawn = lanes(Key("prefix", 0).seed(KEY, 0), 32, 0, PREFIX_TOKENS) % text_models.VOCABULARY
    tokens = tuple(drawn.tolist())
    text = (7, 20, 9, 33)
    with torch.no_grad():
        if name == "t5":
            ids, decoded = torch.tensor([[4, 8, 9]]), torch.tensor([(*tokens, PAD, *text)])
            longer = model(input_ids=ids, decoder_input_ids=decoded).logits[0, PREFIX_TOKENS:]
            adapted = apply_scheme(model, "prefix", KEY)
            found = adapted(input_ids=ids, decoder_input_ids=torch.tensor([(PAD, *text)])).logits[0]
        else:
            longer = model(input_ids=torch.tensor([(*tokens, *text)])).logits[0, PREFIX_TOKENS:]
            plain = model(input_ids=torch.tensor([text])).logits[0]
            adapted = apply_scheme(model, "prefix", KEY)
            mask = torch.ones(1, 4, dtype=torch.int64)
            found = adapted(
                input_ids=torch.tensor([text]), attention_mask=mask, position_ids=torch.arange(4)[None]
            ).logits[0]
            assert not torch.allclose(plain, found, atol=1e-3)
    torch.testing.assert_close(found, longer, rtol=1e-4, atol=1e-4)
    (site,) = ParameterSpace.of(adapted)
    assert site.name == "prompt_encoder.default.embedding.weight"
    assert site.shape[0] == PREFIX_TOKENS
    assert set(start_of("prefix", ParameterSpace.of(adapted))) == {site.name}
    assert start_of("lora", ParameterSpace.of(adapted)) == start_of("full", ParameterSpace.of(adapted)) == {}


@pytest.mark.parametrize("scheme", ADAPTERS)
@pytest.mark.parametrize("name", text_models.MODELS)
def test_with_an_adapter_padding_changes_nothing_and_swap_is_copy(name: str, scheme: str) -> None:
    adapted = apply_scheme(text_models.build(name), scheme, KEY)
    space = ParameterSpace.of(adapted)
    examples = texts((5, 1, 3), ((1, 2),) * 3)
    together = candidate_scores(adapted, examples, PAD)
    alone = torch.cat([candidate_scores(adapted, [e], PAD) for e in examples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    found = []
    points = [Point(((Key("z", 0), 0.3),)), Point()]
    for executor in (Swap(), Copy()):
        run = Run(adapted, space, MeZO(), Classification(PAD), executor, seed=1)
        values = executor.evaluate(points, run.objective, {"main": examples}, Key("e", 0), run.around)
        found.append(torch.stack([v.value for v in values]))
        assert run.around.meter.examples == 2 * 6
        assert run.around.meter.tokens == 2 * _tokens(name, examples)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0][0], found[0][1])


def _tokens(name: str, examples: list[Example]) -> int:
    """Tokens read for each pair of prompt and answer; virtual ones are none."""
    if name == "t5":
        return sum(len(e.prompt) for e in examples for _ in e.answers)
    return sum(len(e.prompt) + len(a) - 1 for e in examples for a in e.answers)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_what_is_generated_has_the_prefix_at_every_token(name: str) -> None:
    adapted = apply_scheme(text_models.build(name, spread=12.0), "prefix", KEY).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        for _ in range(4):  # each token by a forward of its own, without a cache between them
            logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
    said = generate(
        adapted, [Example((5, 6, 7), ((4,),), references=("x",))], lambda ids: " ".join(map(str, ids)), PAD, 4
    )
    words = said[0].split()
    assert words
    assert words == [str(i) for i in ids[0, 3:].tolist()][: len(words)]


@pytest.mark.parametrize("scheme", ADAPTERS)
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_an_adapter_generates_in_a_batch_as_alone_and_every_forward_is_counted(name: str, scheme: str) -> None:
    adapted = apply_scheme(text_models.build(name, spread=12.0), scheme, KEY)
    examples = [Example(p, ((4,),), references=("x",)) for p in ((5, 6, 7), (9,), (31, 30))]

    def words(ids: list[int]) -> str:
        return " ".join(str(i) for i in ids if i > 2)  # without special tokens

    together = generate(adapted, examples, words, PAD, 4)
    assert together == [generate(adapted, [e], words, PAD, 4)[0] for e in examples]
    run = Run(adapted, ParameterSpace.of(adapted), MeZO(), TokenF1(PAD, words, 4), Swap(), seed=1)
    run.step(examples)
    assert run.around.meter.calls == 2 * 4


# What is refused


def no_attention() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=50)
    with torch.random.fork_rng([]):
        return MambaForCausalLM(config)


def encoder() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    with torch.random.fork_rng([]):
        return BertForMaskedLM(config)


@pytest.mark.parametrize(
    ("model", "scheme", "match"),
    [
        (no_attention, "lora", "'mamba' has none that are known; use the scheme full"),
        (no_attention, "prefix", "'mamba' does not have.*use the scheme lora or full"),
        (encoder, "prefix", "'bert' does not have.*use the scheme lora or full"),
        (encoder, "lorra", "unknown scheme 'lorra'.*lora"),
    ],
)
def test_what_an_architecture_cannot_do_is_said(model: Callable[[], Any], scheme: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        apply_scheme(model(), scheme, KEY)


def test_full_is_the_model_itself_and_an_encoder_takes_lora() -> None:
    model = encoder()
    assert apply_scheme(model, "full", KEY) is model
    names = {name.split(".")[-4] for name, p in apply_scheme(model, "lora", KEY).named_parameters() if p.requires_grad}
    assert names == {"query", "value"}


# The head


def classifier(name: str) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng([]):
        if name == "bert":
            return BertForSequenceClassification(
                BertConfig(
                    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
                )
            )
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                tie_word_embeddings=name == "tied",
            )
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("bert", {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}),
        ("untied", {"lm_head.weight"}),
    ],
)
def test_the_head_is_what_is_not_the_body(name: str, own: set[str]) -> None:
    model = classifier(name)
    assert apply_scheme(model, "head", KEY) is model
    assert {name for name, p in model.named_parameters() if p.requires_grad} == own
    assert start_of("head", ParameterSpace.of(model)) == {}


def test_a_head_that_is_the_embedding_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'llama' has no head of its own.*tied to the embedding.*scheme full"):
        apply_scheme(classifier("tied"), "head", KEY)


# Whole runs


class Quiet:
    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.rows: list[Mapping[str, Any]] = []

    def note(self, text: str) -> None: ...

    def row(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        if row["kind"] == "step" and row["step"] + 1 == self.stop_at:
            raise KeyboardInterrupt

    def progress(self, what: str, done: int, total: int) -> None: ...


@pytest.fixture
def config(llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    from zerothorder import training

    monkeypatch.setattr(training, "write_report", lambda folder: folder)
    data = tmp_path / "films.jsonl"
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} film {n}", "label": n % 2} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        output=tmp_path / "run", model=str(llama_folder), data=str(data), template="{text} It was",
        verbalizers="0=terrible,1=great", steps=4, batch_size=4, seed=3, check="off", threads=1, eval_rows=4,
        test_rows=4,
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose forwards round otherwise."""
    own = schemes._keys_and_values
    monkeypatch.setattr(schemes, "_keys_and_values", lambda model, key: own(model, key) * (1 + 1e-6))


def loaded(config: TrainConfig, ledger: Path) -> Any:
    return load_base(config.model, read(ledger), None, "cpu", False)


def rebuilt(config: TrainConfig, ledger: Path, out: Path) -> dict[str, bytes]:
    """The adapter folder that base and ledger give."""
    base = loaded(config, ledger)
    replay(base.model, ledger)
    save_model(base.model, base.tokenizer, out)
    return files(out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scheme", ADAPTERS)
def test_a_run_is_an_adapter_folder_and_replay_gives_its_bytes(
    config: TrainConfig, scheme: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, scheme=scheme, dtype=dtype)
    train(config, Quiet())
    made = config.output / "model"
    assert json.loads((made / "adapter_config.json").read_text())["base_model_name_or_path"] == config.model
    assert sorted(path.name for path in made.glob("*.safetensors")) == ["adapter_model.safetensors"]

    # an ordinary adapter: peft reads it, and so does load_model, with the bits of the live run
    ids = torch.tensor([[5, 9, 11, 3]])
    ours = load_model(str(made), dtype).model
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(made, dtype=getattr(torch, dtype)).eval()
    start = loaded(config, config.output / "ledger.zo").model
    with torch.no_grad():
        logits = ours(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(logits, theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
        assert not torch.equal(logits, start(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)

    # base and ledger (and what is attached to it) are enough, also where forwards round otherwise
    elsewhere(monkeypatch)
    folder = tmp_path / "sent"
    folder.mkdir()
    shutil.copy(config.output / "ledger.zo", folder)
    attached = config.output / "attachments"
    assert attached.exists() == (scheme == "prefix")
    if scheme == "prefix":
        (name,) = [path.name for path in attached.iterdir()]
        with pytest.raises(LedgerError, match=f"{START!r} needs the attachment {name}"):
            rebuilt(config, folder / "ledger.zo", tmp_path / "never")
        (folder / "attachments").mkdir()
        shutil.copy(attached / name, folder / "attachments")
    assert rebuilt(config, folder / "ledger.zo", tmp_path / "again") == files(made)


@pytest.mark.parametrize("scheme", ADAPTERS)
def test_a_stopped_run_with_an_adapter_goes_on_to_the_same_bytes(
    config: TrainConfig, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(config, scheme=scheme)
    train(whole, Quiet())
    parted = dataclasses.replace(config, scheme=scheme, output=tmp_path / "parted")
    with pytest.raises(KeyboardInterrupt):
        train(parted, Quiet(stop_at=2))
    elsewhere(monkeypatch)
    report = Quiet()
    train(dataclasses.replace(parted, resume=True), report)
    assert files(parted.output / "model") == files(whole.output / "model")
    moved = [row["moved"] for row in report.rows if "moved" in row]
    assert moved[-1:] == [_moved(whole)]


def _moved(config: TrainConfig) -> float:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [row["moved"] for row in rows if "moved" in row][-1]


def test_a_prefix_leaves_room_in_the_context(config: TrainConfig) -> None:
    from zerothorder.task import load_task

    model = load_model(config.model).model
    model.config.max_position_embeddings = 12
    tokenizer = load_model(config.model).tokenizer
    folder = Path(config.model).parent / "short"
    save_model(model, tokenizer, folder)
    longest = {}
    for scheme in ("full", "prefix"):
        task = load_task(dataclasses.replace(config, model=str(folder), scheme=scheme), splits=("train",))
        longest[scheme] = max(len(e.prompt) + 1 for e in task.splits["train"])
    assert longest["full"] <= 12
    assert longest["prefix"] <= 12 - PREFIX_TOKENS


def test_an_adapter_s_configuration_is_the_same_bytes_whatever_order_its_sets_come_in(tmp_path: Path) -> None:
    class Written:
        active_adapter = "default"

        def __init__(self, targets: list[str]) -> None:
            self.targets = targets

        def save_pretrained(self, folder: Path, selected_adapters: list[str]) -> None:
            assert selected_adapters == ["default"]
            folder.mkdir()
            (folder / "adapter_config.json").write_text(json.dumps({"target_modules": self.targets, "r": 8}))
            (folder / "README.md").write_text("[More Information Needed]")

    found = []
    for name, targets in (("a", ["v_proj", "q_proj"]), ("b", ["q_proj", "v_proj"])):
        write_adapter(Written(targets), tmp_path / name)
        found.append(files(tmp_path / name))
    assert found[0] == found[1]
    assert list(found[0]) == ["adapter_config.json"]
    assert json.loads(found[0]["adapter_config.json"]) == {"r": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scheme", ["full", *ADAPTERS, "prompt"])
def test_a_plan_searches_what_a_run_does(llama_folder: Path, scheme: Any, dtype: Any) -> None:
    planned = make_plan(PlanConfig(model=str(llama_folder), scheme=scheme, dtype=dtype, time=False))
    space = ParameterSpace.of(apply_scheme(load_model(str(llama_folder), dtype).model, scheme, KEY))
    assert (planned.searched, planned.sites) == (space.numel, len(space))
