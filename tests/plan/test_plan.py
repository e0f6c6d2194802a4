"""What `zo plan` says of a tiny model is what a run of it then does: bytes, forwards, ledger; and what it refuses."""

import copy
import json
from pathlib import Path

import pytest
import torch

from small_families import Mean, around, build
from zerothorder import catalogue
from zerothorder.cli.plan import plan_command
from zerothorder.data import load_model
from zerothorder.errors import UsageError
from zerothorder.execution.batched import Batched
from zerothorder.execution.check import check_sites
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.objectives.classification import Classification
from zerothorder.objectives.language_model import LanguageModel
from zerothorder.plan import Plan, PlanConfig, make_plan
from zerothorder.plan.scratch import one_by_one
from zerothorder.plan.trace import trace, without_data
from zerothorder.point import Point
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

from .child import Row


def plan(folder: Path, **fields: object) -> Plan:
    defaults: dict[str, object] = {"batch_size": 3, "tokens": 12, "time": False}
    return make_plan(PlanConfig(model=str(folder), **(defaults | fields)))  # type: ignore[arg-type]


def steps(folder: Path, path: Path, config: PlanConfig, count: int) -> tuple[Run, Swap]:
    """A run as planned, of `count` steps."""
    model = load_model(folder, config.dtype).model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(word in name for word in config.freeze))
    recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
    objective = LanguageModel(0) if config.objective == "lm" else Classification(0)
    swap = Swap()
    run = Run(model, ParameterSpace.of(model), recipe, objective, swap, steps=config.steps, path=path)
    ids = tuple(range(1, 1 + config.tokens))
    row = Row((), (ids,)) if config.objective == "lm" else Row(ids, ((7,), (9,)))
    for _ in range(count):
        run.step([row] * config.batch_size)
    run.ledger.sync()
    return run, swap


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "float32"},
        {"dtype": "bfloat16", "law": "rademacher"},
        {"dtype": "bfloat16", "optimizer": "adam", "freeze": ("embed",)},
        {"dtype": "float32", "optimizer": "momentum", "draws": 3, "objective": "lm"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_a_run_is_as_planned(llama_folder: Path, tmp_path: Path, fields: dict[str, object]):
    found = plan(llama_folder, steps=5, executor="swap", **fields)
    run, swap = steps(llama_folder, tmp_path / "ledger.zo", found.config, 5)
    space, parts = run.space, found.memory.parts
    assert found.searched == space.numel
    assert found.sites == len(space)
    assert parts["weights"] == sum(t.nbytes for t in (*run.model.parameters(), *run.model.buffers()))
    assert parts["residual"] + parts["state"] == run.state.nbytes
    (scratch,) = swap.scratch.values()
    assert 0 <= scratch.nbytes - parts["scratch"] < 64 * scratch.itemsize * len(space)  # aligned
    meter = run.around.meter
    assert (found.forwards * 5, found.evaluations * 5) == (meter.examples, meter.calls)
    # the language model reads all tokens but the last
    assert 0 <= found.tokens * 5 - meter.tokens <= meter.examples
    assert found.ledger_run == (tmp_path / "ledger.zo").stat().st_size
    assert found.ledger_step == 24 + 4 * (1 + (found.config.draws or 1))


def test_nothing_is_allocated_for_the_model(llama_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zerothorder.data.load_model", lambda *a, **k: pytest.fail("a plan loads no weights"))
    state = torch.get_rng_state()
    plan(llama_folder)
    assert torch.equal(state, torch.get_rng_state())


def test_the_trace_counts_what_is_alive_at_once():
    with without_data():
        layer = torch.nn.Linear(100, 1000, bias=False)
        x = torch.empty(10, 100)

        def forward() -> torch.Tensor:
            hidden = layer(x)  # 40,000 bytes
            both = torch.cat((hidden, hidden))  # and 80,000
            del hidden
            return both.sum() + both.view(-1)[0]

        found = trace(layer, forward)
    assert 120_000 <= found.peak < 121_000
    assert found.largest == 80_000


def test_a_copied_module_belongs_to_the_same_mode():
    """Adapters copy a head. With a mode of its own a copy's memory would be freed twice."""
    with without_data():
        layer = torch.nn.Linear(3, 2)
        layer.bias.requires_grad_(False)
        made = copy.deepcopy(layer)
        assert made.weight is not layer.weight
        assert made.weight.fake_mode is layer.weight.fake_mode
        assert made.weight.shape == (2, 3)
        assert (made.weight.requires_grad, made.bias.requires_grad) == (True, False)
        assert {name for name, _ in made.named_parameters()} == {"weight", "bias"}


def test_activations_grow_with_rows_and_shrink_with_micro_batches(llama_folder: Path):
    small, large = (plan(llama_folder, batch_size=rows).memory.parts["activations"] for rows in (8, 64))
    assert 6 < large / small < 9
    assert plan(llama_folder, batch_size=64, micro_batch=8).memory.parts["activations"] == small


def test_longer_candidates_take_rows_of_their_own(llama_folder: Path):
    assert plan(llama_folder).forwards == 6
    assert plan(llama_folder, answer_tokens=2, choices=4).forwards == 24


@pytest.mark.parametrize("scheme", ["lora", "prefix"])
def test_adapters_are_searched_alone(llama_folder: Path, scheme: str):
    full, found = plan(llama_folder), plan(llama_folder, scheme=scheme, dtype="bfloat16")
    assert found.searched < found.parameters
    assert found.searched < full.searched
    assert found.memory.parts["residual"] == 0  # adapter weights are float32


def test_the_other_executor_holds_a_second_copy(llama_folder: Path):
    found = plan(llama_folder, executor="copy")
    assert found.memory.parts["scratch"] == found.memory.parts["weights"] - _buffers(llama_folder)


def _buffers(folder: Path) -> int:
    return sum(b.nbytes for b in load_model(folder).model.buffers())


def test_batched_holds_factors_or_a_block_and_passes_of_1024_tokens(llama_folder: Path):
    swap = plan(llama_folder, executor="swap", batch_size=16)
    dense, thin = plan(llama_folder, batch_size=16), plan(llama_folder, batch_size=16, recipe="low-rank")
    assert thin.memory.parts["scratch"] < swap.memory.parts["scratch"] / 2
    for other in (dense, thin):
        assert (other.forwards, other.tokens, other.evaluations) == (swap.forwards, swap.tokens, swap.evaluations)
        assert other.memory.parts["activations"] > 1.5 * swap.memory.parts["activations"]
    short = {"batch_size": 16, "tokens": 16}
    activations = [plan(llama_folder, draws=n, **short).memory.parts["activations"] for n in (1, 2, 8)]
    assert activations[0] < activations[1] == activations[2]  # four points of 256 tokens a pass
    alone = plan(llama_folder, batch_size=16, copies=1).memory.parts["activations"]
    assert alone == swap.memory.parts["activations"]


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit", "mixtral", "lstm", "convolutional"])
def test_a_plan_names_what_runs_once_a_point(name: str):
    model, batch = build(name, torch.float32)
    bound = around(model)
    batched = Batched(check_sites(bound, Mean(), batch, mode="joint").owners, check=False)
    points = [Point(((Key("z", 0), c),)) for c in (0.01, -0.01)]
    batched.evaluate(points, Mean(), {"main": batch}, Key("e", 0), bound)
    sentences = one_by_one(model, bound.space)
    assert bool(sentences) == bool(batched.one_by_one)
    assert all(kind in sentences[0] for kind in batched.one_by_one)


def test_time_is_a_sum_of_its_parts(llama_folder: Path):
    clock = plan(llama_folder, time=True).clock
    assert clock is not None
    assert min(clock.forward, clock.perturbation, clock.update, clock.gflops) > 0
    assert clock.step == pytest.approx(2 * clock.forward + 2 * clock.perturbation + clock.update)


def test_warnings(llama_folder: Path):
    assert plan(llama_folder).warnings == ()
    assert not any("residual" in text for text in plan(llama_folder, dtype="bfloat16").warnings)
    assert "bare rounding" in plan(llama_folder, dtype="bfloat16", precision="nearest").warnings[-1]
    assert "bare stochastic" in plan(llama_folder, dtype="bfloat16", precision="stochastic").warnings[-1]
    (lost,) = plan(llama_folder, dtype="bfloat16", eps=1e-7).warnings
    assert "below the resolution of bfloat16" in lost


def test_the_command_prints_a_table_or_json(llama_folder: Path, capsys: pytest.CaptureFixture[str]):
    config = PlanConfig(model=str(llama_folder), batch_size=3, tokens=12, time=False, dtype="bfloat16")
    plan_command(config)
    shown = capsys.readouterr().out
    assert "residual" in shown
    assert "peak memory" in shown
    plan_command(PlanConfig(**{**vars(config), "json": True}))
    found = json.loads(capsys.readouterr().out)
    assert found["peak"] == make_plan(config).memory.peak
    assert found["ledger_bytes"]["step"] == 32
    assert f"32 bytes a step, header {found['ledger_bytes']['header'] / 1024:.0f} KiB" in " ".join(shown.split())
    assert found["ledger_bytes"]["run"] == found["ledger_bytes"]["header"] + 32 * 1000 + 16  # the first with its rates


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": "smollm-135"}, "smollm2-135m"),
        ({"recipe": "mesow"}, "unknown recipe"),
        ({"batch_size": 0}, "--batch-size is 0; it must be 1 or more"),
        ({"freeze": ("nothing",)}, "matches no parameter"),
        ({"eps": 0.0}, "eps is 0"),
        ({"head": 2, "objective": "lm"}, "--head is for classification"),
    ],
)
def test_mistakes_are_told_in_a_sentence(llama_folder: Path, fields: dict[str, object], sentence: str):
    with pytest.raises(UsageError, match=sentence):
        plan(**({"folder": fields.pop("model", llama_folder)} | fields))  # type: ignore[arg-type]


def test_a_damaged_file_is_told(llama_folder: Path):
    (llama_folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UsageError, match=r"model\.safetensors is not a whole safetensors file"):
        plan(llama_folder)


@pytest.mark.parametrize(
    ("recipe", "evaluations"), [("zo-sgd", 2), ("zo-sgd-cons", 5), ("zo-adam", 2), ("sparse-gradient", 2)]
)
def test_every_round_of_a_step_is_planned(llama_folder: Path, recipe: str, evaluations: int):
    assert plan(llama_folder, recipe=recipe).evaluations == evaluations


def test_a_plan_knows_the_blocks(llama_folder: Path):
    layers, modules = (plan(llama_folder, recipe="block-wise", settings=(f"level={at}",)) for at in ("layer", "linear"))
    # embedding (the head is tied to it), two layers, norm: two points each
    assert layers.evaluations == 2 * 4
    assert modules.evaluations > layers.evaluations
    assert layers.ledger_step > plan(llama_folder).ledger_step


def test_adam_s_moments_are_in_the_plan(llama_folder: Path):
    plain, adam = plan(llama_folder), plan(llama_folder, recipe="zo-adam")
    assert (plain.memory.parts["state"], adam.memory.parts["state"]) == (0, 2 * 4 * adam.searched)


@pytest.mark.parametrize("recipe", ["forward-grad", "hybrid", "sgd"])
def test_what_differentiates_is_not_planned(llama_folder: Path, recipe: str):
    with pytest.raises(UsageError, match=f"{recipe} differentiates"):
        plan(llama_folder, recipe=recipe)
