"""The order of rows is a pure function of (run key, step), and batches hold rows of like length."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerothorder.data import BatchStream, collate_prompts
from zerothorder.errors import UsageError

streams = st.builds(
    lambda lengths, size, key, group: BatchStream(lengths, min(size, len(lengths)), key, group),
    st.lists(st.integers(0, 40), min_size=1, max_size=80),
    st.integers(1, 12),
    st.binary(max_size=100),
    st.integers(1, 5),
)


@given(streams, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation_without_its_tail(stream: BatchStream, epoch: int):
    steps = range(epoch * stream.batches_per_epoch, (epoch + 1) * stream.batches_per_epoch)
    seen = [row for step in steps for row in stream.indices(step)]
    assert all(len(stream.indices(step)) == stream.batch_size for step in steps)
    assert len(set(seen)) == len(seen) == stream.batches_per_epoch * stream.batch_size
    assert set(seen) <= set(range(len(stream.lengths)))
    assert len(stream.lengths) - len(seen) < stream.batch_size


@given(streams, st.lists(st.integers(0, 60), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_hidden_state(stream: BatchStream, steps: list[int]):
    asked = [stream.indices(step) for step in steps]
    fresh = BatchStream(stream.lengths, stream.batch_size, b"", stream.group_by_length)
    fresh._key = stream._key
    assert [fresh.indices(step) for step in reversed(steps)] == asked[::-1]


def test_what_is_handed_out_can_be_changed_freely():
    stream = BatchStream([1, 2, 3, 4], 2, b"key")
    first = list(stream.indices(0))
    stream.indices(0).clear()
    assert stream.indices(0) == first


def test_golden_order():
    # Ledgers name steps, not rows: a change here makes every recorded run read other data.
    stream = BatchStream([5, 3, 9, 1, 7, 2, 8, 4, 6, 10], 2, b"run", 2)
    assert [stream.indices(step) for step in range(10)] == [
        [1, 0],
        [6, 2],
        [7, 8],
        [4, 9],
        [3, 5],
        [4, 2],
        [3, 5],
        [7, 0],
        [6, 9],
        [1, 8],
    ]


def test_keys_epochs_and_groups_matter():
    lengths = [(7 * row) % 23 for row in range(200)]

    def order(key: bytes, start: int, group: int) -> list[list[int]]:
        stream = BatchStream(lengths, 8, key, group)
        return [stream.indices(start + step) for step in range(25)]

    kinds = [
        order(b"a", 0, 4),
        order(b"b", 0, 4),
        order(b"a", 25, 4),
        order(b"a", 0, 1),
        order(b"a" * 70, 0, 4),
    ]
    assert len({str(kind) for kind in kinds}) == len(kinds)


def test_grouping_saves_padding_and_keeps_windows_apart():
    lengths = [5 + (row * 37) % 60 for row in range(960)]

    def padded(group: int) -> int:
        stream = BatchStream(lengths, 16, b"k", group)
        return sum(16 * max(lengths[row] for row in stream.indices(step)) for step in range(60))

    assert sum(lengths) <= padded(16) < 1.12 * sum(lengths) < padded(1)
    # A window covers the same rows whether or not it is sorted inside.
    plain, grouped = BatchStream(lengths, 16, b"k", 1), BatchStream(lengths, 16, b"k", 10)
    for window in range(6):
        steps = range(window * 10, window * 10 + 10)
        assert {r for s in steps for r in plain.indices(s)} == {r for s in steps for r in grouped.indices(s)}


def test_batches_inside_a_window_are_not_in_order_of_length():
    lengths = list(range(64))
    stream = BatchStream(lengths, 4, b"k", 16)
    longest = [max(stream.indices(step)) for step in range(16)]
    assert sorted(longest) == list(range(3, 64, 4))
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_every_row_is_equally_likely_to_come_first():
    # 600 epochs of 6 batches of one: the first row is one of 6, each 100 times with a deviation of 9.1.
    stream = BatchStream([0] * 6, 1, b"fair", 1)
    first = [stream.indices(6 * epoch)[0] for epoch in range(600)]
    assert all(abs(first.count(row) - 100) < 4.5 * 9.2 for row in range(6))


@pytest.mark.parametrize(
    ("size", "group", "says"),
    [(9, 4, "9 is larger than the train split of 8 rows:"), (0, 4, "0 is not possible"), (2, 0, "groups of 0")],
)
def test_impossible_sizes(size: int, group: int, says: str):
    with pytest.raises(UsageError, match=says):
        BatchStream([1] * 8, size, b"k", group)


def test_a_negative_step_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="negative"):
        BatchStream([1], 1, b"k").indices(-1)


def test_collate_left():
    batch = collate_prompts([(5, 6, 7), (8,)], pad_id=2)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [2, 2, 8]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
        "position_ids": [[0, 1, 2], [0, 0, 0]],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_collate_right():
    batch = collate_prompts([(5, 6, 7), (8,)], pad_id=2, side="right")
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "position_ids" not in batch
