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
from zerothorder.integrations.adapters import Adapters, Method, generating, told
from zerothorder.integrations.policies import Look, Reward, by_reward, look
from zerothorder.integrations.rounds import Rounds
from zerothorder.integrations.trl import reward_of

OBJECTIVES = ("rloo", "dpo")
FITTED = "fitted"


@dataclass(frozen=True)
class Preference:
    """Settings of a cell. Prompts longer than `longest` tokens are left out; `prompts` a step with `samples`
    completions each; `updates` steps in each of `rounds` rounds, the first by `first`, the others by `then`.

    `reward` is rouge_l, chrf or module:function of (completions, reference), or "fitted": a reward model fitted in
    `fits` steps to the references against those of the next prompt; then the truth that is looked at, and that judges
    between rounds, is `truth`. Of DPO these pairs are the data, and a step has as many rows as RLOO's has completions.
    """

    page: ClassVar[str] = "zerothorder.bench.preference_page"

    data: str
    prompt: str
    reference: str
    reward: str = "rouge_l"
    truth: str = "rouge_l"
    model: str = "smollm2-135m"
    dtype: str = "bfloat16"
    objective: str = "rloo"
    first: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "adamw"})
    then: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "zopro"})
    fit: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "adamw"})
    rounds: int = 1
    updates: int = 60
    fits: int = 60
    prompts: int = 8
    samples: int = 2
    beta: float = 0.05
    tokens: int = 16
    longest: int = 48
    rank: int = 16
    train_rows: int = 480
    test_rows: int = 128

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"there is no objective {self.objective!r}{nearest(self.objective, OBJECTIVES)}")
        for name in ("first", "then", "fit"):
            method(getattr(self, name))  # an unknown recipe or setting is said before the first cell runs

    def run(self, folder: Path, seed: int, before: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Train and look; the curve is of training's own completions, by tokens through the model and by seconds."""
        kind = self.kind(seed)
        model, tokenizer = kind.load(self.model)
        asked = answers.Answers(self.data, self.prompt, self.reference, self.longest)
        train, test = asked.rows(tokenizer, "train", self.train_rows), asked.rows(tokenizer, "dev", self.test_rows)
        truth = reward_of(self.truth if self.reward == FITTED else self.reward)
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

    def kind(self, seed: int) -> Adapters:
        """What the stages share."""
        args = generating(self.prompts, self.samples, self.beta)
        lora = {"r": self.rank, "lora_alpha": 2 * self.rank, "target_modules": "all-linear"}
        return Adapters(lora=lora, args=args, dtype=self.dtype, tokens=self.tokens, seed=seed)

    def _dpo(self, folder: Path, kind: Adapters, train: Mapping[str, list[str]]) -> list[tuple[Path, dict[str, Any]]]:
        model, tokenizer = kind.load(self.model)
        stage = folder / "policy-0"
        trainer = kind.train("dpo", stage, model, tokenizer, answers.pairs(train), method(self.first), self.updates)
        return [(stage, told(trainer))]

    def _rounds(
        self, folder: Path, kind: Adapters, train: Mapping[str, list[str]], truth: Reward
    ) -> list[tuple[Path, dict[str, Any]]]:
        fitted = self.reward == FITTED
        Rounds(
            folder, self.model, answers.prompts(train), reward=None if fitted else truth,
            pairs=answers.pairs(train) if fitted else None, judge=by_reward(truth), rounds=self.rounds,
            first=method(self.first), then=method(self.then), fit=method(self.fit), updates=self.updates,
            fits=self.fits, kind=kind,
        ).run()  # fmt: skip
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
