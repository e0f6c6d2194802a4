"""The `zo` command."""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from zerothorder.config import TrainConfig
from zerothorder.errors import UsageError


class _Plain:
    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def row(self, row: Mapping[str, Any]) -> None:
        if row["kind"] != "step" or row["step"] % 20 == 0:
            print({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for a mistake the user can mend."""
    command = tyro.extras.SubcommandApp()

    @command.command(name="train")
    def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
        from zerothorder.training import train as go

        go(config, _Plain())

    try:
        command.cli(args=None if arguments is None else list(arguments))
    except UsageError as error:
        print(f"zo: {error}", file=sys.stderr)
        return 2
    return 0
