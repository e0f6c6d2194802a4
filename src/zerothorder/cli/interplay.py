"""`zo interplay RUN …`: how the weights of runs move, and against each other."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import table, terminal
from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from zerothorder.interplay.paths import Track


@dataclass(frozen=True, kw_only=True)
class Interplay:
    """Cosines, angles and paths of the updates of one run, or of several over the same tensors, in weight space.

    A run is the folder that `zo train` wrote, whose ledger is replayed, one with the checkpoints of a trainer
    (`checkpoint-N`), zeroth-order or first-order, or one of `zo rounds`, whose policy and reward model are drawn round
    by round. Two runs are a policy and its reward model, or two methods.
    """

    runs: tuple[Path, ...]
    """Folders of runs."""
    output: Path = Path("interplay.html")
    """The page to write."""
    start: Path | None = None
    """For checkpoints: a folder with the weights before the first step, the same for all runs."""
    base: str | None = None
    """For ledgers: the model they start from; by default the one in the run's config.json."""
    pieces: int = 20
    """A ledger's run is cut into this many updates."""
    maps: tuple[str, ...] = ("pca",)
    """Pictures of the paths: pca, and tsne or umap (extra `interplay`), which keep neighbours and not distances."""
    report: bool = False
    """Draw cosines and paths in the report.html of each run too; what it draws stays in RUN/interplay.json."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress and tables."""


def main(words: Sequence[str]) -> int:
    """Read the runs, print a table, write the page."""
    asked = parse(Interplay, words, "zo interplay", positional=("runs",), aliases={"output": ("-o",)})
    if asked.pieces < 1:
        raise UsageError(f"--pieces is {asked.pieces}; it must be 1 or more")
    with terminal(quiet=asked.quiet, as_json=asked.json) as out:
        out.progress("starting", 0, 1)
        from zerothorder.interplay.look import look
        from zerothorder.interplay.maps import check_maps
        from zerothorder.interplay.page import table as drawn
        from zerothorder.interplay.page import write_page, write_values

        out.progress("starting", 1, 1)
        check_maps(asked.maps)
        names = _named(asked.runs)
        tracks = [track for run in asked.runs for track in _tracks(run, names[run], asked)]
        found = look(tracks, lambda done, total: out.progress("reading tensors", done, total))
        page = write_page(found, asked.output, asked.maps)
        reports: list[Path] = []
        if asked.report:
            from zerothorder.report import write_report

            for run in asked.runs:
                write_values(found, run)
                reports.append(write_report(run))
        whole = drawn(found)["tensors"][0]
        told = [(run, whole["successive"][run]) for run in found.paths]
        told += [(f"{pair['first']} and {pair['second']}", pair["together"]) for pair in whole["pairs"]]
        rows = [(name, f"{len(values)}", *_mean(values, whole["chance"])) for name, values in told]
        head = ("", "cosines k", "mean", "chance, 2/√kn")
        title = "each update and the one before it" + ("; the updates of two runs" if len(tracks) > 1 else "")
        shown = table(head, rows, title=title)
        made = "\n".join(map(str, (page, *reports)))
        out.result({"page": str(page), "reports": [*map(str, reports)], "all": whole}, shown, f"\n{made}")
    return 0


def _mean(values: Sequence[float | None], chance: float) -> tuple[str, str]:
    """The mean, and within what it lies when directions are independent."""
    known = [value for value in values if value is not None]
    return (f"{sum(known) / len(known):+.3f}", f"{2 * chance / len(known) ** 0.5:.2g}") if known else ("–", "–")


def _named(runs: Sequence[Path]) -> dict[Path, str]:
    """As much of each path, from its end, as tells it from the others."""
    whole = {run: run.resolve() for run in runs}
    longest = max((len(path.parts) for path in whole.values()), default=0)
    for depth in range(1, longest + 1):
        names = {run: "/".join(path.parts[-depth:]) for run, path in whole.items()}
        if len(set(names.values())) == len(runs):
            return names
    raise UsageError("a run is named twice; name each once")


def _tracks(run: Path, name: str, asked: Interplay) -> list["Track"]:
    """One for a run; policy and reward model of one of rounds."""
    from zerothorder.interplay.paths import Checkpoints, Replayed
    from zerothorder.replay import replayable

    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; name the folder of a run")
    if (run / "rounds.json").exists():
        found = Checkpoints.of_rounds(run)
        several = len(asked.runs) > 1
        return [dataclasses.replace(own, name=f"{name} {own.name}" if several else own.name) for own in found]
    base = asked.base or _base(run)
    ledger = run / "ledger.zo"
    # the ledger has every step, but of a first-order run only the checkpoints can be read
    known = base is not None and ledger.exists() and replayable(ledger)
    if any(run.glob("checkpoint-*")) and not known:
        try:
            return [dataclasses.replace(Checkpoints.of(run, asked.start), name=name)]
        except UsageError as error:
            if (run / "ledger.zo").exists():
                raise UsageError(
                    f"{error}; or give the model it began from with --base, to replay its ledger"
                ) from error
            raise
    if not (run / "ledger.zo").exists():
        raise UsageError(
            f"{run} holds neither ledger.zo nor checkpoint-N folders, nor rounds; name the folder of a run"
        )
    if base is None:
        raise UsageError(f"{run} has no config.json that names its base; give it with --base")
    from zerothorder.cli.base import load_base
    from zerothorder.ledger.reader import read

    contents = read(run / "ledger.zo")
    model = load_base(base, contents, None, "cpu", False).model
    return [Replayed.of(name, model, run / "ledger.zo", asked.pieces)]


def _base(run: Path) -> str | None:
    """The model that the run's config names; None where there is none, or one of another library's (a model saved by a
    trainer lies beside its own)."""
    from zerothorder.saved import is_config, load_config

    path = run / "config.json"
    return load_config(path).model if path.exists() and is_config(path) else None
