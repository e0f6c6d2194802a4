"""From a config to what a run needs: model, examples, objective, searched tensors. Used by train, eval and replay."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zerothorder.config import TaskConfig, TrainConfig
from zerothorder.data import (
    Verbalizers,
    classes_in,
    encode,
    load_model,
    name_classes,
    parse_verbalizers,
    read_rows,
    saved_classes,
    virtual_tokens,
)
from zerothorder.data.options import has_options
from zerothorder.data.tasks import wording
from zerothorder.errors import UsageError
from zerothorder.integrations.peft import apply_scheme, room_taken
from zerothorder.key import run_key
from zerothorder.objectives.classification import Accuracy, Classification
from zerothorder.objectives.language_model import LanguageModel
from zerothorder.objectives.metric import TokenF1
from zerothorder.objectives.text import Examples
from zerothorder.objectives.wrap import MicroBatches
from zerothorder.space import ParameterSpace


@dataclass(frozen=True)
class Task:
    """A loaded model, encoded splits and the objective. `truncated` counts texts that were cut, by split; `classes` are
    the labels of a classification head in order, () where there is none."""

    model: Any
    tokenizer: Any
    source: str
    splits: dict[str, Examples]
    truncated: dict[str, int]
    objective: Any
    pad_id: int
    classes: tuple[str, ...] = ()


Progress = Callable[[str, int, int], None]


def load_task(
    config: TaskConfig,
    splits: tuple[str, ...] = ("train", "dev", "test"),
    model: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Task:
    """Load model and data. UsageError says what is wrong with either. `progress(what, done, total)` as it goes."""
    if config.head and config.objective == "lm":
        raise UsageError("a head gives classes, no words: --objective lm goes without --head")
    template, verbalizers = wording(config.data, config.objective, config.template, config.verbalizers, config.bare)
    progress("reading the data", 0, 1)
    rows = {split: _rows(config, split) for split in splits}  # data first: its mistakes are cheap to find
    chosen_from = config.head or verbalizers is not None or any(map(has_options, rows.values()))
    classes = classes_for(config, verbalizers, model or config.model, rows) if config.head else None
    progress("reading the data", 1, 1)
    progress("loading the model", 0, 1)
    loaded = load_base(config, model, classes=classes)
    progress("loading the model", 1, 1)
    before = virtual_tokens(loaded.model)
    if before and config.objective == "metric" and not chosen_from:
        check_generation(loaded.model)
    taken = 0 if before or not isinstance(config, TrainConfig) else room_taken(config.scheme)
    if config.head and not config.template:
        template = None  # it is there for the words that complete it
    progress("encoding the texts", 0, 1)
    encoded = {
        split: encode(
            found,
            loaded.tokenizer,
            objective=config.objective,
            max_length=min(config.max_length + len(before), _longest(loaded.model) - taken),
            template=template,
            verbalizers=classes or verbalizers,
            chat=config.chat,
            head=config.head,
            before=before,
        )
        for split, found in rows.items()
    }
    progress("encoding the texts", 1, 1)
    pad_id = loaded.tokenizer.pad_token_id
    return Task(
        loaded.model,
        loaded.tokenizer,
        loaded.source,
        {split: e.examples for split, e in encoded.items()},
        {split: e.truncated for split, e in encoded.items()},
        objective_of(config, loaded.tokenizer, pad_id, chosen_from),
        pad_id,
        classes.labels if classes else (),
    )


def classes_for(config: TaskConfig, verbalizers: str | None, model: str, rows: Mapping[str, Any]) -> Verbalizers:
    """The classes of a head: the verbalizers' labels, else those a trained classifier has, else the training rows'."""
    if verbalizers is not None:
        return parse_verbalizers(verbalizers)
    return saved_classes(Path(model).expanduser()) or classes_in(rows.get("train") or _rows(config, "train"))


def check_generation(model: Any) -> None:
    """UsageError where a model that writes would look virtual tokens up among the words it may write."""
    penalty = getattr(model.generation_config, "repetition_penalty", None)
    if penalty not in (None, 1.0) and not model.config.is_encoder_decoder:
        raise UsageError(
            f"the model's generation settings penalise repetition ({penalty:g}), for which virtual tokens would have "
            "to be words; use the scheme prefix, or set repetition_penalty to 1 in its generation_config.json"
        )


def data_digest(splits: Mapping[str, Examples]) -> str:
    """SHA-256 of what the model is shown of every split, in hex: the same rows in another file are the same data."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        for e in splits[name]:
            digest.update(json.dumps([name, e.prompt, e.answers, e.label, e.references]).encode())
    return digest.hexdigest()


def load_base(
    config: TaskConfig, model: str | None = None, key: bytes | None = None, classes: Verbalizers | None = None
) -> Any:
    """The base model in the run's dtype, in eval mode: dropout is off in every forward, as in MeZO.

    With `classes` it has a head for them. A scheme puts its adapter on it, at the start that `key` (the run key; by
    default the seed's) draws.
    """
    loaded = load_model(
        model or config.model,
        dtype=getattr(torch, config.dtype),
        device=config.device,
        objective="classification" if classes else config.objective,
        head=len(classes.labels) if classes else None,
        trust_remote_code=config.trust_remote_code,
        attn_implementation=config.attention,
    )
    if classes:
        name_classes(loaded.model, classes)
    if not isinstance(config, TrainConfig):
        return loaded
    adapted = apply_scheme(loaded.model, config.scheme, run_key(config.seed) if key is None else key)
    freeze(adapted, config.freeze)
    return dataclasses.replace(loaded, model=adapted)


def freeze(model: nn.Module, words: tuple[str, ...]) -> None:
    """requires_grad off for parameters whose name contains a word; UsageError for a word that matches none."""
    for word in words:
        hits = [p for name, p in model.named_parameters() if word in name]
        if not hits:
            raise UsageError(
                f"freeze {word!r} matches no parameter; names are like {next(iter(dict(model.named_parameters())))!r}"
            )
        for parameter in hits:
            parameter.requires_grad_(False)


def objective_of(config: TaskConfig, tokenizer: Any, pad_id: int, choices: bool) -> Any:
    """The objective a config names, in micro-batches where it asks for them."""
    if config.objective == "lm":
        objective: Any = LanguageModel(pad_id)
    elif config.objective == "classification":
        objective = Classification(pad_id, config.head)
    elif choices:
        objective = Accuracy(pad_id, config.head)
    else:
        objective = TokenF1(pad_id, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    rows = config.micro_batch if isinstance(config, TrainConfig) else None
    return objective if rows is None else MicroBatches(objective, rows)


def space_of(config: TrainConfig, model: nn.Module) -> ParameterSpace:
    """The searched tensors of a config's model."""
    return ParameterSpace.of(model, precision=config.precision)


def _longest(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 20)


def _rows(config: TaskConfig, split: str) -> Any:
    columns = {ours: name for ours, name in (("text", config.text_column), ("label", config.label_column)) if name}
    return read_rows(
        config.data, split, columns, required=("label",) if config.head or config.objective == "classification" else ()
    )


__all__ = ["Path", "Task", "data_digest", "freeze", "load_base", "load_task", "objective_of", "space_of"]
