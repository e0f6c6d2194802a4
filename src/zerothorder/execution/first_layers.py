"""Before the first perturbed layer all points are one: those layers run once, and their output is repeated."""

from typing import Any

from torch import Tensor, nn

from zerothorder.execution.nested import Inseparable, mapped, opaque
from zerothorder.execution.observe import tensors


class FirstLayers:
    """Learns, or applies, at which block of a stack (a child of a ModuleList) the points begin to differ.

    With `block` given, the model's inputs are cut to the `rows` of one point, and that block and those after it in the
    stack get them repeated for all. What the model itself computes from its cut inputs after the stack may not fit the
    repeated rows: then the call fails, or gives other rows than all, and the caller goes back to whole passes.
    """

    def __init__(self, model: nn.Module, points: int, rows: int, block: nn.Module | None) -> None:
        self.points, self.rows, self.block = points, rows, block
        self.applies, self.learning, self.inside = block is not None, block is None, list[nn.Module]()
        self.blocks: dict[nn.Module, int] = {}
        self.handles: list[Any] = []
        for stack in model.modules():
            if isinstance(stack, nn.ModuleList) and (block is None or block in list(stack)):
                children = list(stack)
                first = 1 if block is None else children.index(block)
                self.blocks |= {child: n for n, child in enumerate(children) if n >= first}
        if self.learning:
            for child in self.blocks:
                self.handles.append(child.register_forward_pre_hook(_noting(self.inside)))
        else:
            self.handles.append(model.register_forward_pre_hook(self._cut, with_kwargs=True))
            self.handles.append(model.register_forward_hook(self._whole))
            for child in self.blocks:
                self.handles.append(child.register_forward_pre_hook(self._repeat, with_kwargs=True))

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def met(self) -> None:
        """A perturbed module is about to run; the first time, the innermost block that was entered is the one."""
        if self.learning:
            self.learning = False
            self.block = self.inside[-1] if self.inside else None

    def _cut(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        whole = self.points * self.rows
        return mapped(lambda t: t[: self.rows] if t.ndim and t.shape[0] == whole else t, (args, kwargs))

    def _whole(self, module: nn.Module, args: Any, output: Any) -> None:
        first = next((t for t in tensors(output) if t.ndim), None)
        if first is None or first.shape[0] % (self.points * self.rows):
            raise Inseparable("the model gives one point's rows where its first layers run once")

    def _repeat(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if opaque((args, kwargs)):
            return None  # a cache of one point's rows: the call fails on its size, and the caller goes back

        def whole(t: Tensor) -> Tensor:
            return t.repeat(self.points, *[1] * (t.ndim - 1)) if t.ndim > 1 and t.shape[0] == self.rows else t

        return mapped(whole, (args, kwargs))


def _noting(inside: list[nn.Module]) -> Any:
    """A hook that keeps the modules entered."""

    def note(module: nn.Module, args: Any) -> None:
        inside.append(module)

    note.input_only = True  # type: ignore[reportFunctionMemberAccess]
    return note
