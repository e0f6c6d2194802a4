"""One stage of training: a trainer of TRL, a recipe, and an adapter that begins somewhere and is kept."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from zerothorder import catalogue
from zerothorder.data import load_model
from zerothorder.data.adapters import write_adapter
from zerothorder.data.quiet import need
from zerothorder.errors import UsageError
from zerothorder.integrations.trainer_checkpoint import LEDGER
from zerothorder.integrations.trl import AIMS, mixed
from zerothorder.key import named_seed
from zerothorder.replay import replayable

_log = logging.getLogger(__name__)

Method = tuple[str, Mapping[str, Any]]
"""A recipe's name and its settings."""
ADAPTER, START = "adapter_model.safetensors", "start"
"""The adapter's file in a stage's folder, and the folder in it with the adapter at the start."""


@dataclass(frozen=True)
class Adapters:
    """What the stages of a run share: LoRA's settings, TRL's arguments (rows, generations, logging; learning rates are
    the recipes'), the base's dtype, completions of at most `tokens` tokens, which end at one of `stops` too."""

    lora: Mapping[str, Any] = field(default_factory=lambda: {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"})
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dtype: str = "bfloat16"
    tokens: int = 16
    temperature: float = 0.7
    stops: Sequence[str] = ("\n",)
    seed: int = 0

    def of(self, stage: str) -> "Adapters":
        """With a seed of the stage's own, by name: directions, order of rows and samples are those of no other."""
        return dataclasses.replace(self, seed=named_seed(self.seed, stage))

    @property
    def prompts(self) -> int:
        """Prompts that an update of RLOO sees."""
        fields = mixed("rloo")[1].__dataclass_fields__
        names = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations")
        rows, batches, samples = (self.args.get(name, fields[name].default) for name in names)
        return rows * batches // samples

    def load(self, name: str, head: int | None = None) -> tuple[Any, Any]:
        """(model, tokenizer) of a name or folder; `head` 1 for one that scores."""
        loaded = load_model(name, self.dtype, head=head)
        model: Any = loaded.model
        tokenizer: Any = loaded.tokenizer
        if head is None:
            own = model.generation_config.eos_token_id
            ends = [own] if isinstance(own, int) else list(own or ())
            ends += _holding(tokenizer, self.stops)
            model.generation_config.eos_token_id = sorted({*ends, tokenizer.eos_token_id})
        return model, tokenizer

    def train(
        self, objective: str, folder: Path, model: Any, tokenizer: Any, rows: Any, method: Method, updates: int, *,
        start: Path | None = None, begin: Callable[[Any], None] | None = None,
        watch: Callable[[int, int], None] | None = None, **named: Any,
    ) -> Any:  # fmt: skip
        """The trainer of an objective (`integrations.trl.AIMS`), trained. Its adapter is in `folder`, as it was at the
        start in `folder`/start; it starts from that of another stage's folder `start`, or as LoRA does.

        Where the folder has checkpoints the stage goes on from the last one, by its ledger, unless it took gradients:
        it begins anew then. `watch(done, updates)` is
        called after every update, in place of the trainer's own lines.
        """
        trainer_class, config = mixed(objective)
        name, settings = method
        recipe: Any = catalogue.build(name, "lora", **settings)
        constant = recipe.schedule == "constant"  # as transformers calls it, it has no warm-up
        given = {**AIMS[objective].defaults, "max_completion_length": self.tokens, "temperature": self.temperature}
        if model.can_generate():  # TRL 1.10 knows the tokenizer's end alone
            given["generation_kwargs"] = {"eos_token_id": model.generation_config.eos_token_id}
        given |= self.args
        given |= {
            "output_dir": str(folder), "max_steps": updates, "seed": self.seed, "disable_tqdm": True,
            "use_cpu": not torch.cuda.is_available(), "learning_rate": recipe.lr, "weight_decay": recipe.weight_decay,
            "lr_scheduler_type": "constant_with_warmup" if constant and recipe.warmup else recipe.schedule,
            "warmup_steps": recipe.warmup,
        }  # fmt: skip
        peft = need("peft", "adapters")
        task = "SEQ_CLS" if AIMS[objective].scores else "CAUSAL_LM"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # LoRA's A, and what the policy says
            trainer = trainer_class(
                model=model, processing_class=tokenizer, train_dataset=rows, recipe=recipe, begin=begin,
                args=config(**{name: value for name, value in given.items() if name in config.__dataclass_fields__}),
                peft_config=peft.LoraConfig(task_type=task, **self.lora), **named,
            )  # fmt: skip
            if watch is not None:
                _watched(trainer, watch)
            if start is not None:
                put(trainer.model, load_file(start / ADAPTER))
            (folder / START).mkdir(parents=True, exist_ok=True)
            write_adapter(trainer.model, folder / START)
            # gradients are not in the ledger: a stage that took any begins anew
            going = any(folder.glob("checkpoint-*/trainer_state.json")) and replayable(folder / LEDGER)
            trainer.train(resume_from_checkpoint=going or None)
        write_adapter(trainer.model, folder)
        return trainer

    def adapted(self, model: Any, folder: Path) -> Any:
        """The model with the adapter of a stage's folder, in eval mode."""
        peft = need("peft", "adapters")
        found = peft.get_peft_model(model, peft.PeftConfig.from_pretrained(str(folder)))
        put(found, load_file(folder / ADAPTER))
        return found.eval()


def _holding(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens that hold one of the texts: a line's end is part of several."""
    ids = range(len(tokenizer))
    pieces = tokenizer.batch_decode([[own] for own in ids]) if texts else []
    found = {text: [own for own, piece in zip(ids, pieces, strict=True) if text in piece] for text in texts}
    for text, own in found.items():
        if not own:
            _log.warning("no token holds %r, which is to end completions; they end without it", text)
    return sorted({own for many in found.values() for own in many})


def generating(prompts: int, samples: int, beta: float) -> dict[str, Any]:
    """TRL's arguments for updates on `prompts` prompts with `samples` completions each, reward less β·KL."""
    return {
        "per_device_train_batch_size": prompts * samples, "gradient_accumulation_steps": 1, "num_generations": samples,
        "beta": beta, "logging_steps": 1, "save_strategy": "steps", "save_steps": 20, "save_total_limit": 1,
        "dataloader_pin_memory": False,
    }  # fmt: skip


def put(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter's tensors, as its file holds them, into a model that has such an adapter. UsageError for names
    that do not fit."""
    peft = need("peft", "adapters")
    found = peft.set_peft_model_state_dict(model, dict(tensors))
    if found.unexpected_keys:
        raise UsageError(
            f"the adapter holds {found.unexpected_keys[0]!r}, which the model has not; is it of this base?"
        )


def _watched(trainer: Any, watch: Callable[[int, int], None]) -> None:
    from transformers import PrinterCallback, TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            watch(state.global_step, state.max_steps)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch)


def told(trainer: Any) -> dict[str, Any]:
    """What a stage's file says of its training."""
    meter = trainer._zo_optimizer.run.around.meter
    return {"forwards": meter.examples, "tokens": meter.tokens, "log": trainer.state.log_history}
