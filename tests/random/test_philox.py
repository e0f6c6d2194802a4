"""The generator against Random123, and its fast path against the plain torch specification."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerothorder import random
from zerothorder.random import cpu, laws, philox

# Random123 1.14, kat_vectors, "philox4x32 10": counter, key, result
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
KEYS = st.integers(0, 2**64 - 1)
STARTS = st.one_of(st.integers(0, 10_000), st.integers(2**31 - 2000, 2**31 + 2000), st.integers(2**39, 2**45))
COEFFICIENTS = st.floats(-10, 10, width=32) | st.floats(-1e-6, 1e-6)


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter: str, key: str, result: str) -> None:
    k0, k1 = words(key)
    assert philox.philox4x32(torch.tensor(words(counter)), (k0, k1)).tolist() == words(result)


def test_known_answer_of_the_fast_path() -> None:
    out = torch.empty(16, dtype=torch.uint8)
    random.byte_lanes(out, 0)
    assert out.view(torch.int32).tolist() == [w - (w >> 31 << 32) for w in words(KNOWN[0][2])]


def test_many_counters_at_once_are_the_single_ones() -> None:
    counters = torch.tensor([words(counter) for counter, _, _ in KNOWN])
    together = philox.philox4x32(counters, (7, 2**32 - 1))
    for row, counter in zip(together, counters, strict=True):
        assert torch.equal(philox.philox4x32(counter, (7, 2**32 - 1)), row)


def test_block_numbers_go_beyond_32_bits() -> None:
    first = philox.words(5, 2**32 - 1, 2)
    assert torch.equal(first[4:], philox.philox4x32(torch.tensor([0, 1, 0, 0]), (5, 0)))


@given(key=KEYS, start=STARTS, count=st.integers(1, 700), bits=st.sampled_from([1, 8, 16]))
@settings(max_examples=60, deadline=None)
def test_lanes_cut_words_from_the_low_end(key: int, start: int, count: int, bits: int) -> None:
    per = 32 // bits
    first = start * bits // 128
    stream = philox.words(key, first, (count * bits) // 128 + 3).tolist()
    expected = [
        stream[(i // per) - 4 * first] >> (bits * (i % per)) & (2**bits - 1) for i in range(start, start + count)
    ]
    assert philox.lanes(key, bits, start, count).tolist() == expected


def reference(source: torch.Tensor, law: str, key: int, coefficient: float, start: int) -> torch.Tensor:
    """source + c·z with the product rounded, then the sum, in the tensor's dtype."""
    z = laws.LAWS[law](key, start, source.numel()).to(source.dtype)
    return source + z * torch.tensor(coefficient, dtype=source.dtype)


@given(
    law=st.sampled_from(sorted(laws.LAWS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    key=KEYS,
    start=STARTS,
    count=st.integers(1, 9000),
    coefficient=COEFFICIENTS,
    in_place=st.booleans(),
    misaligned=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_fast_path_gives_the_bits_of_the_reference(
    law: str,
    dtype: torch.dtype,
    key: int,
    start: int,
    count: int,
    coefficient: float,
    in_place: bool,
    misaligned: int,
) -> None:
    source = torch.randn(count + misaligned, dtype=dtype, generator=torch.Generator().manual_seed(1))[misaligned:]
    expected = reference(source, law, key, coefficient, start)
    out = source if in_place else torch.full_like(source, torch.nan)
    random.shift(out, source, law, key, coefficient, start)
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    assert torch.equal(out.view(bits), expected.view(bits))


@given(key=KEYS, start=STARTS, count=st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_fast_bytes_are_those_of_the_reference(key: int, start: int, count: int) -> None:
    out = torch.empty(count, dtype=torch.uint8)
    random.byte_lanes(out, key, start)
    assert torch.equal(out.long(), philox.lanes(key, 8, start, count))


@given(key=KEYS, start=STARTS, count=st.integers(1, 9000), below=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_dropped_is_what_the_lanes_say_with_a_kernel_and_without(key: int, start: int, count: int, below: int) -> None:
    kept = torch.arange(1.0, count + 1)
    expected = kept.where(philox.lanes(key, 16, start, count) >= below, 0)
    fast, slow = kept.clone(), kept.clone()
    random.drop(fast, key, below, start)
    assert torch.equal(fast, expected)
    with pytest.MonkeyPatch.context() as without:
        without.delattr(cpu, "drop")
        random.drop(slow, key, below, start)
    assert torch.equal(slow, expected)


@given(
    law=st.sampled_from(sorted(laws.LAWS)),
    key=KEYS,
    origin=STARTS,
    whole=st.integers(2, 20_000),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_slice_draws_the_slice_of_the_whole(law: str, key: int, origin: int, whole: int, data: st.DataObject) -> None:
    a = data.draw(st.integers(0, whole - 1))
    b = data.draw(st.integers(a + 1, whole))
    zeros = torch.zeros(whole)
    drawn, part = torch.empty(whole), torch.empty(b - a)
    random.shift(drawn, zeros, law, key, 1.0, origin)
    random.shift(part, zeros[a:b], law, key, 1.0, origin + a)
    assert torch.equal(part, drawn[a:b])
