"""Inner products of two runs' updates, tensor by tensor and in all, and what they say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from zerothorder.errors import UsageError
from zerothorder.interplay.measures import Matrix, Pair, angles, chance, cosines, positions, principal
from zerothorder.interplay.paths import Track, canonical

_PART = 1 << 18
WHOLE = ""
"""The name of all tensors together."""


@dataclass
class Path:
    """One run: inner products (T, T) of its updates by canonical tensor name, `WHOLE` for all; weights by name."""

    name: str
    moments: list[int]
    updates: dict[str, Matrix]
    counts: dict[str, int]

    def successive(self, tensor: str = WHOLE) -> Matrix:
        """Cosine of each update and the one before it (T-1,)."""
        own = self.updates[tensor]
        return np.diag(cosines(own, np.diag(own), np.diag(own)), 1).copy()

    def turns(self, tensor: str = WHOLE) -> Matrix:
        """The angle between successive updates, degrees (T-1,)."""
        return angles(self.successive(tensor))

    def lengths(self, tensor: str = WHOLE) -> Matrix:
        """‖update‖ (T,)."""
        return np.sqrt(np.diag(self.updates[tensor]))

    def chance(self, tensor: str = WHOLE) -> float:
        """What the cosine of two independent updates spreads by."""
        return chance(self.counts[tensor])

    def drawn(self, tensor: str = WHOLE, count: int = 3) -> tuple[Matrix, Matrix]:
        """(coordinates of the places (T+1, count), shares of the variance), by principal components."""
        return principal(positions(self.updates[tensor]), count)


@dataclass
class Interplay:
    """Runs over the same tensors, and by (first, second) name what each pair has to do with each other."""

    paths: dict[str, Path]
    across: dict[tuple[str, str], dict[str, Matrix]] = field(default_factory=dict[tuple[str, str], dict[str, Matrix]])

    def pair(self, first: str, second: str, tensor: str = WHOLE) -> Pair:
        """The two runs' updates side by side."""
        one, other = self.paths[first].updates[tensor], self.paths[second].updates[tensor]
        return Pair.of(one, other, self.across[first, second][tensor])

    def together(self, tensor: str = WHOLE, count: int = 3) -> tuple[dict[str, Matrix], Matrix]:
        """Places of all runs in one set of principal components, each measured from its own start; and the shares."""
        found, shares = principal(self.places(tensor), count)
        return self.apart(found), shares

    def apart(self, points: Matrix) -> dict[str, Matrix]:
        """Rows for the places of all runs, by run."""
        ends = np.cumsum([len(path.moments) for path in self.paths.values()])[:-1]
        return dict(zip(self.paths, np.split(points, ends), strict=True))

    def places(self, tensor: str = WHOLE) -> Matrix:
        """Inner products of the places of all runs, one run after the other, each measured from its own start."""
        names = list(self.paths)
        blocks = [[self._updates(a, b, tensor) for b in names] for a in names]
        passed = [np.tril(np.ones((len(blocks[i][i]) + 1, len(blocks[i][i]))), -1) for i in range(len(names))]
        return np.block(
            [[passed[i] @ blocks[i][j] @ passed[j].T for j in range(len(names))] for i in range(len(names))]
        )

    def _updates(self, first: str, second: str, tensor: str) -> Matrix:
        if first == second:
            return self.paths[first].updates[tensor]
        if (first, second) in self.across:
            return self.across[first, second][tensor]
        return self.across[second, first][tensor].T


def look(tracks: Sequence[Track], progress: Callable[[int, int], None] = lambda done, total: None) -> Interplay:
    """Read the tracks' shared tensors one by one: memory of one tensor at every place, T + 1 times the largest.

    UsageError where two runs share no tensor of the same shape (a policy and a reward model need the same base and
    adapter), or have one name.
    """
    if len({track.name for track in tracks}) != len(tracks):
        raise UsageError(f"two runs are called {tracks[0].name!r}; name them apart")
    by_name = [canonical(track.names) for track in tracks]
    shared = [name for name in by_name[0] if all(name in other for other in by_name)]
    if not shared:
        names = " and ".join(repr(track.name) for track in tracks)
        raise UsageError(f"{names} share no tensor; runs are compared over the same base and the same adapter")
    found = Interplay({t.name: Path(t.name, list(t.moments), {}, {}) for t in tracks})
    # room for all results at once: small pieces kept among large ones that come and go would hold on to their memory
    updates = [len(track.moments) - 1 for track in tracks]
    room = {
        (i, j): np.empty((len(shared), updates[i], updates[j]))
        for i in range(len(tracks))
        for j in range(i, len(tracks))
    }
    for done, name in enumerate(shared):
        moves = [_moves(track, own[name]) for track, own in zip(tracks, by_name, strict=True)]
        sizes = {move.shape[1] for move in moves}
        if len(sizes) > 1:
            raise UsageError(f"{name!r} has {sorted(sizes)} elements in the runs; give runs with the same adapter")
        for i, (track, move) in enumerate(zip(tracks, moves, strict=True)):
            _add(found.paths[track.name].updates, name, _inner(move, move, room[i, i][done]))
            counts = found.paths[track.name].counts
            counts[name], counts[WHOLE] = move.shape[1], counts.get(WHOLE, 0) + move.shape[1]
            for j in range(i + 1, len(tracks)):
                across = found.across.setdefault((track.name, tracks[j].name), {})
                _add(across, name, _inner(move, moves[j], room[i, j][done]))
        progress(done + 1, len(shared))
    return found


def _moves(track: Track, name: str) -> torch.Tensor:
    """Updates (T, n) in float32: differences of successive places, which are close, so nothing is lost."""
    places = torch.stack([place.float() for place in track.places(name)])
    return places[1:] - places[:-1]


def _inner(one: torch.Tensor, other: torch.Tensor, out: Matrix) -> Matrix:
    """Inner products in float64, a part of the elements at a time."""
    out[:] = 0
    for a, b in zip(one.split(_PART, 1), other.split(_PART, 1), strict=True):
        out += (a.double() @ b.double().T).numpy()
    return out


def _add(into: dict[str, Matrix], name: str, inner: Matrix) -> None:
    into[name] = inner
    into[WHOLE] = into[WHOLE] + inner if WHOLE in into else inner.copy()


__all__ = ["WHOLE", "Interplay", "Path", "look"]
