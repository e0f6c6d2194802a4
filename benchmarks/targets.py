"""What is aimed at: each target's cases, what was measured of them, and the floor below which nothing gets."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.common import FAMILIES, Measured, against

Result = Mapping[str, Any]

ABOUT = {
    "R1": "A whole training step ÷ two forwards, float32",
    "R1b": "A whole training step ÷ two forwards, bfloat16",
    "R2": "Tokens a second of training with 16 points a step ÷ of inference at its fastest batch size",
    "R3": "Memory beyond inference ÷ bytes of the weights, residual byte left out",
    "R4": "A perturbation pass ÷ an `add_` pass",
    "R7": "Replayed ÷ trained steps a second, 1,000 steps",
    "R8": "An entry of 256 terms ÷ 256 × an entry of one",
}


@dataclass(frozen=True)
class Target:
    """One case of a target: read from the result `source`. A `goal` of None is the case's floor.

    `floor`: what could not be passed, as measured in the same process; `bound`: what it is made of, in a sentence.
    """

    id: str
    case: str
    source: str
    measured: Callable[[Result], Measured]
    floor: Callable[[Result], float]
    bound: Callable[[Result], str]
    goal: float | Callable[[Result], float] | None
    words: str
    at_least: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target beside its result. Without the result, or where it lacks what is asked, everything is None."""

    target: Target
    measured: Measured | None = None
    goal: float | None = None
    floor: float | None = None
    bound: str | None = None

    @property
    def reached(self) -> bool | None:
        """By the median; None where nothing was measured, or where the floor is the goal."""
        if self.measured is None or self.goal is None:
            return None
        return self.measured.median >= self.goal if self.target.at_least else self.measured.median <= self.goal


def verdicts(results: Mapping[str, Result]) -> list[Verdict]:
    """Every target, in order."""
    return [_verdict(target, results.get(target.source)) for target in targets()]


def _verdict(target: Target, result: Result | None) -> Verdict:
    def had(read: Any) -> Any:
        try:
            return read(result) if callable(read) else read
        except KeyError:  # a result from before this was measured
            return None

    if result is None or (measured := had(target.measured)) is None:
        return Verdict(target)
    return Verdict(target, measured, had(target.goal), had(target.floor), had(target.bound))


def targets() -> Iterator[Target]:
    """All cases of all targets."""
    for id_, dtype in (("R1", "float32"), ("R1b", "bfloat16")):
        yield from _steps(id_, dtype)
    for dtype, goal in (("float32", 0.9), ("bfloat16", 0.8)):
        yield Target(
            "R2", f"low-rank, {dtype}", f"population-{dtype}-low-rank", share, _share_floor, _share_bound,
            goal, f"≥ {goal:.2f}", at_least=True,
        )  # fmt: skip
    for dtype in ("float32", "bfloat16"):
        for method, name, goal, words in (
            ("low-rank", "low-rank, Batched", 0.02, "≤ 0.02"),
            ("low-rank-unchecked", "low-rank, Batched without its check", 0.02, "≤ 0.02"),
            ("spsa", "spsa, Batched", _largest_module, "≤ the largest module"),
            ("mezo", "mezo, Batched", _largest_module, "≤ the largest module"),
            ("", "spsa, Swap", _largest_module, "≤ the largest module"),
        ):
            source = f"memory-{dtype}" + (f"-{method}" if method else "")
            yield Target("R3", f"{name}, {dtype}", source, resident, tracked, _memory_bound, goal, words)
    for dtype in ("float32", "bfloat16"):
        for law, goal in (("rademacher", 1.5), ("gaussian", 2.5)):
            yield Target(
                "R4", f"{law}, {dtype}", f"pass-{dtype}",
                lambda r, n=law: against(r["seconds"], f"perturb_{n}", "add_"),
                lambda r, n=law: _pass_floor(r, n), lambda r, n=law: _pass_bound(r, n), goal, f"≤ {goal:.1f}",
            )  # fmt: skip
    for dtype in ("float32", "bfloat16"):
        for method in ("low-rank", "spsa"):
            yield Target(
                "R7", f"{method}, {dtype}", f"replay-{dtype}-{method}", replayed, _replay_floor, _replay_bound,
                20.0, "≥ 20", at_least=True,
            )  # fmt: skip
    for dtype in ("float32", "bfloat16"):
        for method, goal in (("low-rank", 0.05), ("spsa", 0.5), ("mezo", 0.5)):
            yield Target(
                "R8", f"{method}, {dtype}", f"keys-{dtype}-{method}", terms, lambda r: r["floor"], _terms_bound,
                goal, f"≤ {goal:.2f}",
            )  # fmt: skip


def _steps(id_: str, dtype: str) -> Iterator[Target]:
    low, dense = (1.0, 1.15) if id_ == "R1" else (1.1, 1.3)
    places = [
        (f"{count}×64, {FAMILIES[family]}", f"step-{dtype}-{count}x64-{family}", count)
        for family in FAMILIES
        for count in (1, 4, 16)
    ]
    places.insert(3, (f"4×64, {FAMILIES['smollm2']}, loss over all tokens", f"step-{dtype}-4x64-smollm2-lm", 4))
    for method in ("low-rank", "spsa", "mezo"):
        for where, source, count in places:
            goal = low if method == "low-rank" else dense if count == 16 else None
            yield Target(
                id_, f"{method}, {where}", source,
                lambda r, m=method: against(r["seconds"], m, "two_forwards"),
                lambda r, m=method: step_floor(r, m), lambda r, m=method: _step_bound(r, m),
                goal, "its floor" if goal is None else f"≤ {goal:.2f}",
            )  # fmt: skip


def _moving(result: Result, method: str) -> float:
    """Seconds of moving the bytes that a step has to move."""
    return result["bytes"]["update" if method == "low-rank" else "dense"] / result["bandwidth"]


def _forwards(result: Result) -> float:
    """Seconds of evaluating two points' rows unperturbed, one after the other or in one forward."""
    medians = result["median_seconds"]
    return min(medians["two_forwards"], medians["both_in_one"])


def step_floor(result: Result, method: str) -> float:
    """(forwards + bytes ÷ bandwidth) ÷ two forwards, with the faster way of running the rows of both points."""
    return (_forwards(result) + _moving(result, method)) / result["median_seconds"]["two_forwards"]


def _step_bound(result: Result, method: str) -> str:
    two, phases = result["median_seconds"]["two_forwards"], result["phases"][method]
    moved = result["bytes"]["update" if method == "low-rank" else "dense"]
    first = (
        f"both points' rows unperturbed take {_forwards(result) / two:.2f}, moving {moved / 1e9:.2g} GB at "
        f"{result['bandwidth'] / 1e9:.1f} GB/s takes {_moving(result, method) / two:.2f}"
    )
    return f"{first}; {_spent(phases, two)}"


def _spent(phases: Mapping[str, float], unit: float) -> str:
    named = [f"{name} {second / unit:.2f}" for name, second in phases.items() if second / unit >= 0.005]
    beside = {name: second for name, second in phases.items() if name != "forward"}
    largest = max(beside, key=lambda name: beside[name])
    return f"of a profiled step: {', '.join(named)}; beside the forward most is {largest}"


def share(result: Result) -> Measured:
    """A step's tokens at the speed of inference ÷ the step's time, round by round."""
    base = f"inference-{result['fastest']}"
    return against(result["seconds"], base, "step", 2 * result["draws"] * result["rows"] / result["fastest"])


def _share_floor(result: Result) -> float:
    medians, points = result["median_seconds"], 2 * result["draws"] * result["rows"]
    fastest = points / result["fastest"] * medians[f"inference-{result['fastest']}"]
    passes = points / result["pass"] * medians[f"inference-{result['pass']}"]
    return fastest / (passes + result["bytes"]["update"] / result["bandwidth"])


def _share_bound(result: Result) -> str:
    medians, size, fastest = result["median_seconds"], result["pass"], result["fastest"]
    slower = (size / medians[f"inference-{size}"]) / (fastest / medians[f"inference-{fastest}"])
    step = sum(result["phases"][result["method"]].values())
    return (
        f"inference in passes of {size} rows has {slower:.2f} of its speed at {fastest} rows, and the update moves "
        f"{result['bytes']['update'] / 1e9:.2g} GB; "
        f"{_spent(result['phases'][result['method']], step)}, as shares of the step"
    )


def resident(result: Result) -> Measured:
    """Largest resident memory of training minus that of inference, pair by pair, ÷ weights."""
    pairs = zip(result["peaks"]["training"], result["peaks"]["inference"], strict=True)
    return Measured.of([(t - i - result["residual"]) / result["weights"] for t, i in pairs])


def tracked(result: Result) -> float:
    """The same of what torch's allocator gave out."""
    both = result["allocated"]
    return (both["training"] - both["inference"] - result["residual"]) / result["weights"]


def _largest_module(result: Result) -> float:
    return result["largest_module"] / result["weights"]


def _memory_bound(result: Result) -> str:
    beyond = resident(result).median - tracked(result)
    return (
        f"torch's allocator gives out {tracked(result):.3f} beyond inference; {beyond:.3f} is what resident memory "
        "adds to it (freed blocks that stay, memory outside torch)"
    )


def _pass_floor(result: Result, law: str) -> float:
    return max(_pass_bytes(result), against(result["seconds"], f"draw_{law}", "add_").median)


def _pass_bytes(result: Result) -> float:
    return 5 / 4 if result["dtype"] == "bfloat16" else 1.0  # weight and residual byte read, scratch written


def _pass_bound(result: Result, law: str) -> str:
    draw, moved = against(result["seconds"], f"draw_{law}", "add_").median, _pass_bytes(result)
    larger = "the draw" if draw > moved else "memory"
    return f"drawing alone, in cache, takes {draw:.2f}, the bytes {moved:.2f}, so that {larger} sets the limit"


def replayed(result: Result) -> Measured:
    """Steps in the time of one trained step, of a replay of the whole ledger."""
    return against(result["seconds"], "step", "replay", result["steps"])


def _replay_floor(result: Result) -> float:
    return result["median_seconds"]["step"] / result["least_seconds_a_step"]


def _replay_bound(result: Result) -> str:
    return f"{_arithmetic(result)} would allow {1 / result['least_seconds_a_step']:.0f} steps a second"


def terms(result: Result) -> Measured:
    """One entry of many terms ÷ (terms × an entry of one)."""
    return against(result["seconds"], "one_entry", "one_term", 1 / result["terms"])


def _terms_bound(result: Result) -> str:
    return f"{_arithmetic(result)} would take {result['floor']:.3f}"


def _arithmetic(result: Result) -> str:
    if result["method"] == "low-rank":
        return "the matrix library's product of the factors (which may fuse, and round less often)"
    return "drawing and adding in cache alone"
