"""Which rows a step sees, and how they become tensors.

The order is a pure function of the run key and the step: a resumed run, another rank and a later reader of
the ledger ask the same question and get the same rows.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zerothorder.errors import UsageError


class BatchStream:
    """`indices(step)`: the rows of a step, from endless epochs that are keyed permutations.

    An epoch is cut into windows of `group_by_length` batches; inside a window rows are sorted by length, so
    that a batch holds rows of like length and little padding, and the batches are shuffled again. The rows
    beyond the last full batch of an epoch are left out of it (others in the next). `group_by_length=1` is
    plain shuffling.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, run_key: bytes, group_by_length: int = 16) -> None:
        if batch_size < 1:
            raise UsageError(f"a batch size of {batch_size} is not possible: give 1 or more")
        if group_by_length < 1:
            raise UsageError(f"groups of {group_by_length} batches are not possible: give 1 (no grouping) or more")
        if batch_size > len(lengths):
            rows = f"{len(lengths)} row{'' if len(lengths) == 1 else 's'}"
            raise UsageError(
                f"the batch size {batch_size} is larger than the train split of {rows}: "
                f"give a batch size of at most {len(lengths)} or more data"
            )
        self.lengths = tuple(lengths)
        self.batch_size = batch_size
        self.group_by_length = group_by_length
        # blake2b takes keys of at most 64 bytes; a run key may be of any length.
        self._key = hashlib.blake2b(run_key, digest_size=32, person=b"zo.batches").digest()
        self._last: tuple[int, list[list[int]]] = (-1, [])

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one pass over the data."""
        return len(self.lengths) // self.batch_size

    def indices(self, step: int) -> list[int]:
        """The row numbers of this step (counted from 0)."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, place = divmod(step, self.batches_per_epoch)
        # Only a saving of work: the pair is replaced whole, so a reader never sees half of it.
        known, batches = self._last
        if known != epoch:
            batches = self._epoch(epoch)
            self._last = (epoch, batches)
        return list(batches[place])

    def _draw(self, tag: bytes, epoch: int, index: int) -> bytes:
        message = struct.pack("<QQ", epoch, index)
        return hashlib.blake2b(message, digest_size=16, key=self._key, person=tag).digest()

    def _epoch(self, epoch: int) -> list[list[int]]:
        order = sorted(range(len(self.lengths)), key=lambda row: self._draw(b"row", epoch, row))
        order = order[: self.batches_per_epoch * self.batch_size]
        batches: list[list[int]] = []
        window = self.group_by_length * self.batch_size
        for start in range(0, len(order), window):
            rows = sorted(order[start : start + window], key=self.lengths.__getitem__)
            group = [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
            ranks = [self._draw(b"batch", epoch, len(batches) + place) for place in range(len(group))]
            batches += [group[place] for place in sorted(range(len(group)), key=ranks.__getitem__)]
        return batches


def collate_prompts(
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    device: str | torch.device = "cpu",
    side: Literal["left", "right"] = "left",
) -> dict[str, Tensor]:
    """Pad to the longest: `input_ids` and `attention_mask`, int64, (rows, longest).

    Padding on the left, for causal models, brings `position_ids` that count from each row's first token;
    encoders are padded on the right and count for themselves.
    """
    longest = max(map(len, prompts), default=0)
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), longest) if side == "left" else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt, dtype=torch.int64)
        mask[row, place] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if side == "left":
        batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {name: tensor.to(device) for name, tensor in batch.items()}
