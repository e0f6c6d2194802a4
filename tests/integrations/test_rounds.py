"""Rounds of policy and reward model: what each stage starts from, learns from, and leaves for the next."""

import json
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("trl")

from trl_toys import WORDS, llama, rows, tokenizer
from zerothorder.data import load_model
from zerothorder.errors import UsageError
from zerothorder.integrations.adapters import ADAPTER, START, Adapters
from zerothorder.integrations.answers import share
from zerothorder.integrations.policies import by_model, by_reward, draw, look, pairs_of, scored_by
from zerothorder.integrations.rounds import Rounds
from zerothorder.integrations.trainer import TrainerMixin
from zerothorder.key import named_seed
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.reader import read
from zerothorder.recipes.zopro import difference
from zerothorder.space import stored_name

FREE = ("spsa", {"lr": 1e-2, "eps": 1e-2})
KIND = Adapters(
    lora={"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
    args={
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 2, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 1, "dataloader_pin_memory": False, "beta": 0.05,
    },
    dtype="float32", tokens=4, stops=(),
)  # fmt: skip


def variety(completions: Sequence[str], **others: Any) -> list[float]:
    """How many different words, and a little for which."""
    return [len(set(text.split())) + 0.01 * len(text) for text in completions]


def long(completions: Sequence[str], **others: Any) -> list[float]:
    """How many characters."""
    return [float(len(text)) for text in completions]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def rounds(base: str, output: Path, **more: Any) -> Rounds:
    given: dict[str, Any] = {
        "prompts": rows("prompt", 8), "first": FREE, "then": ("zopro", {"lr": 1.0, "eps": 0.1}), "fit": FREE,
        "updates": 2, "fits": 2, "kind": KIND,
    }  # fmt: skip
    return Rounds(output, base, **given | more)


def whole(base: str, output: Path, **more: Any) -> Rounds:
    """Everything: demonstrations, a reward model that learns again, a judge."""
    demonstrations = rows("preference", 8).rename_column("chosen", "completion").remove_columns("rejected")
    return rounds(
        base, output, pairs=rows("preference", 8), demonstrations=demonstrations, judge=by_reward(variety), **more
    )


@pytest.mark.slow
def test_a_run_without_a_backward_pass_from_sft_to_the_second_policy(base: str, tmp_path: Path) -> None:
    made = whole(base, tmp_path / "run", average=0.25)
    last = made.run()
    stages = ["sft", "reward-0", "policy-0", "reward-1", "policy-1"]
    assert last == tmp_path / "run" / "policy-1"
    for stage in stages:
        entries = read(tmp_path / "run" / stage / "ledger.zo").entries
        assert len(entries) == 2
        assert not any(entry.dense_hash for entry in entries)
    # mu: what the policy moved by; v: what the reward model, averaged, moved by, of length 1 a tensor
    contents = read(last / "ledger.zo")
    attached = {name: Attachments(last / "attachments").get(h, "test") for _, name, h in contents.attachments}
    moved = difference(
        load_file(tmp_path / "run/policy-0" / ADAPTER), load_file(tmp_path / "run/policy-0" / START / ADAPTER)
    )
    assert {stored_name(n) for n in attached["mu"]} == {stored_name(n) for n in moved}
    for name, tensor in moved.items():
        own = {stored_name(n): t for n, t in attached["mu"].items()}[stored_name(name)]
        assert torch.equal(own, tensor)
    assert any(bool(t.any()) for t in moved.values())
    learned = difference(*(load_file(tmp_path / "run" / at / ADAPTER) for at in ("reward-1", "reward-0")))
    v = {stored_name(n): t for n, t in attached["v"].items()}
    assert v.keys() == {stored_name(n) for n in moved} < {stored_name(n) for n in learned}  # a policy has no head
    for name, tensor in learned.items():
        if (stored := stored_name(name)) in v:
            assert tensor.any()
            assert torch.allclose(v[stored], tensor / tensor.norm(), rtol=0, atol=1e-6), name
    # each of a kind begins where the last one ended
    ended, begun = (load_file(tmp_path / "run" / at / ADAPTER) for at in ("policy-0", "policy-1/start"))
    assert all(torch.equal(begun[name], tensor) for name, tensor in ended.items())
    # done stages are not repeated
    before = {stage: (tmp_path / "run" / stage / "stage.json").stat().st_mtime_ns for stage in stages}
    whole(base, tmp_path / "run", average=0.25).run()
    assert before == {stage: (tmp_path / "run" / stage / "stage.json").stat().st_mtime_ns for stage in stages}
    drawn = json.loads((tmp_path / "run/reward-1/stage.json").read_text())["drawn"]
    assert drawn["forwards"] >= 2 * 8 + 8, "two completions of each prompt, and a score of one"
    told = json.loads((last / "stage.json").read_text())
    assert told["tokens"] > 0
    assert [row["reward"] for row in told["log"] if "reward" in row]
    with pytest.raises(UsageError, match=r"was begun with average = 0\.25, not 0\.0"):
        whole(base, tmp_path / "run").run()


@pytest.mark.slow
def test_the_ledger_of_every_stage_is_replayed_to_its_adapter(base: str, tmp_path: Path) -> None:
    """Of a reward model that was averaged: to what it was before."""
    from zerothorder.cli.replay import main

    run = tmp_path / "run"
    whole(base, run, average=0.25).run()
    for stage in ("sft", "reward-0", "policy-0", "reward-1", "policy-1"):
        model = base if stage == "sft" else str(run / "sft" / "merged")
        out = tmp_path / stage
        assert main([model, str(run / stage / "ledger.zo"), "-o", str(out), "--quiet"]) == 0
        ours, found, start = (load_file(at / ADAPTER) for at in (run / stage, out, run / stage / START))
        if stage == "reward-1":
            before = load_file(run / "reward-0" / ADAPTER)
            found = {name: 0.25 * before[name] + 0.75 * tensor for name, tensor in found.items()}
        assert ours.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in ours.items()), stage
        assert any(not torch.equal(start[name], tensor) for name, tensor in ours.items()), stage


@pytest.mark.slow
def test_a_reward_model_learns_again_from_what_it_is_least_sure_of(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged are the first and a second completion of the 60 % of prompts whose scores are nearest 0."""
    scored: list[dict[str, tuple[str, float]]] = []
    asked: list[dict[str, tuple[str, str]]] = []
    at: list[int] = []
    own = Rounds._reward

    def reward(self: Rounds, name: str) -> Any:
        found = own(self, name)

        def score(prompts: Sequence[str], completions: Sequence[str], **others: Any) -> list[float]:
            scores = found(prompts=prompts, completions=completions, **others)
            # about 0, so that those nearest it are neither the lowest nor the highest
            scores = [value - statistics.median(scores) for value in scores]
            scored.append(dict(zip(prompts, zip(completions, scores, strict=True), strict=False)))
            return scores

        score.model = found.model  # type: ignore[attr-defined]
        return score

    def judge(prompts: Sequence[str], pairs: Sequence[tuple[str, str]], others: Any) -> list[int]:
        asked.append(dict(zip(prompts, pairs, strict=True)))
        at.append(len(scored))
        return [number % 2 for number in range(len(prompts))]

    monkeypatch.setattr(Rounds, "_reward", reward)
    rounds(base, tmp_path / "run", pairs=rows("preference", 8), judge=judge, updates=4).run()
    (answers,) = asked
    last = scored[at[0] - 1]
    assert len(last) == 8
    assert len(answers) == 5, "60 % of 8 prompts, rounded up"
    sure = sorted(last, key=lambda prompt: abs(last[prompt][1]))
    assert set(answers) == set(sure[:5])
    assert set(answers) not in [set(sorted(last, key=lambda p: sign * last[p][1])[:5]) for sign in (1, -1)]
    assert set(answers) != set(list(last)[:5])
    for prompt, (first, second) in answers.items():
        assert first == last[prompt][0]
        assert second
    fitted = [json.loads(line) for line in (tmp_path / "run/reward-1/pairs.jsonl").read_text().splitlines()]
    for number, (prompt, pair) in enumerate(answers.items()):
        row = {"prompt": prompt, "chosen": pair[number % 2], "rejected": pair[1 - number % 2]}
        assert (row in fitted) == (pair[0] != pair[1])
    assert len(fitted) >= 4


@pytest.mark.slow
def test_the_average_is_of_the_old_reward_model_and_the_new(base: str, tmp_path: Path) -> None:
    """Half-way between: with all of the new one kept it ends elsewhere by the share that was asked for."""
    found = {}
    for kept in (0.0, 0.5):
        whole(base, tmp_path / str(kept), average=kept).run()
        found[kept] = load_file(tmp_path / str(kept) / "reward-1" / ADAPTER)
    old = load_file(tmp_path / "0.0" / "reward-0" / ADAPTER)
    for name, tensor in found[0.5].items():
        assert torch.allclose(tensor, 0.5 * old[name] + 0.5 * found[0.0][name], atol=1e-7)
    assert any(not torch.equal(found[0.0][name], old[name]) for name in old)


class Stopped:
    """Ctrl-C in the last step of a stage, or while the judge is asked."""

    def __init__(self, stage: str) -> None:
        self.stage, self.judge = stage, by_reward(variety)

    def log(self, own: Any) -> Any:
        def log(trainer: Any, *args: Any, **kwargs: Any) -> None:
            own(trainer, *args, **kwargs)
            if Path(trainer.args.output_dir).name == self.stage and trainer.state.global_step == 2:
                raise KeyboardInterrupt

        return log

    def __call__(self, *args: Any) -> Any:
        if self.stage == "judge":
            raise KeyboardInterrupt
        return self.judge(*args)


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "reward": lambda: {"reward": variety},
    "pairs": lambda: {"pairs": rows("preference", 8)},
}
"""What two rounds learn from."""


@pytest.fixture(scope="module")
def uninterrupted(base: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of two rounds, run once."""

    @cache
    def run(given: str) -> Path:
        folder = tmp_path_factory.mktemp(given) / "run"
        rounds(base, folder, judge=by_reward(variety), **GIVEN[given]()).run()
        return folder

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "given"),
    [("policy-1", "reward"), ("reward-0", "pairs"), ("judge", "pairs"), ("reward-1", "pairs"), ("policy-1", "pairs")],
)
def test_a_stopped_run_goes_on_where_it_was(
    stage: str, given: str, base: str, uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, done = Stopped(stage), list[tuple[str, int]]()
    one, two = uninterrupted(given), tmp_path / "two"
    with monkeypatch.context() as patched:
        patched.setattr("zerothorder.integrations.trainer.TrainerMixin.log", stopped.log(TrainerMixin.log))
        with pytest.raises(KeyboardInterrupt):
            rounds(base, two, judge=stopped, **GIVEN[given]()).run()
    at = "reward-1" if stage == "judge" else stage
    before = {path.parent.name for path in two.glob("*/stage.json")}
    assert before == {path.name for path in two.glob("*-*")} - {at}
    watch = {"progress": lambda name, count, updates: done.append((name, count))}
    rounds(base, two, judge=by_reward(variety), **GIVEN[given](), **watch).run()
    # from the last checkpoint, and nothing that was done is done again
    assert done[0] == (at, 1 if stage == "judge" else 2)
    assert not before & {name for name, _ in done}
    stages = [path.parent.name for path in one.glob("*/stage.json")]
    assert len(stages) == (2 if given == "reward" else 4)
    for name in stages:
        ours, again = (load_file(run / name / ADAPTER) for run in (one, two))
        assert ours.keys() == again.keys()
        assert all(torch.equal(again[own], tensor) for own, tensor in ours.items()), name
        assert read(one / name / "ledger.zo").entries == read(two / name / "ledger.zo").entries


def test_the_first_policy_may_be_first_order_and_a_reward_be_given(base: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"reward": variety, "first": ("adamw", {"lr": 1e-2})}
    last = rounds(base, tmp_path / "run", **asked, named={"reward": "variety"}).run()
    contents = read(last / "ledger.zo")
    assert {name for _, name, _ in contents.attachments} == {"start", "mu"}
    assert not (tmp_path / "run" / "reward-0").exists()
    assert all(entry.dense_hash for entry in read(tmp_path / "run/policy-0/ledger.zo").entries)
    with pytest.raises(UsageError, match="was begun with reward = 'variety', not 'length'"):
        rounds(base, tmp_path / "run", **asked, named={"reward": "length"}).run()
    more = rows("prompt", 8).add_column("reference", ["w1"] * 8)
    with pytest.raises(UsageError, match="was begun with prompts"):
        rounds(base, tmp_path / "run", **asked, named={"reward": "variety"}, prompts=more).run()


def test_a_policy_that_moved_nothing_is_named_and_leads_nowhere(base: str, tmp_path: Path) -> None:
    still: dict[str, Any] = {"reward": variety, "first": ("spsa", {"lr": 0.0, "eps": 1e-2})}
    for _ in range(2):
        with pytest.raises(UsageError, match="policy-0 moved nothing, so there is no update for zopro to follow"):
            rounds(base, tmp_path / "run", **still).run()
    assert not (tmp_path / "run" / "policy-1" / "ledger.zo").exists()


def test_a_constant_rate_warms_up(base: str, tmp_path: Path) -> None:
    warming = ("spsa", {"lr": 1e-2, "eps": 1e-2, "schedule": "constant", "warmup": 2})
    last = rounds(base, tmp_path / "run", reward=variety, first=warming, rounds=1, updates=3).run()
    entries = read(last / "ledger.zo").entries
    assert [entry.rates["decay"].lr for entry in entries] == pytest.approx([0, 5e-3, 1e-2])


def test_what_cannot_be_meant_is_said(base: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give reward= or pairs="):
        rounds(base, tmp_path / "run")
    same = rows("preference", 3).map(lambda row: {"rejected": row["chosen"]})
    with pytest.raises(UsageError, match="row 1 of pairs: chosen and rejected are the same"):
        rounds(base, tmp_path / "run", pairs=same, judge=by_reward(variety))
    with pytest.raises(UsageError, match="needs a judge"):
        rounds(base, tmp_path / "run", pairs=rows("preference", 8))
    with pytest.raises(UsageError, match="average is 1"):
        rounds(base, tmp_path / "run", reward=variety, average=1.0)
    with pytest.raises(UsageError, match="rounds is 0"):
        rounds(base, tmp_path / "run", reward=variety, rounds=0)
    with pytest.raises(UsageError, match="preferred no answer"):
        pairs_of(["a"], [("b", "c")], [-1])


def test_a_look_is_the_reward_of_drawn_completions_and_a_new_adapter_is_its_reference(base: str) -> None:
    from peft import LoraConfig, get_peft_model

    loaded = load_model(base)
    torch.manual_seed(0)
    model = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    prompts = rows("prompt", 8)[:]
    before = torch.random.get_rng_state()
    found = look(model, loaded.tokenizer, prompts, variety, 4, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    seeds = [named_seed(3, f"look-{again}") for again in range(2)]
    many = [draw(model, loaded.tokenizer, prompts["prompt"], 4, seed=seed) for seed in seeds]
    said = [[loaded.tokenizer.decode(ids, skip_special_tokens=True) for _, ids in drawn] for drawn in many]
    drawn, texts = many[0], said[0]
    assert found.reward == pytest.approx(sum(variety(texts)) / 8)
    both = look(model, loaded.tokenizer, prompts, variety, 4, seed=3, samples=2)
    means = [(one + other) / 2 for one, other in zip(*map(variety, said), strict=True)]
    assert (both.reward, both.spread) == pytest.approx((sum(means) / 8, statistics.stdev(means) / 8**0.5))
    assert both.texts == found.texts
    assert dict(both.metrics) == {}
    beside = look(
        model, loaded.tokenizer, prompts, variety, 4, seed=3, samples=2, metrics={"own": variety, "len": long}
    )
    assert (beside.reward, beside.metrics["own"]) == (both.reward, both.reward)
    assert beside.metrics["len"] == pytest.approx(sum(map(len, said[0] + said[1])) / 16)
    assert found.texts == tuple(zip(prompts["prompt"][:5], texts[:5], strict=True))
    assert found.kl == pytest.approx(0, abs=1e-5)
    assert found.length == sum(len(ids) for _, ids in drawn) / 8
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(20.0)
    assert look(model, loaded.tokenizer, prompts, variety, 4).kl > 0.001


def test_rounds_differ_in_prompts_directions_and_samples(base: str, tmp_path: Path) -> None:
    """A second round on the first one's prompts, samples and directions would search the same few vectors again."""
    seen: dict[str, set[str]] = {}

    def noted(completions: Sequence[str], prompts: Sequence[str], **others: Any) -> list[float]:
        newest = max((tmp_path / "run").glob("policy-*"), key=lambda path: path.name).name
        seen.setdefault(newest, set()).update(prompts)
        return variety(completions)

    rounds(base, tmp_path / "run", reward=noted, rounds=2, updates=2).run()
    one, two = (read(tmp_path / "run" / name / "ledger.zo").header.run_key for name in ("policy-0", "policy-1"))
    assert one != two
    assert len(seen["policy-0"]) == len(seen["policy-1"]) == 4, "two updates of two prompts"
    assert not seen["policy-0"] & seen["policy-1"]


def test_prompts_begin_again_where_they_end() -> None:
    given = rows("prompt", 5)
    taken = [share(given, number, 3)["prompt"] for number in range(2)]
    assert [*taken[0], *taken[1]] == [*given["prompt"], given["prompt"][0]]
    assert list(share(given, 0, 9)["prompt"]) == list(given["prompt"]), "no more than there are"


def test_completions_end_at_any_token_that_holds_a_stop(base: str, caplog: pytest.LogCaptureFixture) -> None:
    model, words = Adapters(dtype="float32", stops=("w60",)).load(base)
    assert model.generation_config.eos_token_id == [1, words("w60")["input_ids"][0]]
    model, words = Adapters(dtype="float32", stops=("w6",)).load(base)
    assert model.generation_config.eos_token_id == [1, *words("w6 w60")["input_ids"]]
    assert not caplog.records
    Adapters(dtype="float32", stops=("!",)).load(base)
    assert "no token holds '!'" in caplog.text


def test_a_reward_model_that_gives_no_number_is_said(base: str) -> None:
    loaded = load_model(base, head=1)
    with torch.no_grad():
        loaded.model.score.weight.fill_(torch.nan)
    with pytest.raises(UsageError, match="the reward model is nan for completion 0: 'w4'"):
        scored_by(loaded.model, loaded.tokenizer)(prompts=["w1 "], completions=["w4"])


def test_completions_do_not_depend_on_their_neighbours_padding(base: str) -> None:
    """Tokens of prompts are what was read, not the padding before them."""
    loaded = load_model(base)
    drawn = draw(loaded.model, loaded.tokenizer, ["w1 w2 w3 w4", "w5"], 3)
    assert [len(prompt) for prompt, _ in drawn] == [4, 1]
    assert all(1 <= len(ids) <= 3 for _, ids in drawn)


def test_a_reward_model_reads_the_end_of_its_text(base: str) -> None:
    loaded = load_model(base, head=1)
    reward = scored_by(loaded.model, loaded.tokenizer, rows=2)
    prompts, completions = ["w1 ", "w1 w2 ", "w3 "], ["w4", "w5", "w6 w7"]
    together = reward(prompts=prompts, completions=completions)
    alone = [reward(prompts=[p], completions=[c])[0] for p, c in zip(prompts, completions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3


def test_a_model_judges_by_one_token_and_its_place_in_the_prompt_is_drawn(base: str) -> None:
    loaded = load_model(base)
    core = loaded.tokenizer
    assert core("A", add_special_tokens=False)["input_ids"] == core("B", add_special_tokens=False)["input_ids"]
    with pytest.raises(UsageError, match="no tokens of their own for the letters"):
        by_model(loaded.model, core)
    core.add_tokens(["A", "B"])
    loaded.model.resize_token_embeddings(WORDS + 5)
    with torch.no_grad():  # a judge that always says A: its verdicts are where the draw put the answers
        loaded.model.lm_head.weight.zero_()
    verdicts = by_model(loaded.model, core)(["w4"] * 16, [("w1 w2", "w3")] * 16, {})
    assert set(verdicts) == {0, 1}
    assert verdicts == by_model(loaded.model, core)(["w4"] * 16, [("w1 w2", "w3")] * 16, {})
