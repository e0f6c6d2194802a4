"""Run as a script in a process of its own: peak resident memory of a few steps, above the process after its imports.

Arguments: model, dtype, kind ("classification", "lm" or "head"), rows, tokens, recipe, executor.
The last line of its output is JSON with `peak` (loading and steps) and `steps` (steps alone), in bytes.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import zerothorder.grids.cpu
import zerothorder.training
from zerothorder import catalogue
from zerothorder.data import load_model
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.objectives.classification import Classification
from zerothorder.objectives.language_model import LanguageModel
from zerothorder.plan.source import find
from zerothorder.point import Values
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

KINDS = {"swap": Swap, "copy": Copy, "batched": Batched}


def status(name: str) -> int:
    """VmHWM is the peak of this process alone: ru_maxrss would go on from the parent's."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1]) * 1024


@dataclass(frozen=True)
class Row:
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    label: int = 0
    references: tuple[str, ...] = ()


class Head:
    """Cross-entropy of a classification head."""

    def prepare(self, model, batch, key):
        return torch.tensor([row.prompt for row in batch])

    def count(self, ids):
        return len(ids)

    def select(self, ids, rows):
        return ids[list(rows)]

    def evaluate(self, model, ids):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        return Values.of(
            torch.nn.functional.cross_entropy(logits, torch.zeros(len(ids), dtype=torch.int64), reduction="none")
        )


def main() -> None:
    name, dtype, kind, rows, tokens, law, executor = sys.argv[1:]
    torch.set_num_threads(1)
    source = find(name, 2 if kind == "head" else None, False)
    source.auto._model_mapping[type(source.config)]  # the architecture's module is an import too
    _ = transformers.AutoTokenizer, zerothorder.training.train, zerothorder.grids.cpu  # imported, as by a run
    base = status("VmRSS")
    loaded = load_model(
        name, dtype, objective="lm" if kind == "lm" else "classification", head=2 if kind == "head" else None
    )
    loading = status("VmHWM") - base
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    generator = torch.Generator().manual_seed(0)

    def row() -> Row:
        ids = tuple(torch.randint(5, 200, (int(tokens),), generator=generator).tolist())
        return Row((), (ids,)) if kind == "lm" else Row(ids, ((7,), (9,)))

    objective = {"lm": LanguageModel(0), "classification": Classification(0), "head": Head()}[kind]
    recipe = catalogue.build(law)
    space = ParameterSpace.of(loaded.model)
    run = Run(loaded.model, space, recipe, objective, KINDS[executor](), steps=3)
    for _ in range(3):
        run.step([row() for _ in range(int(rows))])
    steps = status("VmHWM") - base
    print(json.dumps({"peak": max(loading, steps), "loading": loading, "steps": steps}))


if __name__ == "__main__":
    main()
