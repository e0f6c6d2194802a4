"""Storage grids: one rule a dtype for reading a weight exactly, rounding a probe, and writing a step.

float32 and float64 are their own grid. 16-bit weights carry a residual byte by default ("residual"); "stochastic"
and "nearest" are the bare rules, kept for comparison: nearest loses 99 % of bf16 updates at lr 1e-7, stochastic
rounding alone drowns them in noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zerothorder.errors import UsageError
from zerothorder.grids import reference
from zerothorder.random import byte_lanes, philox, shift
from zerothorder.scratch import buffer

if TYPE_CHECKING:  # it compiles for CPU, which a GPU does without
    from zerothorder.grids.steps import Moves

Precision = Literal["residual", "stochastic", "nearest"]


@dataclass(frozen=True)
class Grid:
    """The grid of one stored dtype. All tensors are 1-D and contiguous; `compute` is the dtype of sums."""

    dtype: torch.dtype
    precision: Precision

    @classmethod
    def of(cls, dtype: torch.dtype, precision: Precision = "residual") -> "Grid":
        """UsageError for a dtype that cannot be searched (integers, float8)."""
        if dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise UsageError(
                f"cannot search {dtype} weights; cast them to float32, bfloat16 or float16, or freeze them"
            )
        return cls(dtype, precision)

    @property
    def compute(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def exact(self) -> bool:
        """The stored dtype is the compute dtype: no rounding beyond arithmetic's own."""
        return self.dtype == self.compute

    @property
    def has_residual(self) -> bool:
        return not self.exact and self.precision == "residual"

    def load(self, out: Tensor, stored: Tensor, residual: Tensor | None) -> None:
        """out (compute dtype) = the exact stored value, residual included."""
        if residual is not None and self.dtype == torch.bfloat16 and out.device.type == "cpu":
            from zerothorder.grids import cpu

            cpu.load(out, stored, residual)
        else:
            reference.load(out, stored, residual)

    def probe(self, out: Tensor, values: Tensor) -> None:
        """out (stored dtype) = values to the nearest: what a forward pass sees."""
        out.copy_(values)

    @property
    def fused(self) -> bool:
        """There are whole passes for plain draws and factors on CPU: `probe_…`, `move`."""
        return self.exact or (self.dtype == torch.bfloat16 and self.has_residual)

    def probe_draw(
        self, out: Tensor, stored: Tensor, residual: Tensor | None, draw: tuple[str, int], c: float, start: int
    ) -> None:
        """`load`, add c·z of a draw (law, seed), `probe`: in one pass."""
        if self.exact:
            shift(out, stored, *draw, c, start)
        else:
            from zerothorder.grids import cpu

            cpu.probe_draw(out, stored, residual, *draw, c, start)

    def probe_range(
        self, out: Tensor, stored: Tensor, residual: Tensor | None, draw: tuple[str, int],
        coefficients: Sequence[float], start: int,
    ) -> None:  # fmt: skip
        """`probe_draw` for every coefficient, into the rows of out (P, n)."""
        from zerothorder.grids import points

        points.probe_range(out, stored, residual, draw, coefficients, start)

    def probe_rows(
        self, out: Tensor, stored: Tensor, residual: Tensor | None, draw: tuple[str, int],
        coefficients: Sequence[float], rows: Tensor,
    ) -> None:  # fmt: skip
        """`probe_range` of some rows of a whole matrix: out (P, len(rows), n), rows int64."""
        from zerothorder.grids import points

        points.probe_rows(out, stored, residual, draw, coefficients, rows)

    def probe_along(
        self, out: Tensor, stored: Tensor, residual: Tensor | None, z: Tensor, coefficients: Sequence[float]
    ) -> None:
        """`load`, add c·z of a z (n,) that is given, `probe`: for every coefficient c, into the rows of out (P, n)."""
        if self.fused and out.device.type == "cpu":
            from zerothorder.grids import points

            points.probe_along(out, stored, residual, z, coefficients)
            return
        w = stored
        if not self.exact:
            w = buffer("along", z.numel(), self.compute, out.device)
            self.load(w, stored, residual)
        for c, row in zip(coefficients, out, strict=True):
            self.probe(row, w + z * c)

    def probe_factors(
        self, out: Tensor, stored: Tensor, residual: Tensor | None, factors: tuple[Tensor, Tensor], start: int
    ) -> None:
        """`load`, add A B, `probe`: in one pass."""
        from zerothorder.grids import steps

        steps.probe(out, stored, residual, factors, start)

    def move(self, stored: Tensor, residual: Tensor | None, moves: "Moves", start: int) -> None:
        """`load`, subtract rate·(Σ terms + decay·w), `store`, step after step: in one pass."""
        from zerothorder.grids import cpu, steps

        if residual is not None and len(moves.keys) == len(moves.rates) == 1:
            rates = moves.scalars[0], moves.rates[0], moves.decays[0], moves.seeds[0]
            cpu.step_draw(stored, residual, moves.law, moves.keys[0], *rates, start)
        else:
            steps.move(stored, residual, moves, start)

    def descend(self, stored: Tensor, residual: Tensor | None, g: Tensor, rate: float, seed: int, start: int) -> None:
        """`load`, subtract rate·g, `store`. g (n,) in the compute dtype is used up."""
        if self.dtype == torch.bfloat16 and residual is not None and g.device.type == "cpu":
            from zerothorder.grids import cpu

            cpu.descend(stored, residual, g, rate, seed, start)
            return
        w = stored
        if not self.exact:
            w = buffer("descent", g.numel(), self.compute, g.device)
            self.load(w, stored, residual)
        g *= rate
        w -= g
        if not self.exact:
            self.store(stored, residual, w, seed, start)

    def store(self, stored: Tensor, residual: Tensor | None, values: Tensor, seed: int, start: int) -> None:
        """Write values; `seed` and `start` address the rounding bits of a stochastic rule."""
        if self.exact or self.precision == "nearest":
            stored.copy_(values)
        elif residual is None:
            random = philox.lanes(seed, 16, start, values.numel(), values.device)
            reference.stochastic(stored, values, random)
        else:
            random = buffer("rounding", values.numel(), torch.uint8, values.device)
            byte_lanes(random, seed, start)
            if self.dtype == torch.bfloat16 and values.device.type == "cpu":
                from zerothorder.grids import cpu

                cpu.store(stored, residual, values, random)
            else:
                reference.store(stored, residual, values, random)
