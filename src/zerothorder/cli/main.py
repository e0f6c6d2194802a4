"""From the words of a command line to the command that they name. Commands are imported when they are called."""

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

from zerothorder import __version__
from zerothorder.cli.failures import MENDABLE, guarded

# Command → (module in cli, function that takes the remaining words and returns the exit code, what it does).
COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": ("train", "main", "fine-tune a language model without backpropagation"),
    "rounds": ("rounds", "main", "policy and reward model in rounds (ZOPrO), from prompts and reference answers"),
    "replay": ("replay", "main", "rebuild the fine-tuned model from base and ledger, bit for bit"),
    "eval": ("evaluate", "main", "accuracy, calibrated accuracy, AUC and loss of a model on held-out rows"),
    "baselines": ("baselines", "main", "what a task gives away without a model: commonest answer, shared words"),
    "ledger show": ("ledger", "show", "what is in a ledger: recipe, settings, entries"),
    "ledger verify": ("verify", "main", "is a ledger whole, of this base, and does it lead to the recorded weights?"),
    "ledger diff": ("ledger", "diff", "where two ledgers part"),
    "plan": ("plan", "main", "memory and time of a run, before anything is loaded"),
    "interplay": ("interplay", "main", "how the weights of runs move, and against each other: an interactive page"),
    "bench": ("bench", "main", "methods × tasks × seeds of a suite file, side by side"),
    "recipes": ("recipes", "main", "the catalogue of methods, with papers and settings"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. 0: done; 2: a mistake the user can mend; 1: a defect; 130: stopped by Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("ZO_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    if words and words[0] in ("--version", "-V"):
        print(f"zo {__version__}")
        return 0
    found = _command(words)
    if found is None:
        return _usage(words)
    name, rest = found

    def run() -> int:
        try:
            return _load(name)(rest)
        except SystemExit as stop:  # help was asked for
            return stop.code if isinstance(stop.code, int) else MENDABLE if stop.code else 0

    return guarded(run, debug)


def _known() -> dict[str, tuple[str, str, str]]:
    return {n: row for n, row in COMMANDS.items() if importlib.util.find_spec(f"zerothorder.cli.{row[0]}")}


def _command(words: Sequence[str]) -> tuple[str, list[str]] | None:
    known = _known()
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in known:
            return name, list(words[length:])
    return None


def _load(name: str) -> Callable[[Sequence[str]], int]:
    module, function, _ = COMMANDS[name]
    return getattr(importlib.import_module(f"zerothorder.cli.{module}"), function)


def _usage(words: Sequence[str]) -> int:
    """The list of commands; on stderr with a sentence where a command was meant that does not exist."""
    asked = [word for word in words if not word.startswith("-")]
    known = _known()
    if asked and asked != ["ledger"]:
        within = [name for name in known if name.startswith(f"{asked[0]} ")]
        if within:
            tries = (" ".join(asked[:2]),)
            others = ", ".join(f"`zo {name}`" for name in within)
        else:
            tries, others = (" ".join(asked[:2]), asked[0]), "`zo --help` lists the commands"
        close = [
            name
            for word in tries
            for name in difflib.get_close_matches(word, within or known, 1, 0.75 if within else 0.6)
        ]
        hint = f"did you mean `zo {close[0]}`?" if close else f"there are {others}" if within else others
        print(f"zo: unknown command {tries[0] if within else asked[0]!r}; {hint}", file=sys.stderr)
        return MENDABLE
    wanted = not words or words[0] in ("-h", "--help") or words[-1] in ("-h", "--help")
    lines = ["usage: zo COMMAND [OPTIONS]      zo COMMAND --help", ""]
    lines += [f"  {name:<15}{row[2]}" for name, row in known.items() if not asked or name.startswith("ledger")]
    lines += ["", "  --version      the version", "  --debug        (or ZO_DEBUG=1) tracebacks of what fails"]
    print("\n".join(lines), file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted and words else MENDABLE
