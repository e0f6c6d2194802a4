"""The family of ZO-Bench (Zhang et al. 2024): every check of the card, on problems whose answers are known.

docs/papers.md maps every check to the tests here; test_papers.py holds the map and this file together.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from many_points import TensorRows
from parts.toys import problem
from small_families import MODELS, Mean, around, build
from zerothorder import catalogue
from zerothorder.directions.blocks import BLOCK, blocks_of
from zerothorder.errors import LedgerError, UsageError
from zerothorder.execution import Surroundings
from zerothorder.execution.batched import Batched
from zerothorder.execution.check import check_sites
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.ledger.entry import float32
from zerothorder.point import Point, Values
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace, Site

FAMILY = (
    "zo-sgd", "zo-sgd-sign", "zo-sgd-mmt", "zo-sgd-cons", "zo-adam", "forward-grad", "block-wise", "hybrid",
    "sparse-gradient",
)  # fmt: skip


class Error:
    """Squared error a row, left to autograd."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def count(self, prepared: Any) -> int:
        return len(prepared[0])

    def select(self, prepared: Any, rows: Any) -> Any:
        return tuple(t[list(rows)] for t in prepared)

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        x, y = prepared
        return Values.of(((model(x) - y) ** 2).mean(1))


def run_of(
    name: str, model: nn.Module, objective: Any = None, executor: Any = None, path: Path | None = None, steps: int = 10,
    **settings: Any,
) -> Run:  # fmt: skip
    recipe = catalogue.build(name, **{"lr": 0.01, "eps": 1e-3, **settings})
    space, how = ParameterSpace.of(model), executor or Swap()
    return Run(model, space, recipe, objective or Error(), how, path=path, steps=steps)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def drawn(run: Run, site: Site, key: Key) -> Tensor:
    """z of a whole site, float64, maps and blocks included."""
    z = torch.zeros(site.numel, dtype=torch.float64)
    run.direction.shift(z, z, site, key, 1.0, 0, run.state)
    return z.view(site.shape)


def gradient_of(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    x, y = batch
    loss = ((model(x) - y) ** 2).mean()
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("name", FAMILY)
def test_every_one_of_the_family_learns_the_toy(name: str) -> None:
    """600 forwards of 32 rows take off at least a tenth of the loss; those that may keep their place do not climb."""
    model, main, _ = problem(torch.float64)
    rate = {"zo-sgd-sign": 2e-3, "zo-adam": 5e-3, "zo-sgd-mmt": 2e-3, "zo-sgd-cons": 0.03, "forward-grad": 0.02}
    settings = {"block-wise": {"level": "linear"}, "hybrid": {"level": "linear"}}.get(name, {})
    run = run_of(name, model, lr=rate.get(name, 0.01), **settings)
    began = Error().evaluate(model, main).mean()
    while run.around.meter.examples < 600 * 32:
        run.step(main)
    assert Error().evaluate(model, main).mean() < 0.9 * began


# 1: Cons


def test_the_conservative_step_never_raises_the_loss_of_its_batch() -> None:
    """In float64, at a rate at which the plain step would often raise it."""
    model, main, _ = problem(torch.float64)
    run = run_of("zo-sgd-cons", model, lr=0.3)
    last, signs = Error().evaluate(model, main).mean(), list[float]()
    for _ in range(60):
        signs.append(run.step(main).notes["sign"])
        now = Error().evaluate(model, main).mean()
        assert now <= last + 1e-12
        last = now
    assert {0.0, 1.0} <= set(signs), "some steps are taken and some refused"


def test_the_conservative_step_takes_five_forwards_and_at_rate_0_nothing_moves() -> None:
    model, main, _ = problem(torch.float64)
    before = weights(model)
    run = run_of("zo-sgd-cons", model, lr=0.0)
    run.step(main)
    assert run.around.meter.examples == 5 * 32
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("here", "there", "back", "sign"),
    [
        (1.0, 0.5, 2.0, 1.0),
        (1.0, 2.0, 0.5, -1.0),
        (1.0, 2.0, 3.0, 0.0),
        (1.0, 1.0, 1.0, 0.0),
        (2.0, 1.0, 1.0, 1.0),
        (1.0, float("nan"), 0.5, -1.0),
        (1.0, float("nan"), 2.0, 0.0),
        (float("nan"), 0.5, 2.0, 1.0),
    ],
)
def test_the_conservative_choice_is_the_lowest_and_nan_is_infinite(
    here: float, there: float, back: float, sign: float
) -> None:
    run = run_of("zo-sgd-cons", nn.Linear(2, 1, bias=False))
    run.ask()
    points = run.tell([Values.of(v) for v in (1.5, 0.5, here)])
    assert isinstance(points, list)
    slope = 1.0 / 2e-3
    lr = float32(0.01)
    assert [point.terms[0][1] for point in points] == pytest.approx([-lr * slope, lr * slope])
    entry: Any = run.tell([Values.of(there), Values.of(back)])
    assert entry.notes["sign"] == sign
    assert entry.terms[0][1] == pytest.approx(sign * slope)


# 2: MMT and Adam


def test_momentum_0_is_the_plain_recipe_bit_for_bit() -> None:
    found: list[Tensor] = []
    for name, settings in (("zo-sgd", {}), ("zo-sgd-mmt", {"momentum": 0.0})):
        model, main, _ = problem()
        run = run_of(name, model, **settings)
        for _ in range(5):
            run.step(main)
        found.append(weights(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["zo-sgd-mmt", "zo-adam"])
def test_momentum_and_adam_are_torch_s_on_the_same_estimates(name: str) -> None:
    model, main, _ = problem(torch.float64)
    twin, _, _ = problem(torch.float64)
    run, lr = run_of(name, model, weight_decay=0.0), float32(0.01)
    kind = (
        torch.optim.SGD(twin.parameters(), lr, 0.9) if name == "zo-sgd-mmt" else torch.optim.Adam(twin.parameters(), lr)
    )
    for _ in range(6):
        entry = run.step(main)
        ((key, slope),) = entry.terms
        for site, p in zip(run.space, twin.parameters(), strict=True):
            p.grad = slope * drawn(run, site, key)
        kind.step()
        assert torch.allclose(weights(model), weights(twin), rtol=1e-9, atol=1e-12)


def test_adam_s_first_step_moves_every_weight_by_the_rate() -> None:
    model, main, _ = problem(torch.float64)
    before = weights(model)
    run_of("zo-adam", model).step(main)
    assert torch.allclose((weights(model) - before).abs(), torch.tensor(0.01, dtype=torch.float64), rtol=1e-4)


def test_momentum_makes_ten_steps_of_one_where_the_slope_stays() -> None:
    """The card's eighth: at the same rate momentum of 0.9 goes ten times as far."""

    class Line:
        def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
            return batch

        def evaluate(self, model: nn.Module, prepared: Any) -> Values:
            return Values.of(model(prepared).sum())

    moved: list[float] = []
    for name, rate in (("zo-sgd", 0.01), ("zo-sgd-mmt", 0.01), ("zo-sgd-mmt", 0.001)):
        model = nn.Linear(40, 40, bias=False, dtype=torch.float64)
        before, eye = weights(model), torch.eye(40, dtype=torch.float64)
        run = run_of(name, model, Line(), lr=rate, steps=400)
        for _ in range(400):
            run.step(eye)
        moved.append(float((weights(model) - before).mean()))
    plain, same, tenth = moved
    assert same / plain == pytest.approx(10, rel=0.25)
    assert tenth / plain == pytest.approx(1, rel=0.25)


# 3: Sign


def test_a_sign_of_every_element_moves_each_by_the_rate() -> None:
    model, main, _ = problem(torch.float64)
    before = weights(model)
    entry = run_of("zo-sgd-sign", model).step(main)
    moved, lr = (weights(model) - before).abs(), float32(0.01)
    assert torch.allclose(moved, torch.tensor(lr, dtype=torch.float64), rtol=1e-12)
    assert abs(entry.terms[0][1]) not in (0.0, 1.0), "the ledger has the slope, the update takes the sign"


def test_a_sign_of_the_scalar_moves_along_z_by_the_rate() -> None:
    model, main, _ = problem(torch.float64)
    before = weights(model)
    run = run_of("zo-sgd-sign", model, of="scalar")
    ((key, slope),) = run.step(main).terms
    assert abs(slope) == 1.0
    z = torch.cat([drawn(run, site, key).flatten() for site in run.space])
    assert torch.allclose(weights(model) - before, -float32(0.01) * slope * z, atol=1e-15)


def test_weight_decay_comes_after_the_sign() -> None:
    """A weight of 1 at a decay of 10 would turn the sign around if it came before."""
    steps: list[Tensor] = []
    for decay in (0.0, 10.0):
        model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
        nn.init.ones_(model.weight)
        run = run_of("zo-sgd-sign", model, weight_decay=decay)
        run.step((torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)))
        steps.append(model.weight.detach() - 1)
    assert torch.allclose(steps[1] - steps[0], torch.tensor(-float32(0.01) * 10, dtype=torch.float64), rtol=1e-6)


# 4: Forward-Grad


class Cubic(TensorRows):
    """A cubic form: central differences err by ε²/6 of its third derivative along z."""

    def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
        return Values.of(model(prepared).pow(3).sum(1))


def test_the_forward_gradient_is_the_slope_and_central_differences_tend_to_it() -> None:
    generator = torch.Generator().manual_seed(3)
    model, x = nn.Linear(5, 4, dtype=torch.float64), torch.randn(6, 5, generator=generator, dtype=torch.float64)
    run = run_of("forward-grad", model, Cubic(), lr=0.0)
    ((key, slope),) = run.step(x).terms
    assert run.around.meter.examples == 2 * 6, "a product counts as two forwards"
    named = dict(model.named_parameters())
    exact = dict(zip(named, torch.autograd.grad(model(x).pow(3).sum(1).mean(), list(named.values())), strict=True))
    z = {site.name: drawn(run, site, key) for site in run.space}
    truth = float(sum((exact[name] * z[name]).sum() for name in exact))
    assert slope == pytest.approx(truth, rel=1e-7)  # the ledger's float32
    errors: list[float] = []
    for eps in (1e-1, 1e-2, 1e-5):
        central = run_of("zo-sgd", model, Cubic(), lr=0.0, eps=eps)
        errors.append(abs(central.step(x).terms[0][1] - truth) / abs(truth))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05), (
        "the error is cubic in the step, quadratic in the slope"
    )
    assert errors[2] < 1e-6


class Doubled(torch.autograd.Function):
    """An operation of somebody's own, with a backward and no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


def doubled(x: Tensor) -> Tensor:
    found: Any = Doubled.apply(x)
    return found


def flash(x: Tensor) -> Tensor:
    heads = x.view(1, 1, *x.shape)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(heads, heads, heads)[0].view(x.shape)


@pytest.mark.parametrize(
    ("operation", "said"),
    [(doubled, "a custom autograd.Function"), (flash, "_scaled_dot_product_flash_attention_for_cpu")],
)
def test_a_kernel_without_forward_mode_is_refused_by_name_with_the_way_out(operation: Any, said: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 16)

        def forward(self, x: Tensor) -> Tensor:
            return operation(self.inner(x))

    model, x, y = Model(), torch.ones(4, 3), torch.zeros(4, 16)
    before = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(UsageError, match=rf"{said} has no forward-mode derivative.*eager.*zo-sgd"):
        run_of("forward-grad", model).step((x, y))
    assert [p.data_ptr() for p in model.parameters()] == before
    assert all(isinstance(p, nn.Parameter) for p in model.inner._parameters.values())


def test_attention_that_torch_may_fuse_is_taken_apart_meanwhile() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 16, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            heads = self.inner(x).view(1, 1, -1, 16)
            return nn.functional.scaled_dot_product_attention(heads, heads, heads).view(-1, 16)

    model = Model()
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, 16, dtype=torch.float64)
    run = run_of("forward-grad", model, lr=0.0)
    ((key, slope),) = run.step((x, y)).terms
    exact = gradient_of(model, (x, y))
    truth = float(sum((exact[s.name] * drawn(run, s, key)).sum() for s in run.space))
    assert slope == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"mixtral", "mamba"}))
def test_the_slope_is_autograd_s_on_every_family(name: str) -> None:
    """Tied tables, prefixes, LoRA, convolutions: Σ ⟨∇L, z⟩ over all sites."""
    model, batch = build(name, torch.float64)
    objective = Mean()
    owners = check_sites(around(model), objective, batch, mode="joint").owners
    run = run_of("forward-grad", model, objective, Swap(owners), lr=0.0)
    ((key, slope),) = run.step(batch).terms
    parameters = [site.parameter for site in run.space]
    found = torch.autograd.grad(objective.loss(model, batch).mean(), parameters, allow_unused=True)
    pairs = [(g, drawn(run, s, key)) for g, s in zip(found, run.space, strict=True) if g is not None]
    # some norms compute in float32, whatever the weights are
    assert slope == pytest.approx(sum(float((g * z).sum()) for g, z in pairs), rel=1e-5, abs=1e-9)


# 5: Sparse


@pytest.mark.parametrize("ratio", ["layer", "global"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_one_asked_for(ratio: str, share: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 100))
    nn.init.normal_(model[1].weight, std=0.5)  # ten times the first's: at "global" the first gets most of the zeros
    run = run_of("sparse-gradient", model, sparsity=share, ratio=ratio, law="rademacher")
    counts: list[tuple[int, int]] = []
    for site in run.space:
        z = drawn(run, site, Key("z", 0))
        asked, n = float(run.state.tensor("sparsity", site.name)[0]), site.numel
        zeros = int((z == 0).sum())
        assert (
            abs(zeros - asked * n) <= 3.5 * (n * asked * (1 - asked)) ** 0.5 + 2
        )  # four sites in six cases: 3.5 sigma
        counts.append((zeros, n))
    whole = sum(zeros for zeros, _ in counts) / sum(n for _, n in counts)
    assert whole == pytest.approx(share, abs=0.01)
    if ratio == "global":
        first, second = (float(run.state.tensor("sparsity", f"{n}.weight")[0]) for n in "01")
        below = (torch.cat([p.detach().abs().flatten() for p in model.parameters()])).quantile(share)
        assert first == pytest.approx(float((model[0].weight.abs() < below).float().mean()), abs=1e-3)
        assert first > second


def test_magnitudes_that_are_equal_set_no_ratios() -> None:
    model = nn.Sequential(nn.Linear(30, 8, bias=False), nn.Linear(8, 30, bias=False))  # a fresh LoRA's shapes
    nn.init.zeros_(model[1].weight)
    with pytest.raises(UsageError, match=r"a share of 0\.00 zeros, not 0\.5.*ratio=layer"):
        run_of("sparse-gradient", model, sparsity=0.5)
    run = run_of("sparse-gradient", model, sparsity=0.75)  # here a quantile parts them: three quarters are below it
    assert [float(run.state.tensor("sparsity", f"{n}.weight")[0]) for n in "01"] == [pytest.approx(0.5, abs=0.01), 1.0]


def test_one_mask_perturbs_restores_and_updates_for_as_many_steps_as_it_stays() -> None:
    model = nn.Linear(60, 50, bias=False, dtype=torch.float64)
    x, y = torch.randn(4, 60, dtype=torch.float64), torch.zeros(4, 50, dtype=torch.float64)
    run = run_of("sparse-gradient", model, resample=3, ratio="layer", sparsity=0.7, draws=2, law="rademacher")
    (site,) = run.space
    masks: list[Tensor] = []
    for step in range(6):
        before = model.weight.detach().clone()
        run.step((x, y))
        draws = [drawn(run, site, Key("z", step, j)) != 0 for j in range(2)]
        assert torch.equal(*draws), "all draws of a step have the step's mask"
        assert torch.equal(model.weight.detach() != before, draws[0]), "what was perturbed is what moves"
        masks.append(draws[0])
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[3], masks[5])
    assert not torch.equal(masks[2], masks[3])


# 6: Block-wise


def test_one_block_at_once_is_the_plain_recipe_bit_for_bit() -> None:
    found: list[Tensor] = []
    for name, settings in (("mezo", {}), ("block-wise", {"order": "jacobi"}), ("block-wise", {})):
        model = nn.Linear(6, 5)
        with torch.no_grad():
            model.weight.copy_(torch.arange(30).view(5, 6) / 30)
            model.bias.zero_()
        run = run_of(name, model, **settings)
        for step in range(4):
            run.step((torch.arange(12.0).view(2, 6) / (6 + step), torch.ones(2, 5)))
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_blocks_one_after_the_other_are_a_loop_over_steps_of_one_block() -> None:
    """Each block is estimated where the blocks before it have moved to."""
    model, main, _ = problem(torch.float64)
    twin, _, _ = problem(torch.float64)
    run = run_of("block-wise", model, level="linear", lr=0.1)
    entry = run.step(main)
    named = dict(twin.named_parameters())
    numbers = dict(zip(named, blocks_of(list(named), "linear"), strict=True))
    assert len(entry.terms) == max(numbers.values()) + 1 == 2
    for key, slope in entry.terms:
        own = {n: p for n, p in named.items() if numbers[n] == key.b}
        z = {site.name: drawn(run, site, key) for site in run.space}
        assert all((z[n] == 0).all() == (n not in own) for n in named)
        losses: list[float] = []
        for sign in (1.0, -2.0):
            with torch.no_grad():
                for n, p in own.items():
                    p += sign * 1e-3 * z[n]
            losses.append(Error().evaluate(twin, main).mean())
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=1e-5)
        with torch.no_grad():
            for n, p in own.items():
                p += 1e-3 * z[n] - float32(0.1) * slope * z[n]
    assert torch.allclose(weights(model), weights(twin), atol=1e-12)


def test_the_second_moment_of_blocks_is_that_of_as_many_draws() -> None:
    """B equal blocks at once: E‖g‖²/‖∇L‖² = d/B + 2; the plain estimate d + 2."""
    blocks, each, trials = 4, 25, 4000
    model = nn.Sequential(*(nn.Linear(each, 1, bias=False, dtype=torch.float64) for _ in range(blocks)))
    slopes = torch.linspace(1, 2, blocks * each, dtype=torch.float64).view(blocks, each)
    # equal lengths a block, so that the mean over blocks is the same for each
    slopes = slopes / slopes.norm(dim=1, keepdim=True)

    def ratio(name: str, **settings: Any) -> float:
        run = run_of(name, model, lr=0.0, **settings)
        total = 0.0
        for trial in range(trials):
            keys = [Key("z", trial, b) for b in range(blocks)] if name == "block-wise" else [Key("z", trial)]
            for key in keys:
                z = torch.stack([drawn(run, site, key).flatten() for site in run.space])
                total += float((slopes * z).sum() ** 2 * (z**2).sum())
        return total / trials / float((slopes**2).sum())

    whole = blocks * each
    assert ratio("block-wise", level="linear", order="jacobi") == pytest.approx(whole / blocks + 2, rel=0.06)
    assert ratio("zo-sgd") == pytest.approx(whole + 2, rel=0.06)


def test_blocks_are_layers_or_their_halves_or_modules() -> None:
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.bias",
        "model.layers.1.self_attn.q_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]
    assert blocks_of(names, "layer") == [0, 1, 1, 1, 2, 3, 4]
    assert blocks_of(names, "attention-mlp") == [0, 1, 2, 2, 3, 4, 5]
    assert blocks_of(names, "linear") == [0, 1, 2, 2, 3, 4, 5]
    with pytest.raises(UsageError, match=r"unknown level 'layers'.*layer"):
        blocks_of(names, "layers")


def test_equal_blocks_have_draws_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    run = run_of("block-wise", model, level="linear")
    first, second = run.space.by_name["0.weight"], run.space.by_name["1.weight"]
    z = [drawn(run, site, Key("z", 0, b)) for b, site in enumerate((first, second))]
    assert not torch.equal(*z)


# 7: Hybrid


def test_with_all_blocks_last_it_is_first_order_and_with_none_zeroth_order() -> None:
    for last, other in ((99, "sgd"), (0, "zo-sgd")):
        found: list[Tensor] = []
        for name, settings in (("hybrid", {"last": last, "level": "linear"}), (other, {})):
            model, main, _ = problem(torch.float64)
            settings = settings if other == "zo-sgd" or name == "hybrid" else {"eps": None}
            recipe = catalogue.build(name, **{"lr": 0.01, **{k: v for k, v in settings.items() if v is not None}})
            run = Run(model, ParameterSpace.of(model), recipe, Error(), Swap(), steps=5)
            for _ in range(5):
                run.step(main)
            found.append(weights(model))
        assert torch.equal(*found)


def test_each_half_takes_its_own_step() -> None:
    model, main, _ = problem(torch.float64)
    exact, before = gradient_of(model, main), {n: p.detach().clone() for n, p in model.named_parameters()}
    run = run_of("hybrid", model, last=1, level="linear", scale=3.0)
    ((key, slope),) = run.step(main).terms
    lr = float32(0.01)
    for site in run.space:
        moved = site.parameter.detach() - before[site.name]
        if site.name.startswith("2."):
            assert torch.allclose(moved, -lr * 3.0 * exact[site.name], atol=1e-12)
        else:
            z = drawn(run, site, key)
            assert torch.allclose(moved, -lr * slope * z, atol=1e-12)
    assert run.around.meter.examples == (2 + 3) * 32


def test_the_graph_begins_at_the_last_blocks() -> None:
    """What autograd saves grows with the last blocks, not with the model."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x).tanh()
            return x

    saved: dict[int, int] = {}
    for last in (1, 4, 8):
        model, kept = Deep(), list[int]()
        run = run_of("hybrid", model, last=last)
        pack = lambda t, kept=kept: (kept.append(t.numel()), t)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            run.step((torch.ones(32, 16), torch.zeros(32, 16)))
        saved[last] = sum(n for n in kept if n == 32 * 16)
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert saved[1] < saved[4] < saved[8]
    assert saved[8] / saved[1] > 5


def test_a_hybrid_run_cannot_be_replayed_and_says_what_it_needs(tmp_path: Path) -> None:
    model, main, _ = problem()
    run = run_of("hybrid", model, path=tmp_path / "ledger.zo", level="linear")
    run.step(main)
    run.ledger.close()
    fresh, _, _ = problem()
    with pytest.raises(LedgerError, match="keeps no gradients, train again with the data"):
        replay(fresh, tmp_path / "ledger.zo")


# what all share


@pytest.mark.parametrize("sides", ["two", "one"])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_plain_recipe_is_the_mean_of_its_draws(sides: str, draws: int) -> None:
    model, main, _ = problem(torch.float64)
    run = run_of("zo-sgd", model, lr=0.0, sides=sides, draws=draws, eps=1e-5)
    entry = run.step(main)
    assert run.around.meter.examples == 32 * (2 * draws if sides == "two" else draws + 1)
    exact = gradient_of(model, main)
    for key, slope in entry.terms:
        z = {site.name: drawn(run, site, key) for site in run.space}
        truth = float(sum((exact[n] * z[n]).sum() for n in exact)) / draws
        assert slope == pytest.approx(truth, rel=1e-2)


@pytest.mark.parametrize("name", [n for n in FAMILY if n != "hybrid"])
def test_replay_is_the_run_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, main, _ = problem()
    settings = {"block-wise": {"level": "linear"}, "sparse-gradient": {"resample": 2}}.get(name, {})
    run = run_of(name, model, path=tmp_path / "ledger.zo", weight_decay=0.1, schedule="linear", **settings)
    for _ in range(6):
        run.step(main)
    run.ledger.close()
    fresh, _, _ = problem()
    replay(fresh, tmp_path / "ledger.zo")
    assert torch.equal(weights(model), weights(fresh))


@pytest.mark.parametrize("name", [n for n in FAMILY if n not in ("hybrid", "forward-grad")])
def test_points_together_are_points_one_by_one(name: str) -> None:
    found: list[tuple[list[float], Tensor]] = []
    for executor in (Swap(), Batched(check=False)):
        model, main, _ = problem(torch.float64)
        settings = {"level": "linear"} if name == "block-wise" else {}
        run = run_of(name, model, executor=executor, **settings)
        scalars = [slope for _ in range(4) for _, slope in run.step(main).terms]
        found.append((scalars, weights(model)))
        assert getattr(executor, "reason", None) is None
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-8)


def test_weights_of_other_blocks_are_not_touched_by_a_look_or_a_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    run = run_of("block-wise", model, level="linear")
    space, state = run.space, run.state
    assert set(state.tensors[BLOCK]) == {site.name for site in space}
    shown: list[int] = []
    model[1].register_forward_pre_hook(lambda m, a: shown.append(m.weight.data_ptr()))
    own = model[1].weight.data_ptr()
    bound = Surroundings(model, space, run.direction, state)
    point = [Point(((Key("z", 0, 0), 0.1),))]
    Swap().evaluate(point, Error(), {"main": (torch.ones(2, 4), torch.ones(2, 4))}, Key("z", 0), bound)
    assert shown == [own], "the second block's weights are read where they are"


def test_an_embedding_that_renormalises_itself_is_left_alone_in_another_block() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(5, 4, max_norm=0.1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.table(x))

    model = Model()
    run = run_of("block-wise", model, level="linear")
    before = model.table.weight.detach().clone()
    batch = (torch.arange(4), torch.ones(4, 2))
    bound = Surroundings(model, run.space, run.direction, run.state)
    Swap().evaluate([Point(((Key("z", 0, 1), 0.1),))], Error(), {"main": batch}, Key("z", 0), bound)
    assert torch.equal(model.table.weight, before)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("zo-sgd", {"sides": "both"}, "unknown sides 'both'"),
        ("zo-sgd-sign", {"of": "weights"}, "a sign is of coordinate or scalar"),
        ("zo-sgd-cons", {"sides": "one"}, "takes two sides"),
        ("block-wise", {"order": "random"}, "unknown order 'random'"),
        ("block-wise", {"level": "layre"}, "unknown level 'layre'.*layer"),
        ("block-wise", {"draws": 2}, "one draw a block"),
        ("hybrid", {"last": -1}, "0 or more"),
        ("sparse-gradient", {"sparsity": 1.0}, "below 1"),
        ("sparse-gradient", {"ratio": "model"}, "unknown ratio 'model'"),
        ("sparse-gradient", {"resample": 0}, "1 or more"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_of(name, nn.Linear(2, 2), **settings)
