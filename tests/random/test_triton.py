"""The GPU kernels against the other two implementations, without a GPU: interpreted, and compiled but not run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zerothorder import random
from zerothorder.random import laws

CHECKS = Path(__file__).with_name("triton_checks.py")
GPU = next((name for name in ("cuda", "xpu") if getattr(torch, name).is_available()), None)
WITH_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux only")


def run(arguments: list[str], **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    done = subprocess.run([sys.executable, *arguments], env=kept | environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@WITH_TRITON
def test_interpreted_kernels_give_the_bits_of_reference_and_cpu() -> None:
    assert run([str(CHECKS), "bits"], TRITON_INTERPRET="1") == "done\n"


@WITH_TRITON
@pytest.mark.slow
def test_compiled_kernels_round_the_product_before_the_sum(tmp_path: Path) -> None:
    """The interpreter knows neither fused multiply-add nor what the compiler refuses."""
    assert run([str(CHECKS), "code"], TRITON_CACHE_DIR=str(tmp_path)) == "done\n"


ON_CPU = """
import sys, torch, zerothorder
from zerothorder import random
for law in random.LAWS:
    random.shift(torch.zeros(8), torch.zeros(8), law, 1, 1.0)
random.byte_lanes(torch.zeros(8, dtype=torch.uint8), 1)
print(sorted(name for name in sys.modules if name.split(".")[0] == "triton" or name == "zerothorder.random.triton"))
"""


def test_triton_is_not_imported_for_tensors_on_cpu() -> None:
    assert run(["-c", ON_CPU]) == "[]\n"


def test_without_triton_a_gpu_is_served_by_plain_torch() -> None:
    hidden = "import sys; sys.modules['triton'] = None; import torch; from zerothorder import random; "
    assert run(["-c", hidden + "print(random.fast_path(torch.device('cuda', 0)))"]) == "None\n"


def test_plain_torch_gives_the_bits_of_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device without kernels of its own is served by."""

    def results() -> list[torch.Tensor]:
        source = torch.linspace(-3, 3, 5001)
        drawn = [torch.empty_like(source) for _ in laws.LAWS]
        for law, out in zip(laws.LAWS, drawn):
            random.shift(out, source, law, 2**63 + 5, 1e-3, 77)
        given = torch.empty(5001, dtype=torch.uint8)
        random.byte_lanes(given, 2**63 + 5, 77)
        return [*drawn, given]

    fast = results()
    monkeypatch.setattr(random, "fast_path", lambda device: None)
    assert all(torch.equal(a, b) for a, b in zip(fast, results()))


@pytest.mark.skipif(GPU is None, reason="needs a GPU")
@pytest.mark.parametrize("law", sorted(laws.LAWS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_gives_the_bits_of_the_cpu(law: str, dtype: torch.dtype) -> None:
    for start, count in ((0, 1 << 20), (2**35 - 77, 70_001), (2**45 + 1, 4096), (5, 0)):
        source = torch.randn(count, dtype=dtype, generator=torch.Generator().manual_seed(count))
        out, there = torch.empty_like(source), source.to(GPU)
        random.shift(out, source, law, 2**63 + count, -1e-3, start)
        random.shift(there, there, law, 2**63 + count, -1e-3, start)
        assert torch.equal(there.cpu(), out)
        here, bytes_there = torch.empty(count, dtype=torch.uint8), torch.empty(count, dtype=torch.uint8, device=GPU)
        random.byte_lanes(here, 7, start)
        random.byte_lanes(bytes_there, 7, start)
        assert torch.equal(bytes_there.cpu(), here)
