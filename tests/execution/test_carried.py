"""Each layer that carries all points at once is the loop over copied modules: every option, every law, any points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from many_points import DIRECTIONS, VECTOR, bind, key, look, pairs, randn, shaken, truth
from zerothorder.execution import carried, visit
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.objectives.classification import Classification
from zerothorder.point import Point
from zerothorder.space import ParameterSpace, Site, shard_segments

ROWS = 2
POINTS: dict[str, list[Point]] = {
    "three pairs": pairs(3),
    "one-sided": [Point(), *(Point(((key(j), 0.05 + j / 100),)) for j in range(3))],
    "several terms": [
        Point(((key(0), 0.05), (key(1), -0.02))),
        Point(((key(2), 0.03), (key(1), 0.01), (key(0), 0.02))),
        Point(((key(0), 0.05), (key(0), -0.02))),
    ],
    "a vector of the State": [Point(((VECTOR, 0.1), (key(0), c))) for c in (0.05, -0.05)],
    "mixed": [*pairs(1), Point(), Point(((key(1), 0.05), (key(0), 0.01))), Point(((VECTOR, -0.1),)), Point()],
}


class Layer(nn.Module):
    """A layer inside a model, `frozen` by parameter name."""

    def __init__(self, layer: nn.Module, frozen: str = "") -> None:
        super().__init__()
        self.layer = layer
        for name in frozen.split():
            layer.get_parameter(name).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Tied(nn.Module):
    """A table that is also the output layer."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.table, self.head, self.factor = nn.Embedding(30, 12), nn.Linear(12, 30), factor
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).tanh())


class Narrow(nn.Module):
    """An output layer of which a hook takes a few rows, as the text objectives do; in the layer's own dtype."""

    def __init__(self, layer: nn.Linear, frozen: str = "") -> None:
        super().__init__()
        self.layer, rows = Layer(layer, frozen).layer, torch.tensor([7, 2, 11])

        def narrow(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return nn.functional.linear(
                args[0], module.weight[rows], module.bias[rows] if layer.bias is not None else None
            )

        narrow.rows = rows  # type: ignore[attr-defined]
        layer.register_forward_hook(narrow)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def gpt2_linear() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(16, 12)


def llama_norm() -> nn.Module:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    return LlamaRMSNorm(12)


def t5_norm() -> nn.Module:
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    return T5LayerNorm(12)


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 30, (ROWS, *shape), generator=torch.Generator().manual_seed(0))


def tokens() -> Tensor:
    return randn(ROWS, 5, 12)


CARRIED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: Layer(nn.Linear(12, 16)), tokens),
    "linear, one row each": (lambda: Layer(nn.Linear(12, 16)), lambda: randn(ROWS, 12)),
    "linear, two places each": (lambda: Layer(nn.Linear(12, 16)), lambda: randn(ROWS, 2, 3, 12)),
    "linear without a bias": (lambda: Layer(nn.Linear(12, 16, bias=False)), tokens),
    "linear, frozen bias": (lambda: Layer(nn.Linear(12, 16), "bias"), tokens),
    "linear, frozen weight": (lambda: Layer(nn.Linear(12, 16), "weight"), tokens),
    "linear, some rows": (lambda: Narrow(nn.Linear(12, 16)), tokens),
    "linear, some rows, no bias": (lambda: Narrow(nn.Linear(12, 16, bias=False)), tokens),
    "linear, some rows, frozen bias": (lambda: Narrow(nn.Linear(12, 16), "bias"), tokens),
    "linear, some rows, frozen weight": (lambda: Narrow(nn.Linear(12, 16), "weight"), tokens),
    "gpt2's linear": (lambda: Layer(gpt2_linear()), tokens),
    "gpt2's linear, frozen bias": (lambda: Layer(gpt2_linear(), "bias"), tokens),
    "gpt2's linear, frozen weight": (lambda: Layer(gpt2_linear(), "weight"), tokens),
    "embedding": (lambda: Layer(nn.Embedding(30, 12)), lambda: ids(5)),
    "embedding, one id each": (lambda: Layer(nn.Embedding(30, 12)), ids),
    "embedding, padding": (lambda: Layer(nn.Embedding(30, 12, padding_idx=3)), lambda: ids(40)),
    "tied": (Tied, lambda: ids(5)),
    "layer norm": (lambda: Layer(nn.LayerNorm(12)), tokens),
    "layer norm without a bias": (lambda: Layer(nn.LayerNorm(12, bias=False)), tokens),
    "layer norm, frozen bias": (lambda: Layer(nn.LayerNorm(12), "bias"), tokens),
    "layer norm, frozen weight": (lambda: Layer(nn.LayerNorm(12), "weight"), tokens),
    "layer norm of two dimensions": (lambda: Layer(nn.LayerNorm((5, 12))), tokens),
    "rms norm": (lambda: Layer(nn.RMSNorm(12)), tokens),
    "rms norm of two dimensions": (lambda: Layer(nn.RMSNorm((5, 12), eps=0.1)), tokens),
    "llama's norm": (lambda: Layer(llama_norm()), tokens),
    "t5's norm": (lambda: Layer(t5_norm()), tokens),
}
# those that carry factors only: dense draws are made once a point
CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "conv1d": (lambda: Layer(nn.Conv1d(4, 8, 3)), lambda: randn(ROWS, 4, 9)),
    "conv2d": (lambda: Layer(nn.Conv2d(4, 8, 3)), lambda: randn(ROWS, 4, 7, 6)),
    "conv3d": (lambda: Layer(nn.Conv3d(2, 8, 2)), lambda: randn(ROWS, 2, 4, 5, 3)),
    "conv without a bias": (lambda: Layer(nn.Conv2d(4, 8, 3, bias=False)), lambda: randn(ROWS, 4, 7, 6)),
    "conv, frozen bias": (lambda: Layer(nn.Conv2d(4, 8, 3), "bias"), lambda: randn(ROWS, 4, 7, 6)),
    "conv, strides": (lambda: Layer(nn.Conv2d(4, 8, (3, 2), stride=(2, 3))), lambda: randn(ROWS, 4, 7, 9)),
    "conv, padding": (lambda: Layer(nn.Conv2d(4, 8, 3, padding=(2, 1))), lambda: randn(ROWS, 4, 5, 4)),
    "conv, dilation": (lambda: Layer(nn.Conv1d(4, 8, 3, dilation=2)), lambda: randn(ROWS, 4, 9)),
    "conv, same size": (lambda: Layer(nn.Conv2d(4, 8, 3, padding="same")), lambda: randn(ROWS, 4, 5, 4)),
}
ALONE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "embedding of a largest norm": (lambda: Layer(nn.Embedding(30, 12, max_norm=1.0)), lambda: ids(5)),
    "conv in groups": (lambda: Layer(nn.Conv2d(4, 8, 3, groups=2)), lambda: randn(ROWS, 4, 7, 6)),
    "conv around the edge": (
        lambda: Layer(nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")),
        lambda: randn(ROWS, 4, 7, 6),
    ),
    "conv, frozen weight": (lambda: Layer(nn.Conv2d(4, 8, 3), "weight"), lambda: randn(ROWS, 4, 7, 6)),
    "batch norm": (lambda: Layer(nn.BatchNorm1d(12)), lambda: randn(ROWS, 12)),
}
LAYERS = CARRIED | CONVOLUTIONS | ALONE


def same(found: Tensor, expected: Tensor, error: float = 1e-12) -> None:
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) <= error * float(expected.abs().max().clamp(min=1))


@pytest.mark.parametrize("law", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_at_many_points_is_that_many_layers(name: str, law: str) -> None:
    make, batch = LAYERS[name]
    bound, x = bind(shaken(make()), DIRECTIONS[law]), {"x": batch()}
    for points in POINTS.values():
        expected = truth(bound, x, points)
        executor = Batched(check=False)
        same(look(executor, bound, x, points), expected)
        assert executor.reason is None
        factors = law.startswith("rank") and not any(isinstance(k, str) for point in points for k, _ in point.terms)
        carried = name in CARRIED or (name in CONVOLUTIONS and factors)
        assert executor.one_by_one == (set() if carried else {type(bound.model.layer).__name__})
        # and what is compared does depend on the point and on the row
        different = {point.terms for point in points}
        assert len({tuple(values) for values in expected.tolist()}) == len(different)
        assert all(len(set(values)) == ROWS for values in expected.tolist())


@pytest.mark.parametrize("name", ["linear", "linear, some rows", "gpt2's linear"])
@pytest.mark.parametrize("law", ["gaussian", "signs"])
def test_dense_weights_made_a_few_rows_at_a_time_are_the_same(
    name: str, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 5 of the 16 (or 12) rows, the last one shorter."""
    made: list[int] = []
    own = carried.Copies.weights

    def counting(self: Any, site: Any, out: Tensor, *where: Any) -> None:
        made.append(out.shape[1])
        own(self, site, out, *where)

    monkeypatch.setattr(carried, "BLOCK", 1)
    monkeypatch.setattr(carried, "LEAST", 5 if "rows" not in name else 2)
    monkeypatch.setattr(carried.Copies, "weights", counting)
    make, batch = CARRIED[name]
    for points in (POINTS["three pairs"], POINTS["mixed"]):
        bound, x = bind(shaken(make()), DIRECTIONS[law]), {"x": batch()}
        same(look(Batched(check=False), bound, x, points), truth(bound, x, points))
    weights = {rows for rows in made if rows not in (12, 16)}  # a bias is made whole
    assert weights == {"linear": {5, 1}, "linear, some rows": {2, 1}, "gpt2's linear": {5, 2}}[name]


@pytest.mark.parametrize("law", ["gaussian", "rank-1"])
@pytest.mark.parametrize("name", ["linear", "linear, some rows", "gpt2's linear", "embedding", "llama's norm"])
@pytest.mark.parametrize("rows_cut", [True, False], ids=["rows", "columns"])
def test_a_shard_of_a_larger_tensor_is_carried_too(rows_cut: bool, name: str, law: str) -> None:
    """The layer's tensors are the last rows, or the last columns, of tensors twice their size."""
    make, batch = LAYERS[name]
    bound, x, points = bind(shaken(make()), DIRECTIONS[law]), {"x": batch()}, [*pairs(2), Point()]
    shards: list[Site] = []
    for site in bound.space:
        local = tuple(site.parameter.shape)
        cut = 0 if rows_cut else len(local) - 1
        shape, offset = list(local), [0] * len(local)
        shape[cut], offset[cut] = 2 * local[cut], local[cut]
        segments = shard_segments(tuple(shape), tuple(offset), local)
        shards.append(replace(site, shape=tuple(shape), segments=segments))
    bound = replace(bound, space=ParameterSpace(shards))
    executor = Batched(check=False)
    found, expected = look(executor, bound, x, points), look(Copy(), bound, x, points)
    same(found, expected)
    assert executor.reason is None
    assert len({tuple(values) for values in expected.tolist()}) == len(points)


class Tanh(nn.Linear):
    """A subclass may compute anything."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class NormedRMSNorm(nn.Module):
    """A layer of somebody else's that is named like a known one, and reads all of its weight for every element."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(12))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight / self.weight.norm()


class Called(nn.Module):
    """A class with a call of its own, as layers that checkpoint activations have."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(12))

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(3 * x)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def with_own_forward() -> nn.Module:
    layer = nn.Linear(12, 16)
    layer.forward = lambda x: nn.Linear.forward(layer, x).tanh()  # type: ignore[method-assign]
    return layer


def with_computed_weight() -> nn.Module:
    """The weight is a product of two searched tensors, put in place before every call."""
    layer = nn.Linear(12, 16)
    own = layer.weight.detach().clone()
    del layer.weight
    layer.gain, layer.core = nn.Parameter(torch.rand(16, 1)), nn.Parameter(own)

    def compute(module: Any, args: Any) -> None:
        module.weight = module.gain * module.core

    layer.register_forward_pre_hook(compute)
    layer.weight = own
    return layer


def reading_weights() -> nn.Module:
    layer = nn.Linear(12, 16)
    layer.register_forward_pre_hook(lambda module, args: (args[0] * module.weight.sum(),))
    return layer


def changing_input() -> nn.Module:
    norm = llama_norm()
    norm.register_forward_pre_hook(lambda module, args: (args[0].square() + 1,))
    return norm


def changing_output() -> nn.Module:
    norm = llama_norm()
    norm.register_forward_hook(lambda module, args, output: output * module.weight.sum())
    return norm


UNUSUAL: dict[str, Callable[[], nn.Module]] = {
    "a subclass": lambda: Tanh(12, 16),
    "a name like a known one": NormedRMSNorm,
    "a call of its own": Called,
    "a forward of its own": with_own_forward,
    "a weight that others compute": with_computed_weight,
    "a hook before that reads weights": reading_weights,
    "a hook before that changes the input": changing_input,
    "a hook after": changing_output,
}


@pytest.mark.parametrize("law", ["gaussian", "rank-1"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_not_the_known_layer_runs_point_by_point(name: str, law: str) -> None:
    model = Layer(UNUSUAL[name]())
    model.double().eval()
    bound, x, points = bind(model, DIRECTIONS[law]), {"x": tokens()}, pairs(2)
    executor = Batched(check=False)
    same(look(executor, bound, x, points), look(Copy(), bound, x, points), 1e-12)
    assert executor.reason is None
    assert executor.one_by_one == {type(model.layer).__name__}


@pytest.mark.parametrize("name", ["linear", "layer norm", "llama's norm"])
def test_a_hook_that_says_it_reads_no_weights_runs_once_for_all(name: str) -> None:
    make, batch = CARRIED[name]
    model = shaken(make())
    calls: list[int] = []

    def square(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append(len(args[0]))
        return (args[0].square() + 1,)

    square.input_only = True  # type: ignore[attr-defined]
    model.layer.register_forward_pre_hook(square)  # type: ignore[union-attr]
    bound, x, points, executor = bind(model), {"x": batch()}, pairs(2), Batched(check=False)
    found = look(executor, bound, x, points)
    assert calls == [ROWS * len(points)]
    assert executor.one_by_one == set()
    same(found, truth(bound, x, points))


def test_a_hook_on_all_modules_of_the_process_sees_each_point() -> None:
    model = shaken(Layer(nn.Linear(12, 16)))
    bound, x, points = bind(model), {"x": tokens()}, pairs(1)
    seen: list[Tensor] = []

    def see(module: nn.Module, args: Any, output: Any) -> None:
        if module is model.layer:
            seen.append(module.weight.detach().clone())

    handle = nn.modules.module.register_module_forward_hook(see)
    try:
        look(Batched(check=False), bound, x, points)
    finally:
        handle.remove()
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])


def test_kinds_can_be_named_that_run_point_by_point() -> None:
    bound, x, points = bind(shaken(Tied())), {"x": ids(5)}, pairs(2)
    executor = Batched(check=False, singly=["Linear"])
    same(look(executor, bound, x, points), truth(bound, x, points))
    assert executor.one_by_one == {"Linear"}


def test_arguments_by_name_are_understood() -> None:
    class Named(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    bound, x, points = bind(shaken(Named(nn.Linear(12, 16)))), {"x": tokens()}, pairs(2)
    executor = Batched(check=False)
    same(look(executor, bound, x, points), truth(bound, x, points))
    assert executor.one_by_one == {"Linear"}


@dataclass
class Example:
    prompt: tuple[int, ...]
    label: int
    answers: Sequence[Sequence[int]] = ((5,), (9,), (7,))
    references: Sequence[str] = ()


def llama(tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=tied,
        )
    )  # fmt: skip


@pytest.mark.parametrize("law", ["gaussian", "rank-1", "rank-3"])
@pytest.mark.parametrize("searched", ["all", "head", "all but the head"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_logits_of_a_few_words_are_those_of_copied_models(tied: bool, searched: str, law: str) -> None:
    """The output layer runs for the candidates' rows alone, for all points at once; its float32 bounds the error."""
    model = shaken(llama(tied))
    head = model.get_output_embeddings().weight
    for parameter in model.parameters():
        parameter.requires_grad_(
            {"all": True, "head": parameter is head, "all but the head": parameter is not head}[searched]
        )
    rows = [Example((3, 8, 20), 0), Example((4, 31), 2)]
    bound, points, objective = bind(model, DIRECTIONS[law]), pairs(3), Classification(0)
    widths: list[int] = []
    own = carried.linear

    def noting(module: Any, x: Tensor, sites: Any, copies: Any, few: Tensor | None = None) -> Any:
        found = own(module, x, sites, copies, few)
        if module is model.get_output_embeddings():
            widths.append(found.shape[-1])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visit, "linear", noting)
        patch.setitem(carried._KNOWN, nn.Linear, noting)
        executor = Batched(check=False)
        found = look(executor, bound, rows, points, objective)
    expected = look(Copy(), bound, rows, points, objective)
    assert torch.allclose(found, expected, rtol=0, atol=3e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3
    assert executor.reason is None
    assert executor.one_by_one == set()
    assert widths == ([] if searched == "all but the head" else [3])
