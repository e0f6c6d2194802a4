"""What must be as before once an evaluation has ended, however it ended; and Ctrl-C at any line of it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Nothing about the model differs after the block: its weights to the bit and address, its classes and hooks."""
    parameters, kinds = list(net.parameters()), [type(module) for module in net.modules()]
    before = [(p, p.data_ptr(), p._version, p.stride(), p.detach().clone()) for p in parameters]
    generator, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()]
    yield
    assert [id(p) for p in net.parameters()] == [id(p) for p in parameters]
    for p, address, version, stride, own in before:
        assert (p.data_ptr(), p._version, p.stride()) == (address, version, stride)
        assert torch.equal(p, own)
        assert not p.is_inference()
    assert [type(module) for module in net.modules()] == kinds
    assert [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), generator)
    assert signal.getsignal(signal.SIGINT) is handler


@contextmanager
def pressing(at: int) -> Iterator[list[int]]:
    """A real SIGINT at the at-th line that runs in the execution package; the list counts the lines seen."""
    lines = [0]

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            lines[0] += 1
            if lines[0] == at:
                os.kill(os.getpid(), signal.SIGINT)
        return local

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return local if "zerothorder/execution/" in frame.f_code.co_filename.replace("\\", "/") else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
