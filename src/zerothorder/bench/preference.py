"""A cell of preference optimisation: a policy trained on a text task, looked at before and after."""

import json
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from zerothorder.errors import UsageError, nearest
from zerothorder.integrations import answers
from zerothorder.integrations.adapters import Adapters, Method, told
from zerothorder.integrations.policies import Look, Reward, look
from zerothorder.integrations.refinement import Refinement

OBJECTIVES = ("rloo", "dpo")


@dataclass(frozen=True, kw_only=True)
class Preference(Refinement):
    """Settings of a cell: a policy trained by `objective`, `updates` steps in each of `rounds` rounds, the first by
    `first`, the others by `then`; reward models by `fit`.

    With the reward "fitted" a reward model is fitted in `fits` steps to the references against those of the next
    prompt. Of DPO these pairs are the data, and a step has as many rows as RLOO's has completions.
    """

    page: ClassVar[str] = "zerothorder.bench.preference_page"

    model: str = "smollm2-135m"
    objective: str = "rloo"
    first: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "adamw"})
    then: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "zopro"})
    fit: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "adamw"})
    rounds: int = 1
    updates: int = 60
    fits: int = 60

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"there is no objective {self.objective!r}{nearest(self.objective, OBJECTIVES)}")
        for name in ("first", "then", "fit"):
            method(getattr(self, name))  # an unknown recipe or setting is said before the first cell runs

    def run(self, folder: Path, seed: int, before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Train and look; the curve is of training's own completions, by tokens through the model and by seconds."""
        kind = self.kind(seed)
        model, tokenizer = kind.load(self.model)
        train = self.asked(tokenizer, "train", self.train_rows)
        test = self.asked(tokenizer, "dev", self.test_rows)
        truth = self.measured(kind)
        start = look(model, tokenizer, test, truth, self.tokens)
        del model
        stages = self._dpo(folder / "run", kind, train) if self.objective == "dpo" else None
        if stages is None:
            stages = self._rounds(folder / "run", kind, train, truth)
        policy = kind.adapted(kind.load(self.model)[0], stages[-1][0])
        after = look(policy, tokenizer, test, truth, self.tokens)
        kept = folder / "ledgers"
        kept.mkdir(exist_ok=True)
        for stage, _ in stages:
            shutil.copy(stage / "ledger.zo", kept / f"{stage.name}.zo")
        return {
            "before": start.to_dict(),
            "after": after.to_dict(),
            "curve": curve([told_of for _, told_of in stages]),
            "tokens": sum(told_of["tokens"] for _, told_of in stages),
            "forwards": sum(told_of["forwards"] for _, told_of in stages),
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def _dpo(self, folder: Path, kind: Adapters, train: answers.Asked) -> list[tuple[Path, dict[str, Any]]]:
        model, tokenizer = kind.load(self.model)
        stage = folder / "policy-0"
        trainer = kind.train("dpo", stage, model, tokenizer, answers.pairs(train), method(self.first), self.updates)
        return [(stage, told(trainer))]

    def _rounds(
        self, folder: Path, kind: Adapters, train: answers.Asked, truth: Reward
    ) -> list[tuple[Path, dict[str, Any]]]:
        methods = [method(given) for given in (self.first, self.then, self.fit)]
        self.in_rounds(folder, kind, methods, train, truth).run()
        names = [f"policy-{number}" for number in range(self.rounds)]
        return [(folder / name, json.loads((folder / name / "stage.json").read_text())) for name in names]


def method(given: Mapping[str, Any]) -> Method:
    """("recipe", its settings). UsageError for an unknown recipe or setting."""
    from zerothorder import catalogue

    settings = dict(given)
    name = str(settings.pop("recipe", ""))
    catalogue.build(name, "lora", **settings)
    return name, settings


def curve(stages: list[dict[str, Any]]) -> list[dict[str, float]]:
    """A row an update, stages one after the other: tokens, seconds of the processor (its one thread is not stretched by
    what else the machine does), and what the trainer said of its completions."""
    found: list[dict[str, float]] = []
    tokens = seconds = 0.0
    names = {"reward": "reward", "kl": "kl", "completions/mean_length": "length", "loss": "loss"}
    for stage in stages:
        for row in stage["log"]:
            if "zo/tokens" not in row:
                continue
            own = {ours: row[theirs] for theirs, ours in names.items() if theirs in row}
            found.append({"tokens": tokens + row["zo/tokens"], "seconds": seconds + row["zo/cpu_seconds"], **own})
        if found:
            tokens, seconds = found[-1]["tokens"], found[-1]["seconds"]
    return found


__all__ = ["Look", "Preference", "curve", "method"]
