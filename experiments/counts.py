"""Of a suite's zeroth-order runs: how many end above their best look at dev, and how many below equal guesses."""

import json
import sys
from collections import Counter
from pathlib import Path

from zerothorder.data.baselines import equal_guesses

FIRST_ORDER = ("sgd", "adamw")
APART = 0.02  # nats


def main(folder: Path) -> None:
    """A line a scheme, and a line a scheme and task."""
    runs, above, below = Counter[str](), Counter[str](), Counter[str]()
    for path in sorted(folder.glob("*/*/seed-*/result.json")):
        run, task, (recipe, _, scheme) = json.loads(path.read_text()), path.parts[-4], path.parts[-3].partition("+")
        if recipe in FIRST_ORDER:
            continue
        looks = [look["loss"] for look in run["curve"]]
        guess = equal_guesses(run["settings"]["data"]) or 0.0
        for group in (scheme, f"{scheme}, {task}"):
            runs[group] += 1
            above[group] += looks[-1] > min(looks) + APART
            below[group] += run["test"]["loss"] < guess
    for group in sorted(runs):
        print(f"{group}: {above[group]} of {runs[group]} end above their best look, {below[group]} below equal guesses")


main(Path(sys.argv[1]))
