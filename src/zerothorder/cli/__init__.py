"""The `zo` command: fine-tune, replay, measure and look into runs."""

from zerothorder.cli.main import main

__all__ = ["main"]
