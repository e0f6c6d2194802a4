"""`zo train --objective dpo` and its kin: a trainer of TRL without a backward pass, TRL's names for flags and YAML."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from zerothorder.cli.terminal import Terminal, table, terminal
from zerothorder.config import value_of
from zerothorder.errors import UsageError, nearest

OWN = ("classification", "lm", "metric")
"""Objectives that are not TRL's: `zerothorder.config` has their flags."""
OBJECTIVES = ("sft", "dpo", "kto", "reward", "rloo")
_SHORT = {"--model": "--model_name_or_path", "--data": "--dataset_name", "--output": "--output_dir"}
_OTHER = {
    "steps": "max_steps", "lr": "learning_rate", "batch_size": "per_device_train_batch_size", "recipe": "zo.recipe",
    "eps": "zo.eps", "law": "zo.law", "draws": "zo.draws", "resume": "resume_from_checkpoint RUN/checkpoint-N",
    "schedule": "lr_scheduler_type", "eval_every": "eval_steps",
}  # fmt: skip
"""What `zo train` calls a flag → what TRL calls it."""
_THEIRS = {
    "lr": "learning_rate", "schedule": "lr_scheduler_type", "warmup": "warmup_steps", "weight_decay": "weight_decay",
}  # fmt: skip
"""Settings of recipes that a trainer has of its own → its names for them."""
_UNREAD = {
    "model_revision": "download that revision (hf download NAME --revision R --local-dir FOLDER) and give the folder",
    "load_in_4bit": "leave it out and train adapters (--use_peft) over a base in --dtype bfloat16",
    "load_in_8bit": "leave it out and train adapters (--use_peft) over a base in --dtype bfloat16",
    "dataset_streaming": "leave it out: all rows are looked at before the run",
}
"""Fields of TRL that are not honoured here → what to do instead."""
_OWN = ("objective", "reward", "quiet", "json")
_HELP = """zo train --objective {objective}: {trainer} of TRL, trained with forward passes only

  zo train --objective {objective} --model M --data rows.jsonl --output RUN [--FIELD VALUE …]
  zo train --config run.yaml [--FIELD VALUE …]

Every field of TRL's {config}, ScriptArguments and ModelConfig is a flag and a line of the YAML file; --model, --data
and --output are short for model_name_or_path, dataset_name and output_dir. Beside them:

  --objective NAME   {objectives}
  --reward NAME      for rloo: rouge_l, chrf, a reward model's folder, or module:function
  --zo.recipe NAME   the recipe (zo recipes lists them), and --zo.SETTING VALUE its settings; in YAML a block `zo:`
  --quiet, --json    print less, or one JSON object a line

Learning rate, schedule and weight decay are TRL's fields, with TRL's defaults. bf16 is off unless asked for{cached};
gradient_checkpointing and max_grad_norm are off. The run leaves ledger.zo in its folder, from which
--resume_from_checkpoint goes on.
"""


def objective_of(words: Sequence[str]) -> str | None:
    """The TRL objective that flags or the YAML file ask for; None for zo's own."""
    own, _, _ = _sorted(words)
    asked = own.get("objective") or (_yaml(Path(own["config"])).get("objective") if "config" in own else None)
    if asked is not None and asked not in (known := (*OWN, *OBJECTIVES)):
        raise UsageError(f"there is no objective {asked!r}{nearest(str(asked), known)}")
    return asked if asked in OBJECTIVES else None


def main(words: Sequence[str], objective: str) -> int:
    """Train as the words and the YAML file say; a table of what was logged first and last."""
    own, settings, rest = _sorted(words)
    given = _yaml(Path(own.pop("config"))) if "config" in own else {}
    settings = _block(given.pop("zo", {})) | settings
    own = {name: given.pop(name) for name in _OWN if name in given} | own
    with terminal(quiet=bool(own.get("quiet")), as_json=bool(own.get("json"))) as out:
        if {"-h", "--help"} & set(rest):
            from zerothorder.integrations.trl import AIMS

            aim = AIMS[objective]
            known = ", ".join(OBJECTIVES)
            cached = ", precompute_ref_log_probs is on" if "precompute_ref_log_probs" in aim.defaults else ""
            named = {"objective": objective, "trainer": aim.trainer, "config": aim.config, "objectives": known}
            print(_HELP.format(**named, cached=cached))
            return 0
        out.progress("starting", 0, 1)
        trainer, checkpoint = _made(objective, own.get("reward"), given, settings, rest)
        out.progress("starting", 1, 1)
        if own.get("quiet") or own.get("json"):
            _rows_to(out, trainer)
        if (note := _rate(trainer)) is not None:
            out.note(note)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        logged = [row for row in trainer.state.log_history if "loss" in row]
        first, last = (logged[0], logged[-1]) if logged else ({}, {})
        names = [name for name in last if isinstance(last[name], int | float) and name not in ("epoch", "step")]
        rows = [(name, _number(first.get(name)), _number(last[name])) for name in names]
        shown = [table(("logged", "first", "last"), rows)] if rows else []
        out.result(
            {"output": trainer.args.output_dir, "first": first, "last": last},
            *shown,
            f"model: {trainer.args.output_dir}    ledger: {Path(trainer.args.output_dir) / 'ledger.zo'}",
        )
    return 0


def _made(
    objective: str, reward: str | None, given: dict[str, Any], settings: dict[str, Any], words: Sequence[str]
) -> tuple[Any, Any]:
    """The trainer, and the checkpoint to go on from."""
    from zerothorder import catalogue
    from zerothorder.data import load_model
    from zerothorder.data.quiet import need
    from zerothorder.integrations.rewards import METRICS, reward_of
    from zerothorder.integrations.trl import AIMS, load_rows, mixed

    trainer, config = mixed(objective)
    trl, aim = need("trl", f"the objective {objective}"), AIMS[objective]
    parser = trl.TrlParser((trl.ScriptArguments, config, trl.ModelConfig), prog=f"zo train --objective {objective}")
    parser.allow_abbrev = False  # --lr would be a shortened --lr_scheduler_type
    parser.error = _refuse
    fields = {action.dest for action in parser._actions}
    parser.set_defaults(**{name: value for name, value in aim.defaults.items() if name in fields})
    for name in given:
        if name not in fields:
            raise UsageError(f"the YAML file has a field {name!r} that TRL does not know{_meant(name, fields, '')}")
    parser.set_defaults_with_config(**given)
    script, training, source, rest = parser.parse_args_into_dataclasses(list(words), return_remaining_strings=True)
    if unknown := next((word for word in rest if word.startswith("--")), None):
        flag = unknown.removeprefix("--").partition("=")[0].replace("-", "_")
        raise UsageError(f"{config.__name__} has no field {flag!r}{_meant(flag, fields, '--')}")
    if not source.model_name_or_path or not script.dataset_name:
        raise UsageError(f"{objective} needs --model and --data, or model_name_or_path and dataset_name in the YAML")
    dtype = _honoured(script, source)
    named: dict[str, Any] = {"peft_config": trl.get_peft_config(source)}
    if objective == "rloo":
        if reward is None:
            raise UsageError("rloo needs --reward: rouge_l, chrf, a reward model's folder, or module:function")
        named["reward_funcs"] = reward_of(reward)
    form = (script.dataset_config, getattr(training, "dataset_text_field", "text"))
    rows = load_rows(objective, script.dataset_name, script.dataset_train_split, *form)
    if training.eval_strategy != "no":
        if Path(script.dataset_name).expanduser().is_file():
            raise UsageError(
                f"eval_strategy is {training.eval_strategy.value}, but {script.dataset_name} is one file, all of whose "
                "rows are trained on; give a folder with a file for each split (train.jsonl, test.jsonl)"
            )
        named["eval_dataset"] = load_rows(objective, script.dataset_name, script.dataset_test_split, *form)
    if reward in METRICS and "reference" not in rows.column_names:
        raise UsageError(f"{script.dataset_name} has no column 'reference', which {reward} compares completions with")
    for name, theirs in _THEIRS.items():
        if name in settings:
            raise UsageError(f"{name} is the trainer's here: give --{theirs} in place of zo.{name}")
    loaded = load_model(
        source.model_name_or_path, dtype, head=1 if aim.scores else None,
        # a field of one or the other, as TRL's versions have it
        trust_remote_code=any(getattr(own, "trust_remote_code", False) for own in (source, training)),
        attn_implementation=source.attn_implementation,
    )  # fmt: skip
    scheme = "lora" if named["peft_config"] is not None else "full"
    recipe = catalogue.build(str(settings.pop("recipe", "mezo")), scheme, **settings)
    made = trainer(
        model=loaded.model, args=training, train_dataset=rows, processing_class=loaded.tokenizer, recipe=recipe, **named
    )
    return made, training.resume_from_checkpoint


def _meant(name: str, fields: Collection[str], dashes: str) -> str:
    return f"; it is {dashes}{_OTHER[name]} here" if name in _OTHER else nearest(name, fields)


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)


def _rate(trainer: Any) -> str | None:
    """What to say of a learning rate that nobody chose."""
    rate = trainer.args.learning_rate
    first_order = trainer._zo_recipe.name in ("adamw", "sgd")
    if first_order or rate != type(trainer.args).__dataclass_fields__["learning_rate"].default:
        return None
    return f"learning_rate is TRL's default, {rate:g}, for AdamW; for some hundred steps take 2e-5, with adapters 1e-3"


def _rows_to(out: Terminal, trainer: Any) -> None:
    """What the trainer logs as rows of ours, in place of transformers' dicts and bars."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class Rows(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            out.row({"kind": "log", **state.log_history[-1]})

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Rows)


def _honoured(script: Any, source: Any) -> str:
    """The dtype to load the model in. UsageError names a field that would be dropped without a word."""
    for own in (script, source):
        for field in dataclasses.fields(own):
            if field.name in _UNREAD and getattr(own, field.name) != field.default:
                raise UsageError(f"{field.name} is not honoured by zo train; {_UNREAD[field.name]}")
    dtype = source.dtype or "float32"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"dtype is {dtype!r}; give float32, bfloat16 or float16")
    return dtype


def _sorted(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(zo's own flags, settings of the recipe, the rest for TRL)."""
    own, settings, rest, left = dict[str, Any](), dict[str, Any](), list[str](), list(words)
    while left:
        word, has, value = left.pop(0).partition("=")
        name = word.removeprefix("--") if word.startswith("--") else ""  # a value may be one of these words
        if name in ("quiet", "json"):
            own[name] = True
        elif name in ("config", "objective", "reward") or word.startswith("--zo."):
            if not has and not left:
                raise UsageError(f"{word} has no value")
            value = value if has else left.pop(0)
            if word.startswith("--zo."):
                settings[name.removeprefix("zo.").replace("-", "_")] = value_of(value)
            else:
                own[name] = value
        else:
            rest.append(_SHORT.get(word, word) + (f"={value}" if has else ""))
    return own, settings, rest


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no names with values; write lines like `learning_rate: 1e-5`")
    # YAML 1.1 reads 1e-5 as a text, for it has no dot
    return {str(name): value_of(value) if isinstance(value, str) else value for name, value in found.items()}


def _block(block: Any) -> dict[str, Any]:
    if not isinstance(block, dict):
        raise UsageError("the block `zo:` holds the recipe and its settings: `zo: {recipe: low-rank, eps: 1e-3}`")
    return {str(name): value_of(value) if isinstance(value, str) else value for name, value in block.items()}


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"
