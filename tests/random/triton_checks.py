"""What `test_triton.py` runs in processes of their own: Triton decides at import whether it interprets or compiles.

`bits` (with TRITON_INTERPRET=1) compares the kernels with the specification and with the CPU path; `code` compiles
them for GPUs that need not be there and reads what multiplies and adds in the result. Both print what is wrong.
"""

import random as python_random
import re
import sys
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zerothorder import random
from zerothorder.random import cpu, laws, philox
from zerothorder.random import triton as kernels

CASES = 48
TILE = kernels.TILE
KEYS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
# elements and, a law each, Philox blocks past 32 bits; tiles of both paths
STARTS = [0, 1, TILE, cpu.TILE, 2**31, 2**32, 2**35, 2**36, 2**39, 2**42 + 2**41, 2**45]
COUNTS = [1, 2, 31, 127, TILE, 2 * TILE]
COEFFICIENTS = [0.0, -0.0, 1.0, -1e-3, 7e-42, 1e37]
TARGETS = [(GPUTarget("cuda", 80, 32), "ptx"), (GPUTarget("hip", "gfx942", 64), "amdgcn")]
FUSED = re.compile(r"\b(?:(?:fma|mad)\.\S*f(?:32|64)|v_\w*(?:fma|mac|mad)\w*f(?:32|64)\w*)")
ADDED = re.compile(r"\b(?:add\.\S*f(?:32|64)|v_\w*add_f(?:32|64)\w*)")


def near(choose: python_random.Random, places: list[int], spread: int) -> int:
    return max(0, choose.choice(places) + choose.randint(-spread, spread))


def numbers(count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Of every size, with both zeros and with subnormal ones."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, dtype=dtype, generator=generator)
    kind = torch.randint(5, (count,), generator=generator)
    values[kind == 0] = 0.0
    values[kind == 1] = -0.0
    values[kind == 2] *= torch.finfo(dtype).tiny
    return values


def bits() -> None:
    choose = python_random.Random(11)
    for case in range(CASES):
        law, dtype = sorted(laws.LAWS)[case % 2], list(kernels.INTEGER)[case // 2 % 2]
        in_place, misaligned = bool(case // 4 % 2), choose.randint(0, 3)
        key = choose.choice([*KEYS, choose.getrandbits(64), choose.getrandbits(64)])
        start, count = near(choose, STARTS, 3), max(1, near(choose, COUNTS, 3))
        coefficient = choose.choice([*COEFFICIENTS, choose.gauss(0, 1), choose.gauss(0, 1)])
        name = f"{law} {dtype} key={key} start={start} count={count} c={coefficient!r} in place={in_place}"

        source = numbers(count + misaligned, dtype, case)[misaligned:]
        z = laws.LAWS[law](key, start, count).to(dtype)
        expected = source + z * torch.tensor(coefficient, dtype=dtype)
        for path in (cpu, kernels):
            # one element more on either side, which must stay
            room = torch.full((count + 2,), 3.0, dtype=dtype)
            out = room[1:-1]
            if in_place:
                out.copy_(source)
            path.shift(out, out if in_place else source, law, key, coefficient, start)
            if not torch.equal(out.view(kernels.INTEGER[dtype]), expected.view(kernels.INTEGER[dtype])):
                print(f"{path.__name__}.shift: {name}")
            if room[0] != 3 or room[-1] != 3:
                print(f"{path.__name__}.shift wrote beyond its end: {name}")

            held = torch.full((count + 2,), 3, dtype=torch.uint8)
            path.byte_lanes(held[1:-1], key, start)
            if not torch.equal(held[1:-1].long(), philox.lanes(key, 8, start, count)):
                print(f"{path.__name__}.byte_lanes: {name}")
            if held[0] != 3 or held[-1] != 3:
                print(f"{path.__name__}.byte_lanes wrote beyond its end: {name}")

    for device, path in (("cpu", cpu), ("cuda:1", kernels), ("xpu:0", kernels), ("mps", None)):
        if random.fast_path(torch.device(device)) is not path:
            print(f"{device} is not served by {path}")


@triton.jit
def fusable(out, source, c):
    at = tl.arange(0, 128)
    x = tl.load(source + at)
    tl.store(out + at, x * c + x)


def assembly(kernel: Any, target: GPUTarget, kind: str, fusion: bool, **arguments: Any) -> str:
    """Machine-near text; an argument is the name of its type, or a constant in a one-tuple."""
    constants = {name: value[0] for name, value in arguments.items() if isinstance(value, tuple)}
    signature = {name: "constexpr" if name in constants else kind for name, kind in arguments.items()}
    options = kernels.OPTIONS | ({"enable_fp_fusion": True} if fusion else {})
    return triton.compile(ASTSource(kernel, signature, constants), target=target, options=options).asm[kind]


def code() -> None:
    for target, kind in TARGETS:
        fused = assembly(fusable, target, kind, True, out="*fp32", source="*fp32", c="fp32")
        if not FUSED.search(fused):
            print(f"{target}: the pattern does not find a fused multiply-add where there is one")
        for dtype, integer in (("fp32", "i32"), ("fp64", "i64")):
            for law, width in kernels.BITS.items():
                for fusion in (False, True):
                    text = assembly(
                        kernels._shift, target, kind, fusion,
                        out=f"*{dtype}", source=f"*{dtype}", table="*i16" if law == "gaussian" else (None,),
                        k0="i32", k1="i32", c=integer, tile="i64", skip="i32", n="i64",
                        bits=(width,), size=(TILE,),
                    )  # fmt: skip
                    name = f"{target} {law} {dtype} fusion={fusion}"
                    if found := FUSED.findall(text):
                        print(f"{name}: {sorted(set(found))}")
                    if not ADDED.search(text) or ".ftz" in text:
                        print(f"{name}: no addition found, or one that flushes subnormal numbers")
        assembly(
            kernels._bytes, target, kind, False,
            out="*u8", k0="i32", k1="i32", tile="i64", skip="i32", n="i64", size=(TILE,),
        )  # fmt: skip


if __name__ == "__main__":
    {"bits": bits, "code": code}[sys.argv[1]]()
    print("done")
