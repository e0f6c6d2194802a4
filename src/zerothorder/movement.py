"""How far the weights moved: ‖θ - θ₀‖ / ‖θ₀‖ and the share of stored weights that changed, tensor by tensor."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from zerothorder.space import ParameterSpace, Site, canonical_name

_KEEP_BYTES = 64 << 20
"""A searched space below this is simply remembered (adapters); a larger one is read again from its files."""


class Movement:
    """Compares with the base: from its safetensors files where it has them, else from a copy of a small space."""

    def __init__(self, space: ParameterSpace, source: str) -> None:
        self.space = space
        self._copy: dict[str, Tensor] | None = None
        self._files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
        if space.nbytes <= _KEEP_BYTES:
            self._copy = {site.name: site.parameter.detach().clone() for site in space}

    def measure(self) -> dict[str, float]:
        """{"moved": ratio of norms, "changed": share}; empty where the base cannot be read again."""
        moved = norm = 0.0
        changed = total = 0
        for site, base in self._pairs():
            now = site.parameter.detach()
            difference = now.double() - base.double()
            moved += float((difference * difference).sum())
            norm += float((base.double() ** 2).sum())
            changed += int((difference != 0).sum())
            total += site.numel
        if not total:
            return {}
        return {"moved": (moved / norm) ** 0.5 if norm else float("inf"), "changed": changed / total}

    def _pairs(self) -> Iterator[tuple[Site, Tensor]]:
        if self._copy is not None:
            for site in self.space:
                yield site, self._copy[site.name]
            return
        with ExitStack() as stack:
            where: dict[str, Any] = {}
            for path in self._files:
                file = stack.enter_context(safe_open(path, "pt"))
                where |= {canonical_name(name): (file, name) for name in file.keys()}  # noqa: SIM118
            for site in self.space:
                name = next((n for n in (site.name, *site.aliases) if n in where), None)
                if name is not None:
                    file, stored = where[name]
                    yield site, file.get_tensor(stored).to(site.parameter.device, site.parameter.dtype)
