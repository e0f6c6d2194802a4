"""ZO-SGD-Sign: steps of one size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from zerothorder.errors import UsageError, nearest
from zerothorder.estimate import Estimator
from zerothorder.estimators.signs import sign_of
from zerothorder.recipes.zo_sgd import SCHEME_DEFAULTS as PLAIN
from zerothorder.recipes.zo_sgd import ZOSGD
from zerothorder.updates import Update
from zerothorder.updates.transforms import Sign, WeightDecay

OF = ("coordinate", "scalar")


@dataclass(frozen=True)
class ZOSGDSign(ZOSGD):
    """θ ← θ - lr·(sign(ρ z) + λθ), element by element; with `of` "scalar" θ ← θ - lr·(sign(ρ) z + λθ).

    Paper: that of `zo-sgd`, whose text (from memory) has the first and whose code the second: there a step has the
    length ‖z‖, here every element moves by lr exactly. The published sweeps of its code ran under AdamW, which is
    neither. Source of the first: Liu et al. 2019 (signSGD via zeroth-order oracle).

    When not to use it: near a minimum the steps do not get shorter, so a constant rate ends in a walk.
    """

    name: ClassVar[str] = "zo-sgd-sign"

    of: Literal["coordinate", "scalar"] = "coordinate"

    def estimator(self) -> Estimator:
        if self.of not in OF:
            raise UsageError(f"a sign is of coordinate or scalar, not of {self.of!r}{nearest(self.of, OF)}")
        plain = super().estimator()
        return sign_of(plain) if self.of == "scalar" else plain

    def update(self) -> Update:
        # after the sign: before it, a decay larger than the slope would turn every step around
        return Update((*((Sign(),) if self.of == "coordinate" else ()), WeightDecay()))


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    # the length of a step no longer has the slope in it
    name: {**own, "lr": lr}
    for (name, own), lr in zip(PLAIN.items(), (1e-6, 1e-4, 1e-3, 1e-6, 1e-4), strict=True)
}
