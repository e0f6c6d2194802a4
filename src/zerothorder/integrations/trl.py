"""TRL's trainers as objectives of `zo train`: which trainer, which rows, and the checks before a run begins."""

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerothorder.data.quiet import need
from zerothorder.data.sources import SHIPPED, data_folder
from zerothorder.errors import UsageError, nearest

CONSTANT = 20
"""Generations in a row whose rewards are all the same, after which a run stops: it would learn nothing from them."""

Reward = Callable[..., Sequence[float]]


@dataclass(frozen=True)
class Aim:
    """A trainer of TRL: its name there, what its rows hold, and defaults that suit forward passes."""

    trainer: str
    columns: tuple[str, ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    scores: bool = False

    @property
    def config(self) -> str:
        return self.trainer.replace("Trainer", "Config")


_FORWARD = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_grad_norm": 0.0}
_CACHED = {"precompute_ref_log_probs": True}
AIMS: dict[str, Aim] = {
    "sft": Aim("SFTTrainer", ("text",), _FORWARD),
    "dpo": Aim("DPOTrainer", ("chosen", "rejected"), _FORWARD | _CACHED),
    "kto": Aim(
        "KTOTrainer", ("prompt", "completion", "label"), _FORWARD | _CACHED | {"train_sampling_strategy": "sequential"}
    ),
    "reward": Aim("RewardTrainer", ("chosen", "rejected"), _FORWARD, scores=True),
    "rloo": Aim("RLOOTrainer", ("prompt",), _FORWARD),
}
"""Objectives of `zo train` that are a trainer of TRL."""


def mixed(objective: str) -> tuple[type[Any], type[Any]]:
    """(the trainer with TrainerMixin before it, its config class)."""
    trl = need("trl", f"the objective {objective}")
    from zerothorder.integrations.trainer import TrainerMixin

    base = getattr(trl, AIMS[objective].trainer)
    return type(f"ZerothOrder{base.__name__}", (TrainerMixin, base), {}), getattr(trl, AIMS[objective].config)


def load_rows(objective: str, name: str, split: str, config: str | None = None) -> Any:
    """A `datasets` data set: a JSONL, CSV or Parquet file, a folder of them, a shipped set's name (splits train, dev,
    test), or a hub name; checked."""
    datasets = need("datasets", "reading preference data")
    path = Path(name).expanduser()
    if name in SHIPPED:
        path = data_folder(name) / f"{split}.jsonl"
        if not path.is_file():
            raise UsageError(f"{name} has no split {split!r}; it has train, dev and test")
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
    try:
        if path.is_file():
            if path.suffix not in kinds:
                raise UsageError(f"{name} ends in {path.suffix!r}; give one of {', '.join(kinds)}")
            found = datasets.load_dataset(kinds[path.suffix], data_files={split: str(path)}, split=split)
        else:
            found = datasets.load_dataset(name, config, split=split)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"cannot read the data {name!r} ({type(error).__name__}: {error}); check name and split"
        ) from error
    check_rows(objective, found, name)
    return found


def check_rows(objective: str, rows: Any, where: str) -> None:
    """UsageError names the first row, counted from 1, that cannot be meant: missing, empty or equal answers, a message
    without role or content, a label that is neither true nor false."""
    columns = list(rows.column_names)
    wanted = AIMS[objective].columns
    if objective == "sft" and "text" not in columns:
        wanted = ("messages",) if "messages" in columns else ("prompt", "completion") if "prompt" in columns else wanted
    for column in wanted:
        if column not in columns:
            raise UsageError(
                f"{where} has no column {column!r}{nearest(column, columns)}; {objective} needs {', '.join(wanted)}"
            )
    for number, row in enumerate(rows, start=1):
        for column in wanted:
            if fault := _fault(row[column], column):
                raise UsageError(f"row {number} of {where}: {fault}")
        if "rejected" in wanted and row["chosen"] == row["rejected"]:
            raise UsageError(f"row {number} of {where}: chosen and rejected are the same; leave the row out")


def _fault(value: Any, column: str) -> str | None:
    if column == "label":
        return None if isinstance(value, bool) else f"label is {value!r}, but must be true or false"
    if isinstance(value, str):
        return None if value.strip() else f"{column} is empty"
    if not isinstance(value, list) or not value:
        return f"{column} is {'missing' if value is None else 'no text and no list of messages'}"
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            return f"{column} holds a message without role and content: {message!r}"
    return None


def reward_of(name: str) -> Reward:
    """rouge_l or chrf against the rows' `reference`, a folder with a reward model, or module:function; checked."""
    if name in METRICS:
        return checked(METRICS[name](), name)
    if Path(name).expanduser().is_dir():
        return _model_reward(str(Path(name).expanduser()))
    module, _, function = name.partition(":")
    if not function:
        raise UsageError(f"there is no reward {name!r}{nearest(name, METRICS)}; give a folder or module:function")
    try:
        return checked(getattr(importlib.import_module(module), function), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot import the reward {name!r} ({error}); give module:function") from error


def checked(reward: Reward, name: str) -> Reward:
    """The reward, refused in a sentence where it is no number, or all the same again and again."""
    same = 0

    def call(completions: Sequence[Any], **columns: Any) -> list[float]:
        nonlocal same
        found = [float(value) for value in reward(completions=completions, **columns)]
        for number, value in enumerate(found):
            if not math.isfinite(value):
                raise UsageError(f"the reward {name} is {value} for completion {number}: {completions[number]!r}")
        same = same + 1 if len(set(found)) == 1 else 0
        if same >= CONSTANT:
            raise UsageError(
                f"the reward {name} gave {found[0]:g} to every completion of {CONSTANT} generations; nothing can be "
                "learned from a constant"
            )
        return found

    call.__name__ = name.rpartition(":")[2]
    return call


def _model_reward(folder: str) -> Any:
    """TRL loads a reward model by its name."""
    return folder


def _rouge_l() -> Reward:
    scorer = need("rouge_score.rouge_scorer", "the reward rouge_l").RougeScorer(["rougeL"])

    def score(completions: Sequence[Any], reference: Sequence[str], **others: Any) -> list[float]:
        return [scorer.score(a, text(b))["rougeL"].fmeasure for a, b in zip(reference, completions, strict=True)]

    return score


def _chrf() -> Reward:
    chrf = need("sacrebleu", "the reward chrf").sentence_chrf

    def score(completions: Sequence[Any], reference: Sequence[str], **others: Any) -> list[float]:
        return [chrf(text(b), [a]).score / 100 for a, b in zip(reference, completions, strict=True)]

    return score


def text(completion: Any) -> str:
    """A completion as TRL gives it: a text, or the messages of a conversation."""
    return completion if isinstance(completion, str) else "".join(str(message["content"]) for message in completion)


METRICS: dict[str, Callable[[], Reward]] = {"rouge_l": _rouge_l, "chrf": _chrf}
"""Rewards that compare completions with the column `reference`."""
