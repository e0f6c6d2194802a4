"""`zo rounds`: policy and reward model in rounds (ZOPrO), from prompts and reference answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from zerothorder import catalogue
from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import Terminal, table, terminal
from zerothorder.config import settings_of
from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from zerothorder.integrations.adapters import Adapters, Method
    from zerothorder.integrations.answers import Asked
    from zerothorder.integrations.policies import Look, Reward
    from zerothorder.integrations.rounds import Rounds

FITTED = "fitted"
GROUPS: Mapping[str, Sequence[str]] = {
    "run": ("model", "output", "dtype", "seed"),
    "task": ("data", "prompt", "reference", "reward", "truth", "train_rows", "test_rows"),
    "rounds": ("rounds", "updates", "fits", "first", "then", "fit", "sft", "average", "doubtful"),
    "update": ("prompts", "samples", "tokens", "longest", "beta", "rank"),
    "printing": ("quiet", "json"),
}


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Train a policy's LoRA adapter by RLOO in rounds, each guided by what the last one and the reward model moved.

    OUTPUT/policy-0, policy-1, …: an adapter and its ledger each; also sft and reward-N where they are asked for. The
    same command goes on where it was stopped. A method is a recipe and its settings: --then zopro lr=10 eps=0.1.
    """

    model: str
    """A folder, a packaged model or a hub name."""
    data: str
    """Rows: a JSONL, CSV or Parquet file, a folder of splits, a shipped set, or a `datasets` name."""
    prompt: str
    """What the policy is given, columns in braces: '{text} In short:'."""
    reference: str
    """The answer to compare with, columns in braces: '{summary}'."""
    output: Path
    """Folder of the run."""
    reward: str = "rouge_l"
    """rouge_l, chrf, a reward model's folder, module:function; fitted: one of references against those of others."""
    truth: str = "rouge_l"
    """With --reward fitted: what is measured, and what judges the policy's answers between rounds."""
    sft: bool = False
    """Begin with supervised fine-tuning on the references; what it leads to is the reference policy of all rounds."""
    rounds: int = 2
    """How many policies, one after the other."""
    updates: int = 20
    """Updates of each policy."""
    fits: int = 20
    """Updates of SFT and of each reward model."""
    first: tuple[str, ...] = ("adamw",)
    """Method of the first policy; of the paper, by backpropagation: spsa lr=… needs none."""
    then: tuple[str, ...] = ("zopro",)
    """Method of the later policies."""
    fit: tuple[str, ...] = ("adamw",)
    """Method of SFT and of reward models; the same."""
    average: float = 0.0
    """Share of the old reward model that is kept each round."""
    doubtful: float = 0.6
    """Share of prompts, those scored nearest 0, whose answers are judged."""
    prompts: int = 8
    """Prompts an update."""
    samples: int = 2
    """Completions of each."""
    beta: float = 0.05
    """Weight of the KL divergence from the reference policy."""
    tokens: int = 16
    """New tokens of a completion, at most; it ends with its line."""
    longest: int = 48
    """Prompts of more tokens are left out."""
    rank: int = 16
    """Of LoRA on all linear layers; alpha is twice it."""
    train_rows: int = 480
    """Prompts to train on, at most."""
    test_rows: int = 128
    """Prompts of dev that are looked at before and after; 0 for none."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the base; the adapter is float32."""
    seed: int = 0
    """Of adapter, completions and directions."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress and tables."""


def main(words: Sequence[str]) -> int:
    """Train, then what the policy says before and after."""
    asked = parse(RoundsConfig, words, "zo rounds", groups=GROUPS, aliases={"output": ("-o",)})
    methods = _checked(asked)
    with terminal(quiet=asked.quiet, as_json=asked.json) as out:
        out.progress("starting", 0, 1)
        from zerothorder.integrations.adapters import Adapters, generating
        from zerothorder.integrations.answers import Answers
        from zerothorder.integrations.policies import look

        kind = Adapters(
            lora={"r": asked.rank, "lora_alpha": 2 * asked.rank, "target_modules": "all-linear"},
            args=generating(asked.prompts, asked.samples, asked.beta), dtype=asked.dtype, tokens=asked.tokens,
            seed=asked.seed,
        )  # fmt: skip
        task = Answers(asked.data, asked.prompt, asked.reference, asked.longest)
        model, tokenizer = kind.load(asked.model)
        train = task.rows(tokenizer, "train", asked.train_rows)
        test = task.rows(tokenizer, "dev", asked.test_rows) if asked.test_rows else None
        truth = _reward(asked.truth if asked.reward == FITTED else asked.reward, kind)
        run = _run(asked, kind, methods, train, truth, out)
        out.progress("starting", 1, 1)
        before = None if test is None else look(model, tokenizer, test, truth, asked.tokens)
        del model
        try:
            last = run.run()
        except KeyboardInterrupt:
            out.note("stopped; the same command goes on")
            raise
        after = None
        if test is not None:
            after = look(kind.adapted(kind.load(run.base)[0], last), tokenizer, test, truth, asked.tokens)
        found = {"before": before and before.to_dict(), "after": after and after.to_dict()}
        shown = _shown(before, after) if before and after else ()
        out.result({"output": str(asked.output), "policy": str(last), **found}, *shown, f"policy: {last}")
    return 0


def _checked(asked: RoundsConfig) -> list["Method"]:
    """The methods. UsageError for numbers that no run can have, a folder of something else, and an unknown method."""
    for name in ("rounds", "updates", "fits", "prompts", "tokens", "longest", "rank", "train_rows"):
        if getattr(asked, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(asked, name)}; it must be 1 or more")
    if asked.samples < 2:
        raise UsageError(f"--samples is {asked.samples}; RLOO compares completions of one prompt, so give 2 or more")
    if asked.output.exists() and any(asked.output.iterdir()) and not (asked.output / "rounds.json").exists():
        raise UsageError(f"the output folder {asked.output} is not empty and holds no run of rounds; choose another")
    methods: list[Method] = []
    for flag in ("first", "then", "fit"):
        name, *settings = getattr(asked, flag) or ("",)
        given = settings_of(SimpleNamespace(settings=settings), f"--{flag} {name}")
        catalogue.build(name, "lora", **given)
        methods.append((name, given))
    return methods


def _run(
    asked: RoundsConfig, kind: "Adapters", methods: Sequence["Method"], train: "Asked", truth: Any, out: Terminal
) -> "Rounds":
    from zerothorder.integrations import answers
    from zerothorder.integrations.policies import by_reward
    from zerothorder.integrations.rounds import Rounds

    first, then, fit = methods
    fitted = asked.reward == FITTED
    return Rounds(
        asked.output, asked.model, answers.prompts(train), reward=None if fitted else truth,
        pairs=answers.pairs(train) if fitted else None,
        demonstrations=answers.demonstrations(train) if asked.sft else None, judge=by_reward(truth) if fitted else None,
        rounds=asked.rounds, first=first, then=then, fit=fit, updates=asked.updates, fits=asked.fits,
        average=asked.average, doubtful=asked.doubtful, kind=kind, say=out.note, progress=out.progress,
    )  # fmt: skip


def _reward(name: str, kind: "Adapters") -> "Reward":
    from zerothorder.integrations.policies import scored_by
    from zerothorder.integrations.trl import reward_of

    found: Any = reward_of(name)
    return scored_by(*kind.load(found, head=1)) if isinstance(found, str) else found


def _shown(before: "Look", after: "Look") -> tuple[Any, ...]:
    """A table of numbers, and what was said to the first prompts."""
    rows = [
        ("reward", f"{before.reward:.3f} ± {before.spread:.3f}", f"{after.reward:.3f} ± {after.spread:.3f}"),
        ("KL from the reference, nats", f"{before.kl:.2f}", f"{after.kl:.2f}"),
        ("tokens of a completion", f"{before.length:.1f}", f"{after.length:.1f}"),
    ]
    said = zip(before.texts[:2], after.texts[:2], strict=True)
    texts = [f"{prompt.strip()}\n  before: {one.strip()}\n  after:  {two.strip()}" for (prompt, one), (_, two) in said]
    return table(("dev", "before", "after"), rows), "", *texts, ""
