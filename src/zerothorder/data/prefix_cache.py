"""A prefix by peft, whatever transformers calls the cache of keys and values.

transformers 5.24 names it `cache`, peft (0.21 the newest) says `past_key_values`. A forward takes the old name with a
warning; but in generation peft does not find the cache under its name and gives the prefix anew at each token, where it
is ignored beside the other: what is generated has no prefix. And it holds that a classifier takes no cache at all.
"""

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

_OLD, _NEW = "past_key_values", "cache"


def cache_of(output: Any) -> Any:
    """The keys and values in a model's output, by either name; None where it has none."""
    found = getattr(output, _NEW, None)
    return getattr(output, _OLD, None) if found is None else found


def by_either_name(adapted: Any) -> Any:
    """The same model, whose base takes the cache by peft's name and gives it by peft's name in generation.

    Nothing is done where the two agree, or where peft puts nothing into the cache. Bound methods, so that a deep copy
    of the model is bound to the copy.
    """
    if adapted.active_peft_config.peft_type != "PREFIX_TUNING":
        return adapted
    base = adapted.get_base_model()
    if _NEW not in (known := inspect.signature(type(base).forward).parameters) or _OLD in known:
        return adapted
    base.forward = MethodType(_forward(type(base)), base)
    if hasattr(adapted, "base_model_prepare_inputs_for_generation"):
        adapted.base_model_prepare_inputs_for_generation = MethodType(_prepared, base)
    return adapted


@functools.cache
def _forward(kind: type[Any]) -> Callable[..., Any]:
    # trainers read from the signature which columns a model takes, and peft whether it takes a cache
    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (given := kwargs.pop(_OLD, None)) is not None:
            kwargs[_NEW] = given
        return kind.forward(self, *args, **kwargs)

    signature = inspect.signature(kind.forward)
    taken = list(signature.parameters.values())
    last = len(taken) - (taken[-1].kind is inspect.Parameter.VAR_KEYWORD)
    taken.insert(last, inspect.Parameter(_OLD, inspect.Parameter.KEYWORD_ONLY, default=None))
    setattr(forward, "__signature__", signature.replace(parameters=taken))  # noqa: B010
    return forward


def _prepared(self: Any, *args: Any, **kwargs: Any) -> Any:
    # of the class: peft puts its own in the base's place while it generates
    inputs = type(self).prepare_inputs_for_generation(self, *args, **kwargs)
    if _NEW in inputs:
        inputs[_OLD] = inputs.pop(_NEW)
    return inputs
