"""TRL's trainers as objectives of `zo train`: which trainer, which rows, and the checks before a run begins."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerothorder.data.quiet import need
from zerothorder.data.sources import SHIPPED, data_folder
from zerothorder.errors import UsageError, nearest


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


_ANSWERS = ("chosen", "rejected", "completion")
_MISNAMED = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
"""Roles of other collections, which a chat template would take as they are → TRL's."""


def mixed(objective: str) -> tuple[type[Any], type[Any]]:
    """(the trainer with TrainerMixin before it, its config class)."""
    trl = need("trl", f"the objective {objective}")
    from zerothorder.integrations.trainer import TrainerMixin

    base = getattr(trl, AIMS[objective].trainer)
    return type(f"ZerothOrder{base.__name__}", (TrainerMixin, base), {}), getattr(trl, AIMS[objective].config)


def load_rows(objective: str, name: str, split: str, config: str | None = None, text: str = "text") -> Any:
    """A `datasets` data set: a JSONL, CSV or Parquet file, a folder of them, a shipped set's name (splits train, dev,
    test), or a hub name; checked."""
    datasets = need("datasets", "reading preference data")
    path = Path(name).expanduser()
    if name in SHIPPED:
        path = data_folder(name) / f"{split}.jsonl"
        if not path.is_file():
            raise UsageError(f"{name} has no split {split!r}; it has train, dev and test")
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
    if path.suffix in kinds and not path.is_file():
        raise UsageError(f"there is no file {name}")
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
    check_rows(objective, found, name, text)
    return found


def check_rows(objective: str, rows: Any, where: str, text: str = "text") -> None:
    """UsageError names the first row, counted from 1, that cannot be meant: missing, empty or equal answers, a message
    without role or content, an answer that ends in a question, texts beside conversations, a label that is neither true
    nor false. `text` is TRL's dataset_text_field, of SFT."""
    columns = list(rows.column_names)
    wanted = AIMS[objective].columns
    if objective == "sft":
        forms = ((text,), ("messages",), ("prompt", "completion"))
        wanted = next((form for form in forms if form[0] in columns), forms[0])
    elif "rejected" in wanted and "prompt" in columns:
        wanted = ("prompt", *wanted)
    for column in wanted:
        if column not in columns:
            raise UsageError(
                f"{where} has no column {column!r}{nearest(column, columns)}; {objective} needs {', '.join(wanted)}"
            )
    for number, row in enumerate(rows, start=1):
        if fault := _row_fault({column: row[column] for column in wanted}):
            raise UsageError(f"row {number} of {where}: {fault}")


def _row_fault(row: dict[str, Any]) -> str | None:
    for column, value in row.items():
        if fault := _fault(value, column):
            return fault
    texts = [column for column, value in row.items() if isinstance(value, str)]
    talks = [column for column, value in row.items() if isinstance(value, list)]
    if texts and talks:
        return f"{texts[0]} is a text and {talks[0]} a conversation; give both in one form"
    if "rejected" in row and row["chosen"] == row["rejected"]:
        return "chosen and rejected are the same; leave the row out"
    return None


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
        if not message["content"] and not message.get("tool_calls"):
            return f"{column} holds a message without content: {message!r}"
        if (role := message["role"]) in _MISNAMED:
            return f"{column} has the role {role!r}, which TRL calls {_MISNAMED[role]!r}"
    if column in _ANSWERS and (role := value[-1]["role"]) in ("user", "system"):
        return f"{column} ends in a message of the {role}; an answer's last message is the assistant's"
    return None
