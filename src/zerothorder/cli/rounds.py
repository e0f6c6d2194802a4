"""`zo rounds`: policy and reward model in rounds (ZOPrO), from prompts and reference answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zerothorder import catalogue
from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import table, terminal
from zerothorder.config import settings_of
from zerothorder.errors import UsageError
from zerothorder.integrations.refinement import Refinement

if TYPE_CHECKING:
    from zerothorder.integrations.adapters import Method
    from zerothorder.integrations.policies import Look

GROUPS: Mapping[str, Sequence[str]] = {
    "run": ("model", "output", "dtype", "seed"),
    "task": ("data", "prompt", "reference", "reward", "truth", "train_rows", "test_rows", "test_samples", "split"),
    "rounds": ("rounds", "updates", "fits", "first", "then", "fit", "sft", "average", "doubtful"),
    "update": ("prompts", "samples", "tokens", "temperature", "longest", "beta", "rank"),
    "printing": ("quiet", "json"),
}


@dataclass(frozen=True, kw_only=True)
class RoundsConfig(Refinement):
    """Train a policy's LoRA adapter by RLOO in rounds, each guided by what the last one and the reward model moved.

    OUTPUT/policy-0, policy-1, …: an adapter and its ledger each; also sft and reward-N where they are asked for. The
    same command goes on where it was stopped. A method is a recipe and its settings: --then zopro lr=1 eps=1.
    """

    output: Path
    """Folder of the run."""
    sft: bool = False
    """Begin with supervised fine-tuning on the references; what it leads to is the reference policy of all rounds."""
    first: tuple[str, ...] = ("adamw",)
    """Method of the first policy; of the paper, by backpropagation: spsa lr=… needs none."""
    then: tuple[str, ...] = ("zopro", "lr=1", "eps=1")
    """Method of the later policies."""
    fit: tuple[str, ...] = ("adamw",)
    """Method of SFT and of reward models; the same."""
    average: float = 0.0
    """Share of the old reward model that is kept each round."""
    doubtful: float = 0.6
    """Share of prompts, those scored nearest 0, whose answers are judged."""
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
        from zerothorder.integrations.policies import look

        kind = asked.kind(asked.seed)
        model, tokenizer = kind.load(asked.model)
        train = asked.rows(tokenizer, "train", asked.train_rows)
        test = asked.rows(tokenizer, asked.split, asked.test_rows) if asked.test_rows else None
        truth = asked.measured(kind)
        run = asked.in_rounds(
            asked.output, kind, methods, train, truth, demonstrated=asked.sft, average=asked.average,
            doubtful=asked.doubtful, say=out.note, progress=out.progress,
        )  # fmt: skip
        out.progress("starting", 1, 1)
        looks: dict[str, Any] = {"seed": asked.seed, "samples": asked.test_samples, "temperature": asked.temperature}
        before = None if test is None else look(model, tokenizer, test, truth, asked.tokens, **looks)
        del model
        try:
            last = run.run()
        except KeyboardInterrupt:
            out.note("stopped; the same command goes on")
            raise
        after = None
        if test is not None:
            policy = kind.adapted(kind.load(run.base)[0], last)
            after = look(policy, tokenizer, test, truth, asked.tokens, **looks)
        found = {"before": before and before.to_dict(), "after": after and after.to_dict()}
        shown = _shown(asked.split, before, after) if before and after else ()
        out.result({"output": str(asked.output), "policy": str(last), **found}, *shown, f"policy: {last}")
    return 0


def _checked(asked: RoundsConfig) -> list["Method"]:
    """The methods. UsageError for numbers that no run can have, a folder of something else, and an unknown method."""
    for name in ("rounds", "updates", "fits", "prompts", "tokens", "longest", "rank", "train_rows", "test_samples"):
        if getattr(asked, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(asked, name)}; it must be 1 or more")
    if not asked.temperature > 0:
        raise UsageError(f"--temperature is {asked.temperature:g}; completions are drawn, so it must be above 0")
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


def _shown(split: str, before: "Look", after: "Look") -> tuple[Any, ...]:
    """A table of numbers, and what was said to the first prompts."""
    rows = [
        ("reward", f"{before.reward:.3f} ± {before.spread:.3f}", f"{after.reward:.3f} ± {after.spread:.3f}"),
        ("KL from the reference, nats", f"{before.kl:.2f}", f"{after.kl:.2f}"),
        ("tokens of a completion", f"{before.length:.1f}", f"{after.length:.1f}"),
    ]
    said = zip(before.texts[:2], after.texts[:2], strict=True)
    texts = [f"{prompt.strip()}\n  before: {one.strip()}\n  after:  {two.strip()}" for (prompt, one), (_, two) in said]
    return table((split, "before", "after"), rows), "", *texts, ""
