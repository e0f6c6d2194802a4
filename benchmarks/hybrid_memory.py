"""Peak memory of a step by how many last blocks get a gradient: `python benchmarks/hybrid_memory.py hybrid 2`.

SmolLM2-135M in bfloat16, embedding left alone, 16 rows of 128 tokens, loss over all tokens. The first word is a recipe
(zo-sgd, hybrid, sgd), the second the hybrid's `last`; prints MiB above the peak of loading.
"""

import resource
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import rows

from zerothorder import catalogue
from zerothorder.data import load_model
from zerothorder.execution.swap import Swap
from zerothorder.objectives.language_model import LanguageModel
from zerothorder.run import Run
from zerothorder.space import ParameterSpace


def largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(name: str, last: str = "0") -> None:
    model = load_model("smollm2-135m", "bfloat16").model
    recipe = catalogue.build(name, lr=1e-6, **({"last": int(last)} if name == "hybrid" else {}))
    space = ParameterSpace.of(model, lambda name: "embed" not in name)
    run, batch, before = Run(model, space, recipe, LanguageModel(0), Swap(), steps=2), rows(16, 128, "lm"), largest()
    for _ in range(2):
        run.step(batch)
    print(f"{name} {last}: {(largest() - before) / 1024:.0f} MiB")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(*sys.argv[1:])
