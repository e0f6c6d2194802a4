"""Rewards of completions: by name, compared with a reference, and refused where nothing can be learned from them."""

import asyncio
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zerothorder.data.quiet import need, one_sentence
from zerothorder.errors import UsageError, nearest

Reward = Callable[..., Any]
"""(prompts=, completions=, and the other columns of the rows) → a number a completion, higher is better; a coroutine of
them where it is async."""


def reward_of(name: str) -> Any:
    """rouge_l or chrf against the rows' `reference`, or module:function, checked; or a folder with a reward model,
    which TRL loads by its name: what it gives is checked in the trainer."""
    if name in METRICS:
        return checked(METRICS[name](), Check(name))
    if (folder := Path(name).expanduser()).is_dir():
        _with_a_head(folder)
        return str(folder)
    module, _, function = name.partition(":")
    if not function:
        raise UsageError(f"there is no reward {name!r}{nearest(name, METRICS)}; give a folder or module:function")
    if str(Path.cwd()) not in sys.path:  # a console script looks elsewhere, and the user's file lies here
        sys.path.insert(0, str(Path.cwd()))
    try:
        return checked(getattr(importlib.import_module(module), function), Check(name))
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot import the reward {name!r} ({error}); give module:function") from error


def _with_a_head(folder: Path) -> None:
    """UsageError where transformers would draw a reward head at random."""
    if (folder / "adapter_config.json").exists():
        return  # which says nothing of its base's head
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"the reward {folder} holds no model ({error})") from error
    names = config.get("architectures") or ()
    if "auto_map" not in config and names and not any(name.endswith("ForSequenceClassification") for name in names):
        raise UsageError(
            f"the reward {folder} is {names[0]}, which has no head for scores; give the folder of a reward model "
            "(zo train --objective reward makes one)"
        )


class Check:
    """Refuses rewards in a sentence where they are no number; `heard` is given those of each generation."""

    def __init__(self, name: str, heard: Callable[[Sequence[float]], None] = lambda numbers: None) -> None:
        self.name, self.heard = name, heard

    def __call__(self, given: Iterable[Any], completions: Sequence[Any] | None = None) -> list[float | None]:
        """The rewards of a generation; None is kept: by TRL's word the reward says nothing of that completion."""
        try:
            found = [None if value is None else float(value) for value in given]
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the reward {self.name} gave what is no number ({error}); give one a completion"
            ) from error
        if completions is not None and len(found) != len(completions):
            raise UsageError(f"the reward {self.name} gave {len(found)} numbers for {len(completions)} completions")
        numbers = [value for value in found if value is not None]
        for number, value in enumerate(found):
            if value is not None and not math.isfinite(value):
                said = "" if completions is None else f": {completions[number]!r}"
                raise UsageError(
                    f"the reward {self.name} is {value} for completion {number}{said}; give a number, or None where it "
                    "says nothing of a completion"
                )
        self.heard(numbers)
        return found


def checked(reward: Reward, check: Check) -> Reward:
    """The reward, which may be an async function, behind a check. The `model` it has is that of what comes back."""

    def call(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        with _named(check.name, columns):
            given = reward(completions=completions, **columns)
        return check(given, completions)

    async def later(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        with _named(check.name, columns):
            given = await reward(completions=completions, **columns)
        return check(given, completions)

    awaits = any(inspect.iscoroutinefunction(own) for own in (reward, getattr(reward, "__call__", None)))  # noqa: B004
    found: Any = later if awaits else call
    found.__name__ = check.name.rpartition(":")[2]
    if hasattr(reward, "model"):
        found.model = reward.model
    return found


@contextmanager
def _named(name: str, columns: Iterable[str]) -> Generator[None]:
    """An error inside the user's reward is the user's to mend, and says which reward and what it was given."""
    try:
        yield
    except (UsageError, MemoryError):  # which have advice of their own
        raise
    except Exception as error:
        given = ", ".join(("completions", *sorted(columns)))
        said = f"{type(error).__name__}: {one_sentence(error)}"
        raise UsageError(f"the reward {name} failed ({said}); it was given {given}") from error


def values_of(reward: Reward, completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """What a reward gives outside of a trainer, a coroutine's result too; None where it says nothing."""
    found = reward(completions=completions, **columns)
    if inspect.iscoroutine(found):
        found = asyncio.run(found)
    return [None if value is None else float(value) for value in found]


def _rouge_l() -> Reward:
    scorer = need("rouge_score.rouge_scorer", "the reward rouge_l").RougeScorer(["rougeL"])

    def score(completions: Sequence[Any], reference: Sequence[str], **others: Any) -> list[float]:
        return [scorer.score(a, text(b))["rougeL"].fmeasure for a, b in zip(reference, completions, strict=True)]

    return score


def _chrf() -> Reward:
    chrf = need("sacrebleu", "the reward chrf").sentence_chrf

    def score(completions: Sequence[Any], reference: Sequence[str], **others: Any) -> list[float]:
        return [chrf(text(b), [a]).score / 100 for a, b in zip(reference, completions, strict=True)]

    return score


def text(completion: Any) -> str:
    """A completion as TRL gives it: a text, or the messages of a conversation."""
    return completion if isinstance(completion, str) else "".join(str(message["content"]) for message in completion)


METRICS: dict[str, Callable[[], Reward]] = {"rouge_l": _rouge_l, "chrf": _chrf}
"""Rewards that compare completions with the column `reference`."""
