"""A policy refined on a text task: the settings that `zo rounds` and the cells of a bench share, and what they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from zerothorder.integrations.adapters import Adapters, Method
    from zerothorder.integrations.answers import Asked
    from zerothorder.integrations.rewards import Reward
    from zerothorder.integrations.rounds import Rounds

FITTED = "fitted"


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What is refined, towards what, and how much an update sees."""

    model: str
    """A folder, a packaged model or a hub name."""
    data: str
    """Rows: a JSONL, CSV or Parquet file, a folder of splits, a shipped set, or a `datasets` name."""
    prompt: str
    """What the policy is given, columns in braces: '{text} In short:'."""
    reference: str
    """The answer to compare with, columns in braces: '{summary}'."""
    reward: str = "rouge_l"
    """rouge_l, chrf, a reward model's folder, module:function; fitted: one of references against those of others."""
    truth: str = "rouge_l"
    """With --reward fitted: what is measured, and what judges the policy's answers between rounds."""
    rounds: int = 2
    """How many policies, one after the other."""
    updates: int = 20
    """Updates of each policy."""
    fits: int = 20
    """Updates of SFT and of each reward model."""
    prompts: int = 8
    """Prompts an update."""
    samples: int = 2
    """Completions of each."""
    beta: float = 0.05
    """Weight of the KL divergence from the reference policy."""
    tokens: int = 16
    """New tokens of a completion, at most; it ends with its line."""
    temperature: float = 0.7
    """Of the softmax that completions are drawn from, and of their probabilities in training."""
    longest: int = 48
    """Prompts of more tokens are left out."""
    rank: int = 16
    """Of LoRA on all linear layers; alpha is twice it."""
    train_rows: int = 480
    """Prompts to train on, at most."""
    test_rows: int = 128
    """Prompts that are looked at before and after; 0 for none."""
    test_samples: int = 4
    """Completions of each that are looked at."""
    split: Literal["dev", "test"] = "dev"
    """Of which split they are: dev while settings are tried, test once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the base; the adapter is float32."""

    def kind(self, seed: int) -> "Adapters":
        """What the stages share."""
        from zerothorder.integrations.adapters import Adapters, generating

        lora = {"r": self.rank, "lora_alpha": 2 * self.rank, "target_modules": "all-linear"}
        args = generating(self.prompts, self.samples, self.beta)
        return Adapters(
            lora=lora, args=args, dtype=self.dtype, tokens=self.tokens, temperature=self.temperature, seed=seed
        )

    def rows(self, tokenizer: Any, split: str, count: int) -> "Asked":
        """Prompts and references of a split. UsageError where no prompt is short enough."""
        from zerothorder.integrations.answers import Answers

        return Answers(self.data, self.prompt, self.reference, self.longest).rows(tokenizer, split, count)

    def measured(self, kind: "Adapters") -> "Reward":
        """What is measured of completions: the reward, or `truth` where the reward is fitted."""
        from zerothorder.integrations.policies import scored_by
        from zerothorder.integrations.rewards import reward_of

        found: Any = reward_of(self.truth if self.reward == FITTED else self.reward)
        return scored_by(*kind.load(found, head=1)) if isinstance(found, str) else found

    def in_rounds(
        self, folder: Path, kind: "Adapters", methods: Sequence["Method"], train: "Asked", truth: "Reward", *,
        demonstrated: bool = False, **named: Any,
    ) -> "Rounds":  # fmt: skip
        """The rounds, by the methods (first, then, fit); `demonstrated`: they begin with SFT on the references."""
        from zerothorder.integrations import answers
        from zerothorder.integrations.policies import by_reward
        from zerothorder.integrations.rounds import Rounds

        first, then, fit = methods
        given: dict[str, Any] = {"reward": truth, "named": {"reward": self.reward}}
        if self.reward == FITTED:
            names = {"reward": self.reward, "judge": self.truth}
            given = {"pairs": answers.pairs(train), "judge": by_reward(truth), "measure": truth, "named": names}
        return Rounds(
            folder, self.model, answers.prompts(train), **given,
            demonstrations=answers.demonstrations(train) if demonstrated else None, rounds=self.rounds, first=first,
            then=then, fit=fit, updates=self.updates, fits=self.fits, kind=kind, **named,
        )  # fmt: skip
