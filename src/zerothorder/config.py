"""A fine-tuning run as one frozen dataclass: the Python API, the command line's flags and the saved JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zerothorder.errors import UsageError, nearest

Objective = Literal["classification", "lm", "metric"]
Scheme = Literal["full", "lora", "prefix", "prompt", "head"]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A model, a data set, and what the model is to do with it: what training and evaluation share."""

    model: str = "smollm2-135m"
    """A local folder, a hub id, or a packaged model."""
    data: str = "rotten-tomatoes"
    """A named task (or NAME:FOLDER with rows of your own for it), a shipped text set, a JSONL, CSV or Parquet file, a
    folder of splits, or a `datasets` name."""
    objective: Objective = "classification"
    """classification by verbalizers, the rows' own options or --head; lm (likelihood); metric (accuracy where there are
    such answers, else F1 of generations). For sft, dpo, kto, reward and rloo, which have flags of their own, see
    `zo train --objective dpo --help`."""
    template: str | None = None
    """The prompt, with columns in braces: '{text} It was'."""
    verbalizers: str | None = None
    """Labels and their words: '0=terrible,1=great'."""
    bare: bool = False
    """Ask a named task without its wording: the row's texts alone, then the answer (no task alignment)."""
    head: bool = False
    """A classifier on the model in place of words. Its classes are the labels of the verbalizers, where there are some,
    else those that a trained classifier names, else those of the training rows in order."""
    text_column: str | None = None
    """Name of the column to use as {text}."""
    label_column: str | None = None
    """Name of the column to use as label."""
    chat: bool = False
    """Put prompts into the tokenizer's chat template."""
    max_length: int = 512
    """Longest prompt with answer, in tokens; the left end of longer texts is cut and counted."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the weights and of the forwards."""
    attention: Literal["sdpa", "eager"] | None = None
    """Attention implementation; by default the model's."""
    device: str = "cpu"
    """Where the model lives."""
    threads: int | None = None
    """CPU threads; by default torch's choice."""
    trust_remote_code: bool = False
    """Allow code that comes with a model."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress and tables."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(TaskConfig):
    """Measure a model on held-out rows: accuracy, calibrated accuracy, AUC, loss."""

    split: Literal["train", "dev", "test"] = "test"
    """Which rows."""
    rows: int = 0
    """How many of them; 0: all."""
    calibrate: int = 500
    """Unlabelled training rows; each class's score is taken less its median over them. 0: no calibrated accuracy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TaskConfig):
    """Fine-tune a language model without backpropagation."""

    output: Path
    """Folder of the run: config.json, ledger.zo, metrics.jsonl, report.html, model/."""
    recipe: str = "mezo"
    """The method; `zo recipes` lists them."""
    scheme: Scheme = "full"
    """Which weights: all, LoRA factors, a prefix of keys and values, a prompt of virtual tokens, or the head."""
    freeze: tuple[str, ...] = ()
    """Leave alone the parameters whose name contains one of these words, for example embed_tokens."""
    threads: int | None = None
    """CPU threads; by default torch's choice, and on resume those of the run."""
    steps: int = 1000
    """Steps of the run; schedules run over them."""
    batch_size: int = 16
    """Rows a step."""
    micro_batch: int | None = None
    """Rows evaluated at a time (gradient accumulation): less activation memory, the same step."""
    group_by_length: int = 16
    """Sort windows of this many batches by length, so that little is padding; 1: no sorting."""
    lr: float | None = None
    """Learning rate; by default the recipe's for the scheme (see `zo recipes RECIPE`)."""
    eps: float | None = None
    """Size of the perturbation; by default the recipe's for the scheme (see `zo recipes RECIPE`)."""
    draws: int | None = None
    """Directions a step (n-SPSA); by default the recipe's (see `zo recipes RECIPE`)."""
    weight_decay: float | None = None
    """Coupled weight decay, without biases and norms; by default the recipe's (see `zo recipes RECIPE`)."""
    schedule: Literal["constant", "linear", "cosine"] | None = None
    """How the learning rate falls over the steps; by default the recipe's (see `zo recipes RECIPE`)."""
    warmup: int | None = None
    """Steps of linear warm-up; by default the recipe's (see `zo recipes RECIPE`)."""
    optimizer: Literal["sgd", "momentum", "adam"] | None = None
    """What turns the estimate into a step; by default the recipe's (see `zo recipes RECIPE`)."""
    law: Literal["gaussian", "rademacher"] | None = None
    """Law of the directions, or of their factors; by default the recipe's (see `zo recipes RECIPE`)."""
    rank: int | None = None
    """Rank of the directions, of recipes that have one; by default the recipe's (see `zo recipes RECIPE`)."""
    settings: tuple[str, ...] = ()
    """The recipe's other settings, as NAME=VALUE: sparsity=0.8 resample=10 (see `zo recipes RECIPE`)."""
    seed: int = 0
    """Names the run: directions and data order."""
    precision: Literal["residual", "stochastic", "nearest"] = "residual"
    """How 16-bit weights keep small steps: a residual byte each, or bare rounding."""
    executor: Literal["batched", "swap", "copy"] = "batched"
    """How points are evaluated: together in one pass, one by one, or on a second copy of the weights."""
    copies: int | None = None
    """Points evaluated together; fewer need less activation memory. By default as many as make 1,024 tokens."""
    check: Literal["sites", "joint", "off"] = "sites"
    """Compare the executor with a copy of the weights before the first step: each parameter, all at once, or not."""
    eval_every: int = 0
    """Evaluate on dev every so many steps; 0: at the end only."""
    eval_rows: int = 200
    """Rows of dev for these evaluations; 0: all."""
    test_rows: int = 0
    """Rows of test for the evaluations before and after; 0: all."""
    snapshot_every: int = 500
    """Snapshot every so many steps: a resumed run replays at most these."""
    resume: bool = False
    """Go on with the run in the --output folder; no further flag is needed."""
    overwrite: bool = False
    """Remove a run that is in the output folder."""
    report_to: tuple[str, ...] = ()
    """Trackers: tensorboard, trackio, wandb."""
    profile: bool = False
    """Time the parts of a step: a table at the end, a row in metrics.jsonl, a picture in report.html."""

    def recipe_settings(self) -> dict[str, Any]:
        """The recipe's settings that were given."""
        return settings_of(self)

    def to_json(self) -> str:
        """As saved beside the run."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n"

    def check_numbers(self) -> None:
        """UsageError for a number that no run can have."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is {value}; it must be {least} or more")
        if self.warmup is not None and self.warmup > self.steps:
            raise UsageError(f"--warmup is {self.warmup}, but the run has {self.steps} steps; give at most that many")

    def with_absolute_paths(self) -> "TrainConfig":
        """Model and data that are files or folders here, by absolute path: a run is resumed from anywhere."""
        return dataclasses.replace(self, **{name: absolute(getattr(self, name)) for name in _PLACES})


def settings_of(config: Any, flag: str = "--settings") -> dict[str, Any]:
    """The recipe's settings that a config was given, by flags of their own and as NAME=VALUE. UsageError for a word
    that is no such pair, or that names a setting twice."""
    names = ("lr", "eps", "draws", "weight_decay", "schedule", "warmup", "optimizer", "law", "rank")
    found = {name: value for name in names if (value := getattr(config, name, None)) is not None}
    for word in config.settings:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} takes NAME=VALUE, not {word!r}; for example sparsity=0.8")
        if name in found:
            raise UsageError(f"{name} is given twice, by {flag} {word} and before; leave one out")
        found[name] = value_of(value)
    return found


def value_of(value: str) -> Any:
    """A number or true and false where the text is one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(value, value)


_LEAST = {
    "steps": 1, "batch_size": 1, "micro_batch": 1, "group_by_length": 1, "warmup": 0, "threads": 1, "max_length": 2,
    "eval_every": 0, "eval_rows": 0, "test_rows": 0, "snapshot_every": 0, "copies": 1,
}  # fmt: skip

PACKAGED = (
    "smollm2-135m", "minilm", "llama-2.5m",
    "conversations", "glosses", "preferences", "sections", "summaries", "translations",
    "rotten-tomatoes", "food-reviews", "synopses",
    "sst2", "rte", "cb", "boolq", "wsc", "wic", "copa", "multirc", "record", "winogrande", "squad", "drop",
)  # fmt: skip
"""Names of packaged models, shipped texts and named tasks: they win over files and folders of that name."""
_PLACES = ("model", "data")
"""Fields that may name a file or folder."""
_SHOWN = ("profile", "quiet", "json")
"""Fields that say what this call shows; off where it does not say."""
_OF_THE_CALL = ("resume", "overwrite", "output", *_SHOWN)
"""Fields that say what to do now, not what the run is."""
_MAY_CHANGE = ("report_to", "eval_every", "snapshot_every", "check", "threads", "copies")
"""Fields that a resumed run may have otherwise; `threads` with a warning, since sums may round otherwise."""


def absolute(name: str) -> str:
    """The absolute path of a file or folder that exists, also behind the name of a task; any other name as it is."""
    task, colon, place = name.partition(":")
    if colon and task in PACKAGED:
        return f"{task}:{_absolute(place)}"
    return name if name in PACKAGED else _absolute(name)


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    if not path.exists():
        return name
    # a linked file keeps its name: what it leads to may lack the ending that tells its format
    return str(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)


def _same_place(a: str, b: str) -> bool:
    """Two names of one file or folder. A name that is no path here is the same as itself only."""
    one, other = Path(absolute(a)), Path(absolute(b))
    return absolute(a) == absolute(b) or (
        one.is_absolute() and other.is_absolute() and one.resolve() == other.resolve()
    )


def is_config(path: Path) -> bool:
    """Whether a config.json is a run's; models have files of that name too. One that cannot be read may be."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return True
    return isinstance(found, dict) and "output" in found


def load_config(path: Path) -> TrainConfig:
    """A saved config. UsageError for an unreadable file or unknown fields."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; is this the folder of a run?") from error
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    if not isinstance(found, dict) or "output" not in found:
        raise UsageError(f"{path} is not the config.json of a run; is this the folder of a run?")
    for name in found:
        if name not in fields:
            raise UsageError(f"{path} has an unknown field {name!r}{nearest(name, fields)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    values["output"] = Path(found["output"])
    return TrainConfig(**values)


def saved_run(folder: Path) -> TrainConfig:
    """The config of the run in a folder, set to resume it there. UsageError where there is none."""
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"there is no run to resume in {folder}; leave --resume out to start one")
    now: dict[str, Any] = {"output": folder, "resume": True, "overwrite": False}
    return dataclasses.replace(load_config(path), **now, **dict.fromkeys(_SHOWN, False))


def check_resumable(given: TrainConfig, *, complete: bool = False) -> TrainConfig:
    """The config to go on with. UsageError names the first field that would change the run.

    A field of `given` that has its default counts as not given, unless `complete` says that `given` was made from
    the saved config and every field is meant.
    """
    saved = saved_run(given.output)
    changes: dict[str, Any] = {name: getattr(given, name) for name in _SHOWN}
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(saved, field.name), getattr(given, field.name)
        if field.name in _OF_THE_CALL or now == before or (now == field.default and not complete):
            continue
        if field.name in _PLACES and _same_place(before, now):
            continue
        used = _used(saved, field.name)
        if now == used:
            continue
        if field.name in _MAY_CHANGE:
            changes[field.name] = now
        else:
            started = f"the run in {given.output} was started with {field.name} = {used!r}, not {now!r}"
            if field.name == "steps":
                raise UsageError(
                    f"{started}, and its schedule runs over them; leave the flag out to resume it, or start a new run "
                    f"in another output folder, with --model {given.output / 'model'} if it shall go on from there"
                )
            raise UsageError(f"{started}; leave the flag out to resume it, or choose another output folder")
    return dataclasses.replace(saved, **changes)


def _used(saved: TrainConfig, name: str) -> Any:
    """The value a run goes by: where the config has none, the recipe's own for its scheme."""
    value = getattr(saved, name)
    if value is not None:
        return value
    from zerothorder import catalogue  # with torch, which the command line does without until it has something to do

    return getattr(catalogue.build(saved.recipe, saved.scheme, **saved.recipe_settings()), name, None)
