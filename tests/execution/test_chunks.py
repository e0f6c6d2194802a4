"""How points and rows are cut into passes changes nothing: copies a pass, draws, their order, micro-batches."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from many_points import DIRECTIONS, KEY, bind, key, look, pairs, shaken
from small_families import Generated, Mean, build, images, text
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.execution import Surroundings
from zerothorder.execution.batched import Batched, points_a_pass
from zerothorder.execution.check import check_sites
from zerothorder.execution.copy import Copy
from zerothorder.objectives.wrap import MicroBatches
from zerothorder.point import Point, Values

ERROR = 1e-10
POINTS = [*pairs(3), Point(), Point(((key(3), 0.05), (key(4), -0.02)))]
"""Eight: both sides of three draws, the weights as they are, and one along two draws."""


class Convolutions(nn.Module):
    """Convolutions, batch normalisation in eval mode, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.body(pixel_values).mean((2, 3)))


def bart() -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=99, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
        bos_token_id=None, forced_eos_token_id=None,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


class Listed(Mean):
    """As `Mean`, of a list of rows that micro-batches can cut."""

    def count(self, prepared: Any) -> int:
        return len(prepared)

    def select(self, prepared: Any, rows: Any) -> Any:
        return [prepared[row] for row in rows]

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return super().evaluate(model, {name: torch.stack([row[name] for row in prepared]) for name in prepared[0]})


FAMILIES = {
    "decoder": "llama",
    "decoder, GPT-2": "gpt2",
    "encoder": "bert",
    "encoder-decoder": bart,
    "vision": "vit",
    "convolutional": Convolutions,
    "recurrent": "lstm",
    "lora": "lora",
    "prefix": "prefix",
}


@functools.cache
def family(name: str) -> tuple[Surroundings, dict[str, Tensor], dict[str, str]]:
    """The model bound, its three rows, and who owns what is read elsewhere."""
    made = FAMILIES[name]
    if isinstance(made, str):
        model, batch = build(made, torch.float64)
    else:
        model = shaken(made())
        batch = text(encoder_decoder=True) if made is bart else {k: v.double() for k, v in images().items()}
    bound = bind(model)
    return bound, batch, dict(check_sites(bound, Mean(), batch, mode="joint").owners)


def whole(name: str, law: str) -> tuple[Surroundings, dict[str, Tensor], dict[str, str], Tensor]:
    """And the values of all points in one pass."""
    bound, batch, owners = family(name)
    bound = replace(bound, direction=DIRECTIONS[law])
    executor = Batched(owners, copies=len(POINTS), check=False)
    found = look(executor, bound, batch, POINTS, Mean())
    assert executor.reason is None
    assert len({tuple(values) for values in found.tolist()}) == len(POINTS)
    return bound, batch, owners, found


LAWS = ("gaussian", "rank-2")


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_points_in_a_pass(name: str, law: str) -> None:
    bound, batch, owners, found = whole(name, law)
    assert torch.allclose(found, look(Copy(), bound, batch, POINTS, Mean()), rtol=0, atol=ERROR)
    for copies in (1, 3, 5, None):
        executor = Batched(owners, copies=copies, check=False)
        before = bound.meter.calls
        assert torch.allclose(look(executor, bound, batch, POINTS, Mean()), found, rtol=0, atol=ERROR)
        assert executor.reason is None
        # by default 64 rows, here of three a point
        assert bound.meter.calls - before == -(-len(POINTS) // (copies or 21))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_draws_and_their_order(name: str, law: str) -> None:
    bound, batch, owners, found = whole(name, law)
    for order in ([7, 0, 6, 3, 2, 5, 1, 4], [5, 2, 5], [6, 6], [7, 3]):
        points = [POINTS[n] for n in order]
        values = look(Batched(owners, check=False), bound, batch, points, Mean())
        assert torch.allclose(values, found[order], rtol=0, atol=ERROR)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_micro_batches_and_rows(name: str, law: str) -> None:
    bound, batch, owners, found = whole(name, law)
    rows = [{k: v[n] for k, v in batch.items()} for n in range(3)]
    for size in (1, 2, 4):
        objective, executor = MicroBatches(Listed(), size), Batched(owners, copies=5, check=size == 2)
        prepared = objective.prepare(bound.model, rows, KEY)
        assert torch.allclose(look(executor, bound, prepared, POINTS, objective), found, rtol=0, atol=ERROR)
        assert executor.reason is None
    for some in ((2,), (0, 2, 2, 1)):
        points = [replace(point, rows=some) for point in POINTS]
        values = look(Batched(owners, check=False), bound, batch, points, Mean())
        assert torch.allclose(values, found[:, list(some)], rtol=0, atol=ERROR)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["decoder", "decoder, GPT-2"])
def test_generation_keeps_what_it_has_read_a_point(name: str, law: str) -> None:
    """Points choose tokens of their own, so what a row has read differs from point to point."""
    bound, batch, owners, _ = whole(name, law)
    points, objective = pairs(3, 0.2), Generated()
    executor = Batched(owners)
    for copies in (None, 4):
        executor.copies = copies
        found = look(executor, bound, batch, points, objective)
        assert torch.allclose(found, look(Copy(), bound, batch, points, objective), rtol=0, atol=ERROR)
    assert executor.reason is None
    look(Batched(owners, check=False), bound, batch, points, objective)
    tokens = objective.tokens.view(len(points), 3, -1)
    assert len({tuple(rows.flatten().tolist()) for rows in tokens}) > 1


@pytest.mark.parametrize(
    ("rows", "tokens", "alone", "points"),
    [
        (1, None, False, 64), (16, None, False, 4), (100, None, True, 2),
        (16, 16 * 64, False, 2), (16, 16 * 64, True, 1), (4, 4 * 64, True, 4), (1, 64, False, 16), (0, 0, False, 1024),
    ],
)  # fmt: skip
def test_a_pass_has_about_a_thousand_tokens(rows: int, tokens: int | None, alone: bool, points: int) -> None:
    assert points_a_pass(rows, tokens, alone) == points


@pytest.mark.parametrize("law", ["dense", "low rank"])
def test_points_go_alone_where_they_share_nothing_and_fill_a_pass_by_themselves(law: str) -> None:
    """From the second step on: the first finds out whether layers are shared."""

    class Long(Mean):
        def token_count(self, prepared: Any) -> int:
            return 3 * 400

    bound, batch, owners = family("decoder")
    bound = replace(bound, direction=LowRank(bytes(16)) if law == "low rank" else Dense(bytes(16)))
    executor, calls = Batched(owners, check=False), list[int]()
    for _ in range(2):
        before = bound.meter.calls
        look(executor, bound, batch, POINTS[:4], Long())
        calls.append(bound.meter.calls - before)
    assert calls == ([2, 4] if law == "low rank" else [2, 2])
