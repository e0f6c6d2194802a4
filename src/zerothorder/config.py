"""A fine-tuning run as one frozen dataclass: the Python API, the command line's flags and the saved JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zerothorder.errors import UsageError
from zerothorder.places import absolute

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
        return dataclasses.replace(self, **{name: absolute(getattr(self, name)) for name in PLACES})


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

PLACES = ("model", "data")
"""Fields that may name a file or folder."""
