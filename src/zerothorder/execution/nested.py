"""Arguments and results of modules: tensors inside tuples, lists and dictionaries."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Path = tuple[Any, ...]
"""Where a leaf stands: indices and keys, from the outside in."""


_PLAIN = (Tensor, int, float, str, bool, type(None), torch.dtype, torch.device)


class Inseparable(Exception):
    """The rows of several points cannot be told apart; the message says where."""


def mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same structure with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if _several(tree):
        return _like(tree, [mapped(change, leaf) for leaf in cast(list[Any], tree)])
    if isinstance(tree, dict):
        return _named(tree, {key: mapped(change, leaf) for key, leaf in cast(dict[Any, Any], tree).items()})
    return tree


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor and where it stands."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif _several(tree):
        for n, leaf in enumerate(cast(list[Any], tree)):
            yield from leaves(leaf, (*path, n))
    elif isinstance(tree, dict):
        for key, leaf in cast(dict[Any, Any], tree).items():
            yield from leaves(leaf, (*path, key))


def holds(test: Callable[[Any], bool], tree: Any) -> bool:
    """Whether any leaf passes the test."""
    if _several(tree):
        return any(holds(test, leaf) for leaf in cast(list[Any], tree))
    if isinstance(tree, dict):
        return any(holds(test, leaf) for leaf in cast(dict[Any, Any], tree).values())
    return test(tree)


def opaque(tree: Any) -> bool:
    """Whether any leaf is an object that cannot be looked into: a cache, a packed sequence."""
    return holds(lambda leaf: not isinstance(leaf, _PLAIN), tree)


def joined(trees: list[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """One structure of several alike ones, their tensors joined place by place. Inseparable for unknown kinds."""
    first = trees[0]
    if isinstance(first, Tensor):
        return join(trees)
    if _several(first):
        return _like(first, [joined(list(parts), join) for parts in zip(*trees, strict=True)])
    if isinstance(first, dict):
        keys = cast(dict[Any, Any], first)
        return _named(keys, {key: joined([tree[key] for tree in trees], join) for key in keys})
    if first is None or isinstance(first, int | float | str | bool):
        return first
    raise Inseparable(f"a module returns a {type(first).__name__}")


def _several(tree: Any) -> bool:
    # a packed sequence's rows lie end to end: nothing cuts or joins them, so it is a leaf
    return isinstance(tree, tuple | list) and not isinstance(tree, PackedSequence)


def _named(shape: Any, leaves: dict[Any, Any]) -> Any:
    return leaves if type(shape) is dict else type(shape)(**leaves)  # a ModelOutput takes its fields by name


def _like(shape: Any, leaves: list[Any]) -> Any:
    if hasattr(shape, "_fields"):
        return type(shape)(*leaves)
    return type(shape)(leaves)
