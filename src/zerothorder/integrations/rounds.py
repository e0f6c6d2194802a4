"""Rounds of policy and reward model, each learning from what the other has become: the outer loop of ZOPrO."""

import dataclasses
import gc
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from zerothorder import catalogue
from zerothorder.data.quiet import need
from zerothorder.errors import UsageError
from zerothorder.execution.meter import Meter
from zerothorder.integrations.adapters import ADAPTER, START, Adapters, Method, told
from zerothorder.integrations.answers import share
from zerothorder.integrations.policies import Judge, columns, draw, pairs_of, scored_by
from zerothorder.integrations.rewards import Reward
from zerothorder.integrations.trl import check_rows
from zerothorder.key import named_seed
from zerothorder.ledger.attachments import write_durably
from zerothorder.ledger.lock import claimed
from zerothorder.recipes.zopro import difference, guide

_log = logging.getLogger(__name__)

_KEPT = 0.9
"""The share of what SFT learned, below which a run says what the base's rounding took."""
_DONE, _SETTINGS, _MERGED, _DRAWN = "stage.json", "rounds.json", "merged", "drawn.json"


@dataclass
class Rounds:
    """A policy trained by RLOO in rounds; between them the reward model learns from what the policy says now.

    In `output`, each a folder with its ledger: `sft` (where there are `demonstrations`; merged into the base, it is the
    reference of all rounds), `reward-0` (fitted to `pairs`), `policy-0`, and for i = 1, 2, …: `reward-i`, `policy-i`.
    reward-i is reward-(i-1) fitted to what a `judge` says of two completions a prompt, of the `doubtful` share of
    prompts whose scores are nearest 0; `average` a of reward-(i-1) is kept. Policy-i sees the next prompts, reward-i
    those of policy-(i-1); all begin again where the prompts end. Each stage has a seed of its own, and from round 1 on
    the recipe gets, as attachments of its ledger, mu = what policy-(i-1) moved by and v = reward-i - reward-(i-1); with
    a given `reward` there are no reward models and no v. Every stage starts from the adapter of the last of its kind.

    `measure` is looked at beside the reward, in the trainer's log as rewards/NAME/mean, and changes nothing.

    `named` says by what name reward and judge go, so that a run is not gone on with another one; stages of different
    settings are never mixed. In a stage's `stage.json`: rows and tokens through the model (and the reward model, while
    it scores), the trainer's log, seconds; of reward-i `drawn` too, what the completions took that were judged.

    `first`, `then` and `fit` are the methods of policy-0, of later policies, and of SFT and reward models: first order
    as in the paper, or any recipe, so that nothing in the run needs a backward pass. A stage that is done is not
    repeated; a zeroth-order one that was stopped goes on from its last checkpoint, a first-order one begins anew.
    `say` is told of every stage, `progress(stage, done, updates)` of every update.

    Source: Galatolo et al. 2025 (ZOPrO), whose iterations these are.
    """

    output: Path
    model: str
    prompts: Any
    reward: Reward | None = None
    pairs: Any = None
    demonstrations: Any = None
    judge: Judge | None = None
    rounds: int = 2
    first: Method = ("adamw", {})
    then: Method = ("zopro", {})
    fit: Method = ("adamw", {})
    updates: int = 20
    fits: int = 20
    average: float = 0.0
    doubtful: float = 0.6
    measure: Reward | None = None
    kind: Adapters = field(default_factory=Adapters)
    named: Mapping[str, str] = field(default_factory=dict[str, str])
    say: Callable[[str], None] = _log.info
    progress: Callable[[str, int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; at least one is needed")
        if self.reward is None and self.pairs is None:
            raise UsageError("rounds need a reward, or pairs to fit a reward model to; give reward= or pairs=")
        if self.reward is None and self.rounds > 1 and self.judge is None:
            raise UsageError("a reward model that learns again each round needs a judge; give judge=, or rounds=1")
        if self.pairs is not None:
            check_rows("reward", self.pairs, "pairs")
        for flag, method in (("first", self.first), ("fit", self.fit)):
            recipe: Any = catalogue.build(method[0], "lora", **method[1])
            if "mu" in recipe.tags and not recipe.mu:
                raise UsageError(
                    f"{flag} is {method[0]}, which follows an earlier update where there is none yet; give another "
                    "recipe, or its setting mu=FILE"
                )
        if not 0 <= self.average < 1:
            raise UsageError(f"average is {self.average:g}; it is the share of the old reward model, from 0 to below 1")

    def run(self) -> Path:
        """All stages that are not done; the last policy's adapter. UsageError where `output` holds a run of other
        settings."""
        self.output.mkdir(parents=True, exist_ok=True)
        with claimed(self.output):
            return self._stages()

    def _stages(self) -> Path:
        self._same_settings()
        if self.demonstrations is not None:
            self._stage("sft", self._sft)
        if self.reward is None:
            self._stage("reward-0", lambda to: self._fit(to, self.pairs, None))
        self._stage("policy-0", lambda to: self._policy(to, 0))
        for number in range(1, self.rounds):
            if self.reward is None:
                self._stage(f"reward-{number}", lambda to, n=number: self._refit(to, n))
            self._stage(f"policy-{number}", lambda to, n=number: self._policy(to, n))
        return self.output / f"policy-{self.rounds - 1}"

    def _stage(self, name: str, make: Callable[[Path], dict[str, Any]]) -> None:
        folder = self.output / name
        if (folder / _DONE).exists():
            return
        began = time.perf_counter()
        self.say(f"{name} begins")
        found = make(folder) | {"seconds": round(time.perf_counter() - began, 1)}
        write_durably(folder / _DONE, (json.dumps(found, indent=1) + "\n").encode())
        self.say(f"{name} is done in {found['seconds']:.0f} s")
        gc.collect()

    def _sft(self, folder: Path) -> dict[str, Any]:
        model, tokenizer = self.kind.load(self.model)
        trainer = self._train("sft", folder, model, tokenizer, self.demonstrations, self.fit, self.fits)
        kept = _kept(trainer.model)
        trainer.model.merge_and_unload().save_pretrained(folder / _MERGED)
        tokenizer.save_pretrained(folder / _MERGED)
        if kept < _KEPT:
            self.say(
                f"{kept:.0%} of what sft learned is left in a base of {self.kind.dtype}, the rest is rounded away; "
                "take dtype float32, or more updates of sft at a higher rate"
            )
        return told(trainer) | {"kept": round(kept, 4)}

    def _fit(self, folder: Path, pairs: Any, start: Path | None) -> dict[str, Any]:
        model, tokenizer = self.kind.load(self.base, head=1)
        trainer = self._train("reward", folder, model, tokenizer, pairs, self.fit, self.fits, start=start)
        return told(trainer)

    def _refit(self, folder: Path, number: int) -> dict[str, Any]:
        """The reward model on pairs of the last policy's completions that a judge decided."""
        before = self.output / f"reward-{number - 1}"
        made = folder / "pairs.jsonl"
        if not made.exists():
            folder.mkdir(parents=True, exist_ok=True)
            meter, worked = Meter(), time.process_time()
            judged = self._judged(number, meter)
            drawn = {"forwards": meter.examples, "tokens": meter.tokens, "cpu_seconds": time.process_time() - worked}
            write_durably(folder / _DRAWN, json.dumps(drawn).encode())
            part = made.with_suffix(".part")
            judged.to_json(part)
            part.replace(made)
        pairs = need("datasets", "preference rows").Dataset.from_json(str(made))
        found = self._fit(folder, pairs, before)
        if self.average:
            old, new = load_file(before / ADAPTER), load_file(folder / ADAPTER)
            mean = {name: self.average * old[name] + (1 - self.average) * tensor for name, tensor in new.items()}
            save_file(mean, folder / ADAPTER)
        return found | {"pairs": len(pairs), "drawn": json.loads((folder / _DRAWN).read_text())}

    def _judged(self, number: int, meter: Meter) -> Any:
        if self.judge is None:
            raise UsageError("a reward model that learns again needs a judge; give judge=")
        model, tokenizer = self.kind.load(self.base)
        policy = self.kind.adapted(model, self.output / f"policy-{number - 1}")
        rows = self._share(number - 1)[:]
        prompts = list(rows["prompt"])
        how = self.kind.temperature
        seeds = [named_seed(self.kind.seed, f"judged-{number}/{answer}") for answer in range(2)]
        with meter.watching(policy):
            drawn = [draw(policy, tokenizer, prompts, self.kind.tokens, temperature=how, seed=seed) for seed in seeds]
        first, second = ([tokenizer.decode(ids, skip_special_tokens=True) for _, ids in own] for own in drawn)
        score = self._reward(f"reward-{number - 1}")
        others = columns(rows)
        with meter.watching(score.model):
            scores = score(completions=first, **others)
        order = sorted(range(len(prompts)), key=lambda at: abs(scores[at]))
        kept = sorted(order[: max(1, math.ceil(self.doubtful * len(prompts)))])
        chosen = {name: [values[at] for at in kept] for name, values in others.items() if name != "prompts"}
        answers = [(first[at], second[at]) for at in kept]
        asked = [prompts[at] for at in kept]
        return pairs_of(asked, answers, self.judge(asked, answers, chosen))

    def _policy(self, folder: Path, number: int) -> dict[str, Any]:
        model, tokenizer = self.kind.load(self.base)
        reward = self.reward or self._reward(f"reward-{number}")
        method, start, begin = (self.first, None, None) if not number else (self.then, *self._guided(number))
        watched = {} if self.measure is None else {"reward_weights": [1.0, 0.0]}
        trainer = self._train(
            "rloo", folder, model, tokenizer, self._share(number), method, self.updates, start=start, begin=begin,
            reward_funcs=reward if self.measure is None else [reward, self.measure], more=watched,
        )  # fmt: skip
        return told(trainer)

    def _share(self, number: int) -> Any:
        """The prompts of a round."""
        return share(self.prompts.shuffle(seed=self.kind.seed), number, self.updates * self.kind.prompts)

    def _train(self, objective: str, folder: Path, *given: Any, more: Mapping[str, Any] = {}, **named: Any) -> Any:
        watch = None if self.progress is None else partial(self.progress, folder.name)
        kind = dataclasses.replace(self.kind.of(folder.name), args={**self.kind.args, **more})
        return kind.train(objective, folder, *given, watch=watch, **named)

    def _guided(self, number: int) -> tuple[Path, Callable[[Any], None]]:
        """(the adapter to start from, what gives a run mu and v)."""
        last = self.output / f"policy-{number - 1}"
        mu = difference(load_file(last / ADAPTER), load_file(last / START / ADAPTER))
        if not any(bool(tensor.any()) for tensor in mu.values()):
            raise UsageError(
                f"{last.name} moved nothing, so there is no update for {self.then[0]} to follow: its rewards were all "
                "alike, or its rate is too small; begin in another folder with another reward, method or rate"
            )
        v = None
        if self.reward is None:
            now, before = (self.output / f"reward-{n}" / ADAPTER for n in (number, number - 1))
            v = difference(load_file(now), load_file(before))

        def begin(run: Any) -> None:
            if "mu" in run.recipe.tags:
                guide(run, mu, v)

        return last, begin

    def _reward(self, name: str) -> Any:
        model, tokenizer = self.kind.load(self.base, head=1)
        return scored_by(self.kind.adapted(model, self.output / name), tokenizer)

    @property
    def base(self) -> str:
        """What policies and reward models are adapters of: the model, or what SFT made of it."""
        merged = self.output / "sft" / _MERGED
        return str(merged) if self.demonstrations is not None else self.model

    def _same_settings(self) -> None:
        """Stages of different settings are never mixed."""
        names = ("model", "rounds", "first", "then", "fit", "updates", "fits", "average", "doubtful")
        mine = {name: getattr(self, name) for name in names} | dataclasses.asdict(self.kind) | dict(self.named)
        mine = json.loads(json.dumps(mine, default=str)) | {"given": self.reward is not None}
        rows = {"prompts": self.prompts, "pairs": self.pairs, "demonstrations": self.demonstrations}
        mine |= {name: _fingerprint(given) for name, given in rows.items()}
        path = self.output / _SETTINGS
        if path.exists():
            then = json.loads(path.read_text())
            for name, value in mine.items():
                if then.get(name) != value and name != "rounds":
                    raise UsageError(f"{self.output} was begun with {name} = {then.get(name)!r}, not {value!r}")
        write_durably(path, (json.dumps(mine, indent=1) + "\n").encode())


def _kept(model: Any) -> float:
    """The share of an adapter's change that is left when it is merged and rounded: ⟨Δ̂, Δ⟩ / ⟨Δ, Δ⟩ over all layers for
    Δ = s·B A and Δ̂ = round(W + Δ) - W."""
    (adapter,) = model.active_adapters
    inner = square = 0.0
    for layer in (own for own in model.modules() if hasattr(own, "get_delta_weight")):
        delta, weight = layer.get_delta_weight(adapter).detach().float(), layer.get_base_layer().weight.detach()
        moved = (weight.float() + delta).to(weight.dtype).float() - weight.float()
        inner += float((moved.double() * delta.double()).sum())
        square += float(delta.double().square().sum())
    return inner / square if square else 1.0


def _fingerprint(rows: Any) -> str | None:
    """Of a data set's rows, all columns: a reward sees them too."""
    if rows is None:
        return None
    return hashlib.sha256(json.dumps(rows[:], sort_keys=True, default=str).encode()).hexdigest()
