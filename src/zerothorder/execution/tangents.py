"""Weights as dual numbers: each module's tangent is drawn while it runs, and the value's slope falls out."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel

from zerothorder.directions import Direction, moving
from zerothorder.errors import UsageError
from zerothorder.execution.exchange import Exchange, Frame
from zerothorder.point import Term
from zerothorder.profile import phase, timed
from zerothorder.scratch import buffer
from zerothorder.space import CHUNK, Site
from zerothorder.state import State

_ad: Any = forward_ad  # torch's types leave its arguments out
_LACKING = re.compile(r"forward AD with (\S+) that does not support|()jvp function for custom autograd.Function")


class Tangents(Exchange):
    """An `Exchange` that shows θ + δ·Σ coefficient·z, δ the dual unit, in place of θ + Σ coefficient·z.

    The weights are θ itself; the tangents of the module that runs are all that is made.
    """

    def __init__(self, *rest: Any) -> None:
        super().__init__(*rest)
        self._known: dict[int, list[tuple[nn.Module, str]]] = {}

    def enter(self, module: nn.Module | None, sites: list[Site]) -> None:
        """Show these sites as dual numbers until `leave(module)`."""
        with phase("perturbation"):
            frame = Frame(module)
            self.stack.append(frame)
            fresh = self.fresh(module, sites)
            for site, tangent in zip(fresh, self.buffers(fresh), strict=True):
                write_tangent(tangent, site, self.terms, self.around.direction, self.around.state)
                dual = _ad.make_dual(site.parameter.detach(), tangent)
                frame.undo.append(self._giving_back_in(self._places(site.parameter), site.parameter))
                self.active.add(id(site.parameter))
                for owner, name in self._places(site.parameter):
                    own: Any = owner._parameters  # type: ignore[reportPrivateUsage]
                    own[name] = dual

    def _giving_back_in(self, places: list[tuple[nn.Module, str]], parameter: Tensor) -> Callable[[], None]:
        def give_back() -> None:
            for owner, name in places:
                own: Any = owner._parameters  # type: ignore[reportPrivateUsage]
                own[name] = parameter
            self.active.discard(id(parameter))

        return give_back

    def _places(self, parameter: Tensor) -> list[tuple[nn.Module, str]]:
        """Every module and name that the parameter is registered under, however it is tied."""
        if not self._known:
            for module in self.around.model.modules():
                for name, own in module.named_parameters(recurse=False):
                    self._known.setdefault(id(own), []).append((module, name))
        return self._known[id(parameter)]


@timed("perturbation")
def write_tangent(out: Tensor, site: Site, terms: Sequence[Term], direction: Direction, state: State) -> None:
    """out = Σ coefficient·direction in the site's dtype."""
    terms = moving(direction, site, terms, state)
    room = buffer("probe", min(CHUNK, site.numel), site.grid.compute, out.device)
    for local, start in site.chunks():
        chunk = room[: local.stop - local.start].zero_()
        for term, coefficient in terms:
            direction.shift(chunk, chunk, site, term, coefficient, start, state)
        out.view(-1)[local].copy_(chunk)


@contextmanager
def forward_mode() -> Generator[None]:
    """Forward-mode differentiation inside, with attention by plain products: fused kernels have no forward mode.

    UsageError that names the kernel where another one has none.
    """
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            yield
    except (NotImplementedError, RuntimeError) as error:
        named = _LACKING.search(str(error))
        if named is None:
            raise
        raise UsageError(
            f"{named[1] or 'a custom autograd.Function'} has no forward-mode derivative, which this recipe needs; load "
            'the model with attn_implementation="eager" if it is attention\'s, or take a recipe of two points (zo-sgd)'
        ) from error
    finally:
        mha.set_fastpath_enabled(fast)


def unpacked(value: Tensor) -> tuple[Tensor, Tensor]:
    """(value, slope) of a dual number; the slope of one that does not depend on the weights is 0."""
    found = _ad.unpack_dual(value)
    slope: Tensor = torch.zeros_like(found.primal) if found.tangent is None else found.tangent
    return found.primal.detach(), slope.detach()
