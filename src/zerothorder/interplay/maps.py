"""Pictures of paths in two or three dimensions that keep neighbours together, not distances: t-SNE and UMAP."""

from typing import Any

from zerothorder.errors import UsageError, nearest
from zerothorder.interplay.measures import Matrix, distances

MAPS = ("pca", "tsne", "umap")
_FEWEST = 5
"""Places below which neighbourhoods mean nothing."""


def check_maps(names: tuple[str, ...]) -> None:
    """UsageError for a map that there is not, or whose package is missing."""
    for name in names:
        if name not in MAPS:
            raise UsageError(f"there is no map {name!r}{nearest(name, MAPS)}")
        if name != "pca":
            _made(name, 2, _FEWEST)


def flattened(gram: Matrix, name: str, count: int) -> Matrix:
    """Points (T, count) from inner products (T, T), through the distances in weight space; the same in every run.

    t-SNE's perplexity is the smaller of 30 and T - 1, as in the study of policy and reward models that it stands here
    for (Galatolo et al. 2025); UMAP's neighbourhoods are of 15 or T - 1. UsageError for fewer than five places.
    """
    if len(gram) < _FEWEST:
        raise UsageError(f"{name} needs {_FEWEST} places or more, and there are {len(gram)}; raise --pieces")
    return _made(name, count, len(gram)).fit_transform(distances(gram))


def _made(name: str, count: int, points: int) -> Any:
    try:
        if name == "tsne":
            from sklearn.manifold import TSNE

            return TSNE(count, metric="precomputed", init="random", perplexity=min(30.0, points - 1.0), random_state=0)
        from umap import UMAP

        return UMAP(
            n_neighbors=min(15, points - 1), n_components=count, metric="precomputed", init="random", random_state=0,
            n_jobs=1,
        )  # fmt: skip
    except ImportError as error:
        raise UsageError(f"the map {name} needs {error.name}: pip install 'zerothorder[interplay]'") from error
