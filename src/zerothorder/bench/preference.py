"""A cell of preference optimisation: a policy trained on a text task, looked at before and after."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from zerothorder.bench.memory import resident, resident_before
from zerothorder.data.models import DTYPES
from zerothorder.errors import UsageError, nearest
from zerothorder.integrations import answers
from zerothorder.integrations.adapters import Adapters, Method, told
from zerothorder.integrations.policies import Look, look
from zerothorder.integrations.refinement import FITTED, Refinement
from zerothorder.integrations.rewards import METRICS, Reward, reward_of
from zerothorder.integrations.trl import mixed

OBJECTIVES = ("rloo", "dpo")


@dataclass(frozen=True, kw_only=True)
class Preference(Refinement):
    """Settings of a cell: a policy trained by `objective`, `updates` steps in each of `rounds` rounds, the first by
    `first`, the others by `then`; reward models by `fit`.

    With the reward "fitted" a reward model is fitted in `fits` steps to the references against those of the next
    prompt. Of DPO these pairs are the data, and a step has as many rows as RLOO's has completions; its reference is
    asked in every step, so that what it takes is counted.
    """

    page: ClassVar[str] = "zerothorder.bench.preference_page"
    executor: ClassVar[str] = "swap"

    model: str = "smollm2-135m"
    objective: str = "rloo"
    first: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "adamw"})
    then: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "zopro", "lr": 1.0, "eps": 1.0})
    fit: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "adamw"})
    rounds: int = 1
    updates: int = 60
    fits: int = 60

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"there is no objective {self.objective!r}{nearest(self.objective, OBJECTIVES)}")
        if self.test_rows < 1:
            raise UsageError(
                f"test_rows is {self.test_rows}; a cell compares what is said before and after, so give some"
            )
        for name in ("first", "then", "fit"):
            method(getattr(self, name))  # an unknown recipe or setting is said before the first cell runs

    def run(self, folder: Path, seed: int, before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Train and look, by the reward and by every metric that compares with a reference; the curve is of training's
        own completions, by tokens through the model and by seconds;
        `rewards` of the held-out prompts after each round, the last as `after`."""
        mixed(self.objective)  # its libraries are no part of what a method takes
        began_with = resident_before(DTYPES[self.dtype])
        kind = self.kind(seed)
        model, tokenizer = kind.load(self.model)
        train = self.rows(tokenizer, "train", self.train_rows)
        test = self.rows(tokenizer, self.split, self.test_rows)
        truth = self.measured(kind)

        def looked(policy: Any) -> Look:
            how: dict[str, Any] = {"seed": seed, "samples": self.test_samples, "temperature": self.temperature}
            metrics = {name: reward_of(name) for name in METRICS}
            return look(policy, tokenizer, test, truth, self.tokens, metrics=metrics, **how)

        start = looked(model)
        del model  # before the stages load their own
        resumed = (folder / "run").exists()
        stages = self._dpo(folder / "run", kind, train) if self.objective == "dpo" else None
        if stages is None:
            stages = self._rounds(folder / "run", kind, train, truth)
        policies = [stage for stage, _ in stages if stage.name.startswith("policy")]
        looks = [looked(kind.adapted(kind.load(self.model)[0], stage)) for stage in policies]
        kept = folder / "ledgers"
        kept.mkdir(exist_ok=True)
        for stage, _ in stages:
            shutil.copy(stage / "ledger.zo", kept / f"{stage.name}.zo")
        return {
            "before": start.to_dict(),
            "after": looks[-1].to_dict(),
            "rewards": [{"reward": own.reward, "spread": own.spread} for own in looks],
            "curve": curve([(stage.name, told_of) for stage, told_of in stages], self._shown(truth)),
            "tokens": sum(_counted(told_of, "tokens") for _, told_of in stages),
            "forwards": sum(_counted(told_of, "forwards") for _, told_of in stages),
            "memory": None if resumed else max(0, resident() - began_with),
        }

    def _shown(self, truth: Reward) -> str:
        """What the trainer calls the reward that curves show: of a fitted one, whose scale is its own, the truth."""
        return f"rewards/{truth.__name__}/mean" if self.reward == FITTED else "reward"

    def _dpo(self, folder: Path, kind: Adapters, train: answers.Asked) -> list[tuple[Path, dict[str, Any]]]:
        model, tokenizer = kind.load(self.model)
        stage = folder / "policy-0"
        kind = dataclasses.replace(kind.of(stage.name), args={**kind.args, "precompute_ref_log_probs": False})
        trainer = kind.train("dpo", stage, model, tokenizer, answers.pairs(train), method(self.first), self.updates)
        return [(stage, told(trainer))]

    def _rounds(
        self, folder: Path, kind: Adapters, train: answers.Asked, truth: Reward
    ) -> list[tuple[Path, dict[str, Any]]]:
        methods = [method(given) for given in (self.first, self.then, self.fit)]
        self.in_rounds(folder, kind, methods, train, truth).run()
        kinds = ("reward", "policy") if self.reward == FITTED else ("policy",)
        names = [f"{name}-{number}" for number in range(self.rounds) for name in kinds]
        return [(folder / name, json.loads((folder / name / "stage.json").read_text())) for name in names]


def method(given: Mapping[str, Any]) -> Method:
    """("recipe", its settings). UsageError for an unknown recipe or setting."""
    from zerothorder import catalogue

    settings = dict(given)
    name = str(settings.pop("recipe", ""))
    catalogue.build(name, "lora", **settings)
    return name, settings


def curve(stages: Sequence[tuple[str, Mapping[str, Any]]], reward: str = "reward") -> list[dict[str, float]]:
    """A row an update of a policy, stages (name, what its file says) one after the other: tokens, seconds of the
    processor (its one thread is not stretched by what else the machine does), and what the trainer said of its
    completions, whose reward it calls `reward`. Reward models have no rows; their tokens and seconds go before the next
    policy's."""
    found: list[dict[str, float]] = []
    tokens = seconds = 0.0
    names = {reward: "reward", "kl": "kl", "completions/mean_length": "length", "loss": "loss"}
    for name, stage in stages:
        drawn = stage.get("drawn", {})
        tokens, seconds = tokens + drawn.get("tokens", 0), seconds + drawn.get("cpu_seconds", 0.0)
        rows = [row for row in stage["log"] if "zo/tokens" in row]
        for row in rows if name.startswith("policy") else ():
            own = {ours: row[theirs] for theirs, ours in names.items() if theirs in row}
            found.append({"tokens": tokens + row["zo/tokens"], "seconds": seconds + row["zo/cpu_seconds"], **own})
        if rows:
            tokens, seconds = tokens + rows[-1]["zo/tokens"], seconds + rows[-1]["zo/cpu_seconds"]
    return found


def _counted(stage: Mapping[str, Any], name: str) -> int:
    return stage[name] + stage.get("drawn", {}).get(name, 0)


__all__ = ["Look", "Preference", "curve", "method"]
