"""Zeroth-order training: exact parts, and a run as a ledger of (key, scalar) pairs."""

__version__ = "0.1.0.dev0"
