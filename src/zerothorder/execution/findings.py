"""What the check before the first step found, and how to say it: one sentence a finding, names by pattern."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What the check found. `owners` goes to the executor: `Swap(report.owners)`.

    owners: sites that are read outside the module that registers them → the nearest called ancestor that covers the
        reading, "" for the whole evaluation.
    dead: sites whose perturbation changes nothing, alone or with all others.
    dormant: sites that change nothing alone but do with all others (lora_A while lora_B is zero).
    noisy: the objective differs between two looks at the same weights; nothing else could be found out.
    """

    sites: int
    evaluations: int = 0
    owners: Mapping[str, str] = field(default_factory=dict[str, str])
    dead: tuple[str, ...] = ()
    dormant: tuple[str, ...] = ()
    noisy: bool = False

    def sentences(self) -> list[str]:
        """One sentence a finding, none where all is as expected."""
        found: list[str] = []
        if self.noisy:
            found.append(
                "the objective gives other values at the same weights, key and batch, so the executor could not be "
                "checked; let it draw from torch's, numpy's or Python's global generator, which are seeded for it"
            )
        by_owner: dict[str, list[str]] = {}
        for name, owner in self.owners.items():
            place = f"while {_pattern(owner)} runs" if owner else "for the whole evaluation"
            by_owner.setdefault(place, []).append(name)
        for place, names in by_owner.items():
            verb = "is" if len(names) == 1 else "are"
            found.append(
                f"{_count(names)} {verb} read outside the module that holds the weights, so {verb} exchanged "
                f"{place}: {patterns(names)}"
            )
        if self.dead:
            found.append(
                f"{_count(self.dead)} change{_s(self.dead)} nothing on this batch, so training would move "
                f"{'it' if len(self.dead) == 1 else 'them'} without effect: {patterns(self.dead)}; freeze what the "
                "objective does not use"
            )
        if self.dormant:
            lora = all("lora_" in name for name in self.dormant)
            found.append(
                f"{_count(self.dormant)} change{_s(self.dormant)} nothing alone, only together with others: "
                f"{patterns(self.dormant)}{' (expected of lora_A while lora_B is zero)' if lora else ''}"
            )
        return found


def _pattern(name: str) -> str:
    """A name with its numbers as stars, so that layers fall together."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def patterns(names: Sequence[str], most: int = 4) -> str:
    """The distinct patterns of these names, the first few spelled out."""
    counted = dict.fromkeys(map(_pattern, names))
    rest = len(counted) - most
    return ", ".join([*counted][:most]) + (f" and {rest} more patterns" if rest > 0 else "")


def _count(names: Sequence[str]) -> str:
    return "1 site" if len(names) == 1 else f"{len(names)} sites"


def _s(names: Sequence[str]) -> str:
    return "s" if len(names) == 1 else ""
