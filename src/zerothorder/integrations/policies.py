"""What a policy says: completions drawn from it, what a reward thinks of them, how far it is from its reference."""

import dataclasses
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from zerothorder.data.quiet import need
from zerothorder.errors import UsageError
from zerothorder.integrations.rewards import Check, Reward, values_of
from zerothorder.key import named_seed
from zerothorder.objectives.head import packed_head_input
from zerothorder.objectives.sequences import answer_nll, device_of

Judge = Callable[[Sequence[str], Sequence[tuple[str, str]], Mapping[str, Sequence[Any]]], Sequence[int]]
"""(prompts, two completions of each, the other columns) → 0 or 1, the better one; -1 for neither."""


@dataclass(frozen=True)
class Look:
    """A policy on some prompts. `spread`: standard error of the reward, over prompts; `kl`: mean of Σ_t log p(y_t) -
    log p_reference(y_t) at temperature 1 over drawn y, nats a completion; `length` in tokens; `texts`: some of (prompt,
    completion); `metrics`: what else was asked of the same completions, means over prompts, by name."""

    reward: float
    spread: float
    kl: float
    length: float
    texts: tuple[tuple[str, str], ...]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def draw(
    model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int, *, temperature: float = 1.0, seed: int = 0,
    rows: int = 32,
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:  # fmt: skip
    """(prompt, completion) as token ids, at most `tokens` new ones each, an end token included. The global generator is
    left as found."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or ())
    with torch.random.fork_rng(devices=[]), torch.inference_mode(), packed_head_input(model):
        torch.manual_seed(seed)
        for at in range(0, len(prompts), rows):
            texts = list(prompts[at : at + rows])
            batch = _read(model, tokenizer, texts, padding_side="left")
            out = model.generate(
                **batch, max_new_tokens=tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            width = batch["input_ids"].shape[1]
            for row, mask in zip(out.tolist(), batch["attention_mask"], strict=True):
                end = next((i + 1 for i, token in enumerate(row[width:]) if token in stops), tokens)
                found.append((tuple(row[width - int(mask.sum()) : width]), tuple(row[width : width + end])))
    return found


def _read(model: Any, tokenizer: Any, texts: Sequence[str], **how: Any) -> dict[str, Any]:
    """Ids and mask; what else a tokenizer gives (segments), a causal model may refuse."""
    found = tokenizer(list(texts), return_tensors="pt", padding=True, **how).to(device_of(model))
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def look(
    model: Any, tokenizer: Any, rows: Mapping[str, Sequence[Any]], reward: Reward, tokens: int, *, seed: int = 0,
    samples: int = 1, temperature: float = 1.0, shown: int = 5, metrics: Mapping[str, Reward] | None = None,
) -> Look:  # fmt: skip
    """`samples` completions a prompt, KL and texts of the first ones. Reference: the model without its adapter (none:
    `kl` is 0)."""
    prompts = list(rows["prompt"])
    was = model.training
    model.eval()
    try:
        seeds = [named_seed(seed, f"look-{again}") for again in range(samples)]
        said = [draw(model, tokenizer, prompts, tokens, temperature=temperature, seed=own) for own in seeds]
        texts = [[tokenizer.decode(ids, skip_special_tokens=True) for _, ids in drawn] for drawn in said]
        values, drawn = _of_prompts(reward, texts, rows), said[0]
        without, kl = getattr(model, "disable_adapter", None), torch.zeros(1)
        if without is not None:
            kl = _log_probability(model, tokenizer, drawn)
            with without():
                kl = kl - _log_probability(model, tokenizer, drawn)
    finally:
        model.train(was)
    return Look(
        statistics.fmean(values),
        statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0,
        float(kl.mean()),
        statistics.fmean(len(ids) for drawn in said for _, ids in drawn),
        tuple(zip(prompts[:shown], texts[0][:shown], strict=True)),
        {name: statistics.fmean(_of_prompts(own, texts, rows)) for name, own in (metrics or {}).items()},
    )


def _of_prompts(reward: Reward, texts: Sequence[Sequence[str]], rows: Mapping[str, Sequence[Any]]) -> list[float]:
    """A prompt's mean over its completions, without those of which the reward says nothing. UsageError where that are
    all."""
    scores = [values_of(reward, own, **columns(rows)) for own in texts]
    heard = [[value for value in own if value is not None] for own in zip(*scores, strict=True)]
    values = [statistics.fmean(own) for own in heard if own]
    if not values:
        raise UsageError(f"the reward said nothing of any completion of {len(heard)} prompts; give another")
    return values


def columns(rows: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns as a reward is given them: prompts by TRL's name."""
    return {"prompts" if name == "prompt" else name: values for name, values in rows.items()}


def _log_probability(model: Any, tokenizer: Any, drawn: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Any:
    parts: list[torch.Tensor] = []
    with torch.inference_mode():
        for at in range(0, len(drawn), 16):
            piece = drawn[at : at + 16]
            parts.append(-answer_nll(model, [p for p, _ in piece], [c for _, c in piece], tokenizer.pad_token_id))
    return torch.cat(parts)


def scored_by(model: Any, tokenizer: Any, rows: int = 16) -> Reward:
    """A reward model's score of prompt + completion, read after the last token. The function's `model` is that model:
    who counts forwards finds it there."""

    def reward_model(prompts: Sequence[str], completions: Sequence[str], **others: Any) -> list[float]:
        found: list[float] = []
        was = model.training
        model.eval()
        try:
            with torch.inference_mode():
                for at in range(0, len(prompts), rows):
                    pairs = zip(prompts[at : at + rows], completions[at : at + rows], strict=True)
                    texts = [prompt + completion + (tokenizer.eos_token or "") for prompt, completion in pairs]
                    batch = _read(model, tokenizer, texts)
                    found += model(**batch).logits[:, 0].float().tolist()
            Check("model")(found, completions)
        finally:
            model.train(was)
        return found

    reward_model.model = model  # type: ignore[attr-defined]
    return reward_model


def by_reward(reward: Reward) -> Judge:
    """The completion with the higher reward is the better one, none where the reward says nothing of one: for tasks
    whose truth can be computed."""

    def judge(
        prompts: Sequence[str], pairs: Sequence[tuple[str, str]], others: Mapping[str, Sequence[Any]]
    ) -> list[int]:
        first, second = (values_of(reward, [own[at] for own in pairs], prompts=prompts, **others) for at in (0, 1))
        return [-1 if a is None or b is None or a == b else int(b > a) for a, b in zip(first, second, strict=True)]

    return judge


_ASKED = """Two answers to the same request. Which one is better?

Request: {prompt}

Answer A: {a}

Answer B: {b}

The better answer is Answer"""


def by_model(model: Any, tokenizer: Any, seed: int = 0) -> Judge:
    """A language model's verdict of one token, A or B, shown in random order."""
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][-1] for letter in "AB"]
    if letters[0] == letters[1]:
        raise UsageError("this tokenizer has no tokens of their own for the letters A and B; take another judge")

    def judge(
        prompts: Sequence[str], pairs: Sequence[tuple[str, str]], others: Mapping[str, Sequence[Any]]
    ) -> list[int]:
        order, verdicts = random.Random(seed), list[int]()
        with torch.inference_mode():
            for prompt, (first, second) in zip(prompts, pairs, strict=True):
                turned = order.random() < 0.5
                a, b = (second, first) if turned else (first, second)
                text = _ASKED.format(prompt=prompt, a=a.strip(), b=b.strip())
                batch = _read(model, tokenizer, [text])
                scores = model(**batch).logits[0, -1, letters]
                verdicts.append(int(bool(scores[1] > scores[0])) ^ int(turned))
        return verdicts

    return judge


def pairs_of(prompts: Sequence[str], answers: Sequence[tuple[str, str]], verdicts: Sequence[int]) -> Any:
    """TRL's preference rows of what a judge decided; prompts without a decision are left out."""
    made = [
        {"prompt": prompt, "chosen": pair[verdict], "rejected": pair[1 - verdict]}
        for prompt, pair, verdict in zip(prompts, answers, verdicts, strict=True)
        if verdict in (0, 1) and pair[0] != pair[1]
    ]
    if not made:
        raise UsageError(
            f"the judge preferred no answer to another in {len(prompts)} prompts; there is nothing to fit a reward "
            "model to: give it other prompts, or another judge"
        )
    return need("datasets", "preference rows").Dataset.from_list(made)
