"""`zo train --objective dpo` and its kin, by flags and by YAML; and what is said of rows and rewards that cannot be."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

from trl_toys import llama, rows, tokenizer
from zerothorder.cli.main import main
from zerothorder.errors import UsageError
from zerothorder.integrations.rewards import Check, checked, reward_of
from zerothorder.integrations.trainer_rewards import CONSTANT, Rewards
from zerothorder.integrations.trl import check_rows, load_rows
from zerothorder.ledger.reader import read
from zerothorder.replay import replay

FORMS = {"sft": "text", "dpo": "preference", "kto": "unpaired", "reward": "preference", "rloo": "prompt"}
QUICK = [
    *("--max_steps", "2", "--per_device_train_batch_size", "2", "--logging_steps", "1", "--use_cpu"),
    *("--disable_tqdm", "true", "--save_strategy", "no", "--learning_rate", "1e-3", "--dataloader_pin_memory", "false"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, and a JSONL file of each form."""
    made = tmp_path_factory.mktemp("trl")
    llama().save_pretrained(made / "model")
    tokenizer().save_pretrained(made / "model")
    for form in set(FORMS.values()):
        rows(form).to_json(made / f"{form}.jsonl")
    return made


def words(folder: Path, objective: str, run: Path) -> list[str]:
    return [
        "train", "--objective", objective, "--model", str(folder / "model"),
        "--data", str(folder / f"{FORMS[objective]}.jsonl"), "--output", str(run), *QUICK,
    ]  # fmt: skip


def shortest(completions: list[str], **columns: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


@pytest.mark.parametrize("objective", FORMS)
def test_an_objective_trains_by_flags_and_leaves_model_and_ledger(
    objective: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rewards_of_a_test", sys.modules[__name__])
    more = {
        "rloo": ["--reward", "rewards_of_a_test:shortest", "--num_generations", "2", "--max_completion_length", "4"]
    }
    run = tmp_path / "run"
    asked = [
        *words(folder, objective, run),
        *more.get(objective, []),
        "--zo.recipe",
        "spsa",
        "--zo.eps",
        "1e-2",
        "--json",
    ]
    assert main(asked) == 0
    result = json.loads(
        [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"kind": "result"')][-1]
    )
    assert "loss" in result["last"]
    contents = read(run / "ledger.zo")
    assert (contents.header.recipe, contents.header.settings["eps"]) == ("spsa", 1e-2)
    assert len(contents.entries) == 2
    assert (run / "model.safetensors").exists()
    if objective != "reward":
        again = llama()
        replay(again, run / "ledger.zo")


def test_a_yaml_file_holds_trl_s_fields_and_a_block_of_zo_and_flags_win(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"objective: dpo\nmodel_name_or_path: {folder / 'model'}\ndataset_name: {folder / 'preference.jsonl'}\n"
        f"output_dir: {tmp_path / 'run'}\nmax_steps: 5\nlearning_rate: 1e-3\nbeta: 0.5\n"
        "per_device_train_batch_size: 2\n"
        "use_cpu: true\nsave_strategy: 'no'\nlogging_steps: 1\ndataloader_pin_memory: false\n"
        "zo:\n  recipe: low-rank\n  rank: 2\n  eps: 1e-2\n"
    )
    assert main(["train", "--config", str(file), "--max_steps", "2", "--zo.eps=2e-2"]) == 0
    contents = read(tmp_path / "run" / "ledger.zo")
    assert len(contents.entries) == 2
    assert contents.header.recipe == "low-rank"
    assert (contents.header.settings["rank"], contents.header.settings["eps"]) == (2, 2e-2)
    assert contents.entries[0].rates["decay"].lr == pytest.approx(1e-3)
    assert "rewards/margins" in capsys.readouterr().out


def test_adapters_by_trl_s_own_flags_and_a_resumed_run(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = [word if word != "no" else "steps" for word in words(folder, "dpo", run)]
    asked += ["--save_steps", "1", "--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj"]
    assert main(asked) == 0
    first = read(run / "ledger.zo").entries
    assert all("lora_" in row[0] for row in read(run / "ledger.zo").header.sites)
    assert main([*asked, "--resume_from_checkpoint", str(run / "checkpoint-1")]) == 0
    assert read(run / "ledger.zo").entries == first


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda asked: [w for w in asked if w != "--model" and not w.endswith("/model")],
            "dpo needs --model and --data",
        ),
        (lambda asked: [*asked, "--zo.recipe", "mezzo"], "did you mean 'mezo'"),
        (lambda asked: [*asked, "--zo.epss", "1"], "has no setting 'epss'; did you mean 'eps'"),
        (lambda asked: ["rloo" if w == "dpo" else w for w in asked], "rloo needs --reward"),
    ],
)
def test_what_is_missing_or_unknown_is_said(
    change: Any, sentence: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(change(words(folder, "dpo", tmp_path / "run"))) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_an_unknown_line_of_the_yaml_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("objective: dpo\nlearning_rat: 1\n")
    assert main(["train", "--config", str(file)]) == 2
    assert "did you mean 'learning_rate'" in " ".join(capsys.readouterr().err.split())
    file.write_text("objective: dpo\nlr: 1\n")
    assert main(["train", "--config", str(file)]) == 2
    assert "it is learning_rate here" in " ".join(capsys.readouterr().err.split())
    file.write_text("objective: dpo\nzo: low-rank\n")
    assert main(["train", "--config", str(file)]) == 2
    assert "the block `zo:`" in capsys.readouterr().err


def test_programs_get_rows_of_json_and_the_quiet_nothing(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(folder, "dpo", tmp_path / "run"), "--disable_tqdm", "false", "--json"]) == 0
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(row["step"], "zo/projected_gradient" in row) for row in told if row["kind"] == "log"][:2] == [
        (1, True),
        (2, True),
    ]
    assert main([*words(folder, "dpo", tmp_path / "other"), "--quiet"]) == 0
    assert capfd.readouterr().out == ""


def test_a_learning_rate_nobody_chose_is_told_unless_the_method_is_adamw(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(folder, "dpo", tmp_path / "run")
    at = asked.index("--learning_rate")
    chosen, unchosen = asked, [*asked[:at], *asked[at + 2 :]]
    told = list[bool]()
    for more in (chosen, unchosen, [*unchosen, "--zo.recipe", "adamw"]):
        assert main(more) == 0
        told.append("learning_rate is TRL's default, 1e-06, for AdamW" in " ".join(capsys.readouterr().err.split()))
    assert told == [False, True, False]


def test_help_names_trainer_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--objective", "kto", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "KTOTrainer" in shown
    assert "--zo.recipe" in shown
    assert "precompute_ref_log_probs is on" in shown
    assert main(["train", "--objective", "sft", "--help"]) == 0
    assert "precompute_ref_log_probs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("objective", "row", "sentence"),
    [
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "row 2 of rows: chosen and rejected are the same"),
        ("dpo", {"prompt": "a", "chosen": " ", "rejected": "b"}, "row 2 of rows: chosen is empty"),
        ("dpo", {"prompt": "a", "chosen": None, "rejected": "b"}, "row 2 of rows: chosen is missing"),
        ("kto", {"prompt": "a", "completion": "b", "label": None}, "label is None"),
        ("rloo", {"prompt": [{"role": "user", "text": "hello"}]}, "without role and content"),
        ("dpo", {"prompt": None, "chosen": "b", "rejected": "c"}, "row 2 of rows: prompt is missing"),
        ("reward", {"prompt": "", "chosen": "b", "rejected": "c"}, "row 2 of rows: prompt is empty"),
        (
            "reward",
            {"chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"},
            "row 2 of rows: rejected is a text and chosen a conversation; give both in one form",
        ),
        (
            "kto",
            {"prompt": [{"role": "user", "content": "a"}], "completion": "b", "label": True},
            "completion is a text and prompt a conversation",
        ),
        ("rloo", {"prompt": [{"role": "user", "content": ""}]}, "holds a message without content"),
        ("rloo", {"prompt": [{"role": "human", "content": "a"}]}, "the role 'human', which TRL calls 'user'"),
        (
            "reward",
            {"chosen": [{"role": "user", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]},
            "chosen ends in a message of the user; an answer's last message is the assistant's",
        ),
    ],
)
def test_rows_that_cannot_be_meant_are_named(objective: str, row: dict[str, Any], sentence: str) -> None:
    from datasets import Dataset

    good: dict[str, dict[str, Any]] = {
        "reward": {name: text for name, text in (("prompt", "a"), ("chosen", "b"), ("rejected", "c")) if name in row},
        "dpo": {"prompt": "a", "chosen": "b", "rejected": "c"},
        "kto": {"prompt": "a", "completion": "b", "label": True},
        "rloo": {"prompt": [{"role": "user", "content": "hello"}]},
    }

    class Rows(list[Any]):
        @property
        def column_names(self) -> list[str]:
            return list(self[0])

    with pytest.raises(UsageError, match=sentence):
        check_rows(objective, Rows([good[objective], row]), "rows")
    check_rows(objective, Dataset.from_list([good[objective]]), "rows")


def test_a_column_that_is_missing_has_its_nearest_name(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "choosen": "b", "rejected": "c"}\n')
    with pytest.raises(UsageError, match="no column 'chosen'; did you mean 'choosen'"):
        load_rows("dpo", str(file), "train")
    with pytest.raises(UsageError, match=r"there is no file .*nothing\.jsonl$"):
        load_rows("dpo", str(tmp_path / "nothing.jsonl"), "train")
    other = tmp_path / "rows.txt"
    other.write_text("")
    with pytest.raises(UsageError, match=r"ends in '\.txt'"):
        load_rows("dpo", str(other), "train")


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="is nan for completion 1: 'b'"):
        checked(lambda completions: [1.0, float("nan")], Check("odd"))(["a", "b"])
    assert checked(lambda completions: [1.0, 2.0], Check("even"))(["a", "b"]) == [1.0, 2.0]


def test_a_reward_that_fails_is_named_with_what_it_was_given() -> None:
    def failing(completions: list[str], **columns: Any) -> list[float]:
        return [len(columns["answer"])]

    with pytest.raises(
        UsageError, match=r"the reward odd failed \(KeyError: .*answer.*it was given completions, prompts"
    ):
        checked(failing, Check("odd"))(["a"], prompts=["b"])
    with pytest.raises(UsageError, match="the reward odd gave what is no number"):
        checked(lambda completions: ["a"], Check("odd"))(["a"])
    with pytest.raises(UsageError, match="the reward odd gave 1 numbers for 2 completions"):
        checked(lambda completions: [1.0], Check("odd"))(["a", "b"])


@pytest.mark.parametrize(
    "said",
    [
        [[1.0, 1.0], [0.0, 0.0]],  # one prompt a generation, easy and hard ones in turn
        [[None, 1.0]],  # of all but one completion nothing is said
        [[1.0, 1.0], [1.0, 0.5]],
    ],
    ids=["in turn", "silent", "seldom another"],
)
def test_a_reward_that_differs_somewhere_is_no_constant(said: list[list[float | None]]) -> None:
    turn = iter(range(1000))
    trainer = _Trainer([lambda completions: said[next(turn) % len(said)]])
    for _ in range(3 * CONSTANT):
        trainer.generation()


def test_one_and_the_same_reward_stops_a_training_but_no_evaluation() -> None:
    trainer = _Trainer([lambda completions: [2.0, 2.0]])
    for _ in range(CONSTANT - 1):
        trainer.generation()
    for _ in range(3 * CONSTANT):
        trainer.reward_funcs[0](["a", "b"])
    with pytest.raises(UsageError, match="the reward <lambda> gave 2 to every completion of 20 generations"):
        trainer.generation()


def test_a_constant_beside_a_reward_that_varies_is_no_reason_to_stop() -> None:
    values = iter(range(1000))
    flat, varied = (lambda completions: [1.0, 1.0]), (lambda completions: [0.0, float(next(values))])
    for functions, weights in (([flat, varied], None), ([varied, flat], [1.0, 0.0])):
        trainer = _Trainer(functions, weights)
        for _ in range(3 * CONSTANT):
            trainer.generation()
    trainer = _Trainer([flat, flat], [1.0, 2.0])
    for _ in range(CONSTANT - 1):
        trainer.generation()
    with pytest.raises(UsageError, match="gave 1 and the reward <lambda> gave 1 to every completion"):
        trainer.generation()


class _Trainer:
    """As much of TRL's trainer as its rewards are."""

    def __init__(self, functions: list[Any], weights: list[float] | None = None) -> None:
        self.reward_funcs, self.args = functions, SimpleNamespace(reward_weights=weights)
        self.rewards = Rewards(self)

    def generation(self) -> None:
        with self.rewards.listening():
            for function in self.reward_funcs:
                function(["a", "b"])


def test_a_folder_s_model_needs_a_head_for_scores(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is LlamaForCausalLM, which has no head for scores; give the folder"):
        reward_of(str(folder / "model"))
    with pytest.raises(UsageError, match="holds no model"):
        reward_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    assert reward_of(str(tmp_path)) == str(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["OwnReward"], "auto_map": {}}')
    assert reward_of(str(tmp_path)) == str(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert reward_of(str(tmp_path)) == str(tmp_path)


def test_a_reward_is_found_beside_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A console script's path has no working folder in it."""
    (tmp_path / "a_reward_of_mine.py").write_text("def f(completions, **others):\n    return [1.0, 2.0]\n")
    monkeypatch.setattr(sys, "path", [own for own in sys.path if own not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    assert reward_of("a_reward_of_mine:f")(completions=["a", "b"]) == [1.0, 2.0]


def test_a_checked_reward_is_counted_by_its_model_and_may_say_nothing() -> None:
    def reward(completions: list[str]) -> list[float | None]:
        return [None, 1.0]

    reward.model = model = object()  # type: ignore[attr-defined]
    found: Any = checked(reward, Check("some"))
    assert found.model is model
    assert found(["a", "b"]) == [None, 1.0]
    assert not hasattr(checked(lambda completions: [1.0], Check("none")), "model")


def test_rewards_by_name() -> None:
    for name in ("rouge_l", "chrf"):
        close, far = reward_of(name)(completions=["the red fox", "no"], reference=["the red fox", "the red fox"])
        assert close == pytest.approx(1.0)
        assert far < 0.3
    with pytest.raises(UsageError, match="no reward 'rouge'; did you mean 'rouge_l'"):
        reward_of("rouge")
    with pytest.raises(UsageError, match="cannot import the reward"):
        reward_of("math:nothing_like_it")


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_an_adapter_s_run_is_replayed_from_base_and_ledger_by_the_command(
    objective: str, folder: Path, tmp_path: Path
) -> None:
    """The header says which adapter, the attachment how it began."""
    from safetensors.torch import load_file

    lora = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "q_proj", "v_proj", "--zo.recipe", "spsa"]
    lora += ["--lora_task_type", "SEQ_CLS"] if objective == "reward" else []
    assert main([*words(folder, objective, tmp_path / "run"), *lora, "--quiet"]) == 0
    ledger = tmp_path / "run" / "ledger.zo"
    assert main(["replay", str(folder / "model"), str(ledger), "-o", str(tmp_path / "again"), "--quiet"]) == 0
    trained, found = (load_file(tmp_path / at / "adapter_model.safetensors") for at in ("run", "again"))
    assert trained.keys() == found.keys()
    assert all(bool((trained[name] == tensor).all()) for name, tensor in found.items())
    assert any(bool(tensor.any()) for name, tensor in found.items() if "lora_B" in name)
    assert main(["ledger", "verify", str(folder / "model"), str(ledger), "--finished", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", "3"], "DPOConfig has no field 'steps'; it is --max_steps here"),
        (["--recipe", "low-rank"], "DPOConfig has no field 'recipe'; it is --zo.recipe here"),
        (["--max_stepz", "3"], "no field 'max_stepz'.*did you mean 'max_steps'"),
        (["--zo.lr", "1e-3"], "lr is the trainer's here: give --learning_rate in place of zo.lr"),
        (["--model_revision", "v2"], "model_revision is not honoured.*and give the folder"),
        (["--load_in_4bit"], "load_in_4bit is not honoured.*leave it out"),
        (["--load_in_8bit"], "load_in_8bit is not honoured.*leave it out"),
        (["--dataset_streaming"], "dataset_streaming is not honoured.*leave it out"),
        (["--lr", "1e-3"], "has no field 'lr'; it is --learning_rate here"),
        (["--max_steps", "many"], "^zo: argument --max_steps.*: invalid int value: 'many' $"),
        (["--dtype", "auto"], "dtype is 'auto'; give float32, bfloat16 or float16"),
        (["--eval_strategy", "epoch"], r"eval_strategy is epoch, but .*preference\.jsonl is one file.*give a folder"),
    ],
)
def test_a_flag_of_zo_s_own_or_of_nobody_is_the_user_s_mistake(
    more: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(folder, "dpo", tmp_path / "run"), *more]) == 2
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_a_folder_may_be_called_like_a_flag(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words(folder, "reward", Path("reward")), "--quiet"]) == 0
    assert (tmp_path / "reward" / "ledger.zo").exists()


def test_a_reward_against_a_column_that_is_not_there_is_found_before_the_model_is_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(folder, "rloo", tmp_path / "run")
    asked[asked.index("--model") + 1] = "./nowhere"
    assert main([*asked, "--reward", "rouge_l"]) == 2
    assert "has no column 'reference', which rouge_l compares" in " ".join(capsys.readouterr().err.split())


def test_an_objective_of_nobody_is_named_with_all_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--objective", "dppo", "--output", "x"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'dpo'" in said
    assert main(["train", "--objective", "zzz", "--output", "x"]) == 2
    assert capsys.readouterr().err.count("classification") == 1


def test_shipped_data_goes_by_name() -> None:
    found = load_rows("dpo", "preferences", "dev")
    assert len(found) == 300
    with pytest.raises(UsageError, match="has no split 'validation'; it has train, dev and test"):
        load_rows("dpo", "preferences", "validation")


def test_a_run_is_evaluated_on_the_test_split(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows("preference").to_json(data / "train.jsonl")
    rows("preference", 4).to_json(data / "test.jsonl")
    asked = words(folder, "dpo", tmp_path / "run")
    asked[asked.index("--data") + 1] = str(data)
    asked[asked.index("--save_strategy") + 1] = "steps"
    assert main([*asked, "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--quiet"]) == 0
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "eval_loss" in row] == [1, 2]


def test_texts_may_stand_in_a_column_of_another_name(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows("text").rename_column("text", "body").to_json(data)
    asked = words(folder, "sft", tmp_path / "run")
    asked[asked.index("--data") + 1] = str(data)
    assert main([*asked, "--dataset_text_field", "body", "--quiet"]) == 0
    assert len(read(tmp_path / "run" / "ledger.zo").entries) == 2
