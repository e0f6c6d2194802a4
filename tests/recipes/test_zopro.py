"""ZOPrO (arXiv 2503.03460): what shows that an implementation is right, check by check.

docs/papers.md maps every check to the tests here; test_papers.py holds the map and this file together.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from many_points import TensorRows
from zerothorder.errors import LedgerError, UsageError
from zerothorder.estimate import Step
from zerothorder.exact import ordered_dot, ordered_sum
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.key import Key, run_key
from zerothorder.optimizer import ZerothOrder
from zerothorder.point import Values
from zerothorder.recipes.spsa import SPSA
from zerothorder.recipes.zopro import MU, V, ZOPrO, difference, guide
from zerothorder.replay import moved, replay
from zerothorder.run import Run
from zerothorder.space import CHUNK, ParameterSpace
from zerothorder.state import State


class Vectors(nn.Module):
    """Searched tensors and nothing else."""

    def __init__(self, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.own = nn.ParameterList(nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(tensor: Tensor) -> Tensor:
    return tensor / tensor.norm()


class Drawing:
    """z of the recipe at a share d, tensor by tensor, with mu and v given."""

    def __init__(self, mu: list[Tensor], v: list[Tensor] | None, seed: int = 0) -> None:
        self.model = Vectors(*(tuple(m.shape) for m in mu))
        self.space = ParameterSpace.of(self.model)
        self.direction = ZOPrO().direction(run_key(seed))
        self.state = State()
        names = [site.name for site in self.space]
        self.state.tensors[MU] = dict(zip(names, mu, strict=True))
        if v is not None:
            self.state.tensors[V] = dict(zip(names, v, strict=True))

    def z(self, d: float, draw: int = 0, step: int = 0) -> list[Tensor]:
        found = []
        for site in self.space:
            z = torch.zeros(site.numel, dtype=torch.float64)
            for key, share in ((Key(MU, 0), d), (Key("z", step, draw), math.sqrt(1 - d * d))):
                for local, start in site.chunks():
                    self.direction.shift(z[local], z[local].clone(), site, key, share, start, self.state)
            found.append(z.view(site.shape))
        return found


# 1. Geometry of one draw


@pytest.mark.parametrize("d", [0.0, 0.3, 0.7, 0.95, 0.999])
def test_a_draw_is_as_long_as_mu_and_meets_v_where_mu_does(d: float) -> None:
    mu, v = randn(60, 50, seed=1), unit(randn(60, 50, seed=2))
    across = mu - (mu * v).sum() * v
    for given in (across, mu):
        (z,) = Drawing([given], [v]).z(d)
        assert float((z * v).sum()) == pytest.approx(d * float((given * v).sum()), abs=1e-9)
        assert float((z * given).sum() / given.norm() ** 2) == pytest.approx(d, abs=0.05)
    (z,) = Drawing([across], [v]).z(d)
    # its two parts are orthogonal but for the chance of 1/√n, and each has its exact length
    assert float(z.norm() / across.norm()) == pytest.approx(1, abs=1e-3 + 2 * d * math.sqrt(1 - d * d) / 50)


def test_every_tensor_has_the_length_of_its_own_mu() -> None:
    mu = [randn(40, 30, seed=3), 7 * randn(CHUNK + 100, seed=4), torch.zeros(20, dtype=torch.float64)]
    z = Drawing(mu, None).z(0.0)
    assert [float(part.norm()) for part in z] == pytest.approx([float(part.norm()) for part in mu], rel=1e-12)


def test_the_angle_to_mu_is_d_in_many_dimensions() -> None:
    mu = randn(400, 500, seed=5)
    for d in (0.2, 0.9):
        (z,) = Drawing([mu], None).z(d)
        assert float((z * mu).sum() / (z.norm() * mu.norm())) == pytest.approx(d, abs=0.01)


# 2. Without mu's share: the sphere


@pytest.mark.slow
def test_without_share_the_mean_estimate_is_the_gradient_times_a_known_factor() -> None:
    """E[⟨G,z⟩ z] = ‖mu‖²/n · G over 20,000 draws; with v, n - 1 and G off v."""
    n = 12
    mu, v, gradient = randn(n, seed=6), unit(randn(n, seed=7)), randn(n, seed=8)
    for off, expected in ((None, gradient / n), (v, (gradient - (gradient * v).sum() * v) / (n - 1))):
        drawing = Drawing([mu], None if off is None else [off])
        draws = torch.stack([drawing.z(0.0, j)[0] for j in range(20_000)]) / mu.norm()
        mean = ((draws @ gradient)[:, None] * draws).mean(0)
        # the standard error of an element is about ‖G‖/(n·√20000)
        assert (mean - expected).abs().max() < 5 * gradient.norm() / n / math.sqrt(20_000)
        if off is not None:
            assert abs(float(mean @ v)) < 1e-9


# 3. Second moment


@pytest.mark.slow
def test_the_second_moment_is_that_of_the_card() -> None:
    n, d = 8, 0.9
    mu, v = randn(n, seed=9), unit(randn(n, seed=10))
    drawing = Drawing([mu], [v])
    draws = torch.stack([drawing.z(d, j)[0] for j in range(20_000)])
    found = draws.T @ draws / len(draws)
    noise = (1 - d * d) * mu.norm() ** 2 / (n - 1) * (torch.eye(n, dtype=torch.float64) - torch.outer(v, v))
    expected = d * d * torch.outer(mu, mu) + noise
    assert (found - expected).norm() / expected.norm() < 0.01
    assert (draws.mean(0) - d * mu).norm() < 0.02 * mu.norm()


# 4. The ledger


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x).tanh())


class Squares(TensorRows):
    """Mean squared distance from the inputs' sum."""

    def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
        out = model(prepared.to(next(model.parameters()).dtype))
        return Values.of((out.float() - prepared.sum(1, keepdim=True)).square().mean(1))


def vectors(model: nn.Module, seed: int) -> dict[str, Tensor]:
    return {name: randn(*p.shape, seed=seed + n).float() for n, (name, p) in enumerate(model.named_parameters())}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", ["linear", "exponential"])
def test_a_run_is_replayed_bit_for_bit_from_its_scalars_and_two_vectors(
    dtype: torch.dtype, decay: Any, tmp_path: Path
) -> None:
    model = Net(dtype)
    recipe = ZOPrO(lr=1e-3, eps=1e-2, decay=decay)
    run = Run(model, ParameterSpace.of(model), recipe, Squares(), Swap(), seed=1, steps=6, path=tmp_path / "ledger.zo")
    guide(run, vectors(model, 10), vectors(model, 20))
    for step in range(6):
        run.step(randn(5, 6, seed=step).float())
    # both vectors, their shares in the scalars: nothing is computed from the step's number again
    shares = [dict(entry.terms)[Key(MU, 0)] / math.hypot(*dict(entry.terms).values()) for entry in run.ledger.past]
    assert [abs(share) for share in shares] == pytest.approx([recipe.share(t, 6) for t in range(6)], rel=1e-5)
    again = Net(dtype)
    replay(again, tmp_path / "ledger.zo")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_vectors_may_be_renewed_and_a_v_that_is_left_out_is_gone(tmp_path: Path) -> None:
    """Their lengths are kept between steps; many short-lived tensors come to lie where others lay."""
    model = Net()
    recipe = ZOPrO(lr=1e-3, eps=1e-2, horizon=40)
    run = Run(model, ParameterSpace.of(model), recipe, Squares(), Swap(), seed=1, path=tmp_path / "ledger.zo")
    for step in range(20):
        mu = {name: tensor * 1.5**step for name, tensor in vectors(model, step).items()}
        guide(run, mu, vectors(model, 50 + step) if step % 2 else None)
        assert any(run.state.has("v", site.name) for site in run.space) == bool(step % 2)
        for site in run.space:
            z = torch.zeros(site.numel)
            run.direction.shift(z, z.clone(), site, Key("z", step, 0), 1.0, 0, run.state)
            assert float(z.norm() / mu[site.name].norm()) == pytest.approx(1, rel=1e-4)
        run.step(randn(5, 6, seed=step).float())
    again = Net()
    replay(again, tmp_path / "ledger.zo")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_mu_from_the_ledger_of_an_earlier_run_or_an_average_of_it(tmp_path: Path) -> None:
    model = Net()
    run = Run(model, ParameterSpace.of(model), SPSA(lr=1e-2, eps=1e-2), Squares(), Swap(), path=tmp_path / "ledger.zo")
    path = [{name: p.detach().clone() for name, p in model.named_parameters()}]
    for step in range(5):
        run.step(randn(5, 6, seed=step).float())
        path.append({name: p.detach().clone() for name, p in model.named_parameters()})
    ended = Net()
    found = moved(ended, tmp_path / "ledger.zo", since=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), ended.parameters(), strict=True))
    mean = moved(Net(), tmp_path / "ledger.zo", keep=0.5)
    for name, whole in difference(path[5], path[2]).items():
        assert torch.allclose(found[name], whole, atol=1e-7)
        steps = [path[k + 1][name] - path[k][name] for k in range(5)]
        assert torch.allclose(mean[name], sum(0.5 ** (4 - k) * d for k, d in enumerate(steps)), atol=1e-7)
    after = Run(ended, ParameterSpace.of(ended), ZOPrO(lr=1e-3, eps=1e-2), Squares(), Swap(), steps=3)
    guide(after, found)
    assert math.isfinite(after.step(randn(5, 6)).notes["loss"])
    with pytest.raises(LedgerError, match="has 5 steps, none of them after step 5"):
        moved(Net(), tmp_path / "ledger.zo", since=5)
    with pytest.raises(UsageError, match="keep is 0; it is what"):
        moved(Net(), tmp_path / "ledger.zo", keep=0.0)


@pytest.mark.parametrize("executor", [Swap, Batched])
def test_points_are_those_of_copied_models_and_weights_stay(executor: Any) -> None:
    model = Net(torch.float64)
    found: list[list[float]] = []
    for made in (Copy(), executor()):
        run = Run(model, ParameterSpace.of(model), ZOPrO(eps=0.1), Squares(), made, steps=4)
        guide(run, vectors(model, 10), vectors(model, 20))
        before = [p.detach().clone() for p in model.parameters()]
        values = run.look(run.ask(), run.prepare(randn(5, 6)))
        found.append([v.mean() for v in values])
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert found[0] == pytest.approx(found[1], abs=1e-10)
    assert found[0][0] != found[0][1]


def test_it_is_attached_in_a_loop_of_one_s_own_and_from_files(tmp_path: Path) -> None:
    model = Net()
    x = randn(16, 6).float()
    files = {}
    for name, seed in ((MU, 10), (V, 20)):
        files[name] = str(tmp_path / f"{name}.safetensors")
        save_file(vectors(model, seed), files[name])

    def loss() -> Tensor:
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    scalars = []
    for settings in (files, {}):
        model.load_state_dict(Net().state_dict())
        optimizer = ZerothOrder(model, "zopro", eps=1e-2, steps=4, **settings)
        if not settings:
            guide(optimizer.run, vectors(model, 10), vectors(model, 20))
        for _ in range(4):
            optimizer.step(loss)
        scalars.append([entry.terms for entry in optimizer.run.ledger.past])
    assert scalars[0] == scalars[1]


# 6. Behaviour


def _quadratic(recipe: Any, mu: Tensor | None, seed: int, n: int = 400, steps: int = 300) -> float:
    """Final over initial loss of ½‖θ - θ*‖², steps of the expected best size for a random direction of length 1."""
    best = unit(randn(n, seed=100 + seed))
    model = Vectors((n,))

    class Distance:
        def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
            return batch

        def evaluate(self, model: Any, prepared: Any) -> Values:
            return Values.of(0.5 * (model.own[0] - best).square().sum())

    run = Run(model, ParameterSpace.of(model), recipe, Distance(), Copy(), seed=seed, steps=steps)
    if mu is not None:
        guide(run, {"own.0": mu})
    for _ in range(steps):
        run.step(None)
    return float((model.own[0].detach() - best).square().sum() / best.square().sum())


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["linear", "exponential"])
def test_a_guide_that_points_the_right_way_beats_plain_draws_and_a_wrong_one_costs_little(decay: Any) -> None:
    """Quadratic of 400 dimensions, 300 steps, 10 seeds, the same size of step: exact line search along z for both.

    The card's toy has 0.488 for plain draws and, at cosines 0, 0.3 and 0.6 of mu and the optimum, 0.588, 0.538, 0.381
    (linear) and 0.490, 0.452, 0.338 (exponential).
    """
    n, seeds = 400, range(10)
    # along a z of length 1 the best step is ρ z itself
    plain = [_quadratic(SPSA(lr=1 / n, eps=1e-3), None, seed) for seed in seeds]
    assert sum(plain) / 10 == pytest.approx((1 - 1 / n) ** 300, rel=0.05)
    for cosine, card in ((0.0, (0.588, 0.490)), (0.3, (0.538, 0.452)), (0.6, (0.381, 0.338))):
        found = []
        for seed in seeds:
            best, other = unit(randn(n, seed=100 + seed)), randn(n, seed=200 + seed)
            mu = cosine * best + math.sqrt(1 - cosine**2) * unit(other - (other @ best) * best)
            recipe = ZOPrO(lr=1.0, eps=1e-3, schedule="constant", decay=decay)
            found.append(_quadratic(recipe, mu, seed))
        mean = sum(found) / 10
        assert mean == pytest.approx(card[decay == "exponential"], abs=0.06)
        if cosine == 0.6:
            assert mean < min(plain)


# The schedule


def test_the_share_of_mu_falls_to_zero_and_no_further() -> None:
    """The published linear schedule ends below zero over many steps."""
    linear, exponential = ZOPrO(), ZOPrO(decay="exponential")
    assert [linear.share(t, 4) for t in range(5)] == pytest.approx([0.999, 0.749, 0.499, 0.249, 0.0])
    assert linear.share(2000, 2000) == 0.0
    assert exponential.share(0, 0) == 0.999
    assert exponential.share(3, 0) == pytest.approx(0.999 * math.exp(-3))


def test_a_linear_schedule_over_nobody_knows_how_many_steps_is_refused() -> None:
    model = Net()
    run = Run(model, ParameterSpace.of(model), ZOPrO(), Squares(), Swap())
    guide(run, vectors(model, 1))
    with pytest.raises(UsageError, match="give horizon, or steps"):
        run.step(randn(5, 6).float())


# What is attached


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda mu: {**mu, "head.bias": torch.zeros(4)}, r"'head.bias' of shape \[4\], the model \[3\]"),
        (lambda mu: {n: t for n, t in mu.items() if n != "head.bias"}, "has no tensor 'head.bias'"),
        (lambda mu: {n: torch.zeros_like(t) for n, t in mu.items()}, "zero in every tensor"),
        (lambda mu: {**mu, "head.bias": torch.full((3,), math.nan)}, "'head.bias' that are none"),
    ],
)
def test_a_mu_that_does_not_fit_is_named(change: Any, sentence: str) -> None:
    model = Net()
    run = Run(model, ParameterSpace.of(model), ZOPrO(), Squares(), Swap(), steps=2)
    with pytest.raises(UsageError, match=sentence):
        guide(run, change(vectors(model, 1)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: {**v, "head.bias": torch.zeros(4)}, r"^v has 'head.bias' of shape \[4\], the model \[3\]"),
        (
            lambda v: {"head.bios" if n == "head.bias" else n: t for n, t in v.items()},
            "^v has no tensor 'head.bias'.*'head.bios'",
        ),
        (lambda v: {**v, "head.bias": torch.tensor([0.0, math.nan, 0.0])}, "^v has numbers in 'head.bias' that are"),
        (lambda v: {**v, "inner.weight": v["inner.weight"].T}, r"^v has 'inner.weight' of shape \[6, 8\]"),
    ],
    ids=["another shape", "another name", "no number", "turned"],
)
def test_a_v_that_does_not_fit_is_named(change: Any, sentence: str) -> None:
    """As v, not as mu, which fits here; and nothing is left attached but mu."""
    model = Net()
    run = Run(model, ParameterSpace.of(model), ZOPrO(), Squares(), Swap(), steps=2)
    with pytest.raises(UsageError, match=sentence):
        guide(run, vectors(model, 1), change(vectors(model, 20)))
    assert not any(run.state.has(V, site.name) for site in run.space)


def test_a_v_that_is_zero_somewhere_leads_away_from_nothing_there() -> None:
    model = Net()
    run = Run(model, ParameterSpace.of(model), ZOPrO(), Squares(), Swap(), steps=2)
    guide(run, vectors(model, 1), {**vectors(model, 20), "head.bias": torch.zeros(3)})
    lengths = {name: float(tensor.norm()) for name, tensor in run.state.tensors[V].items()}
    assert lengths == {name: pytest.approx(float(name != "head.bias"), abs=1e-6) for name in lengths}


def test_a_step_without_mu_says_what_is_missing() -> None:
    model = Net()
    run = Run(model, ParameterSpace.of(model), ZOPrO(), Squares(), Swap(), steps=2)
    with pytest.raises(UsageError, match="needs the vector 'mu' before the first step"):
        run.step(randn(5, 6).float())


def test_a_difference_of_checkpoints_needs_the_same_names() -> None:
    a, b = {"x": torch.ones(2)}, {"x": torch.full((2,), 0.25)}
    assert torch.equal(difference(a, b)["x"], torch.full((2,), 0.75))
    with pytest.raises(UsageError, match="'y' is in one of the two"):
        difference(a | {"y": torch.ones(1)}, b)


def test_adapters_names_match_whatever_wraps_them() -> None:
    model = Net()
    run = Run(model, ParameterSpace.of(model), ZOPrO(), Squares(), Swap(), steps=2)
    guide(run, {f"base_model.model.{name}": tensor for name, tensor in vectors(model, 1).items()})
    assert run.state.has(MU, "inner.weight")


# Sums


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 4097])
def test_a_sum_has_one_order(count: int) -> None:
    values = randn(count, seed=count) if count else torch.zeros(0, dtype=torch.float64)
    assert ordered_sum(values) == pytest.approx(math.fsum(values.tolist()), abs=1e-9)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert ordered_sum(values) == ordered_sum(values.clone())
    finally:
        torch.set_num_threads(threads)
    assert ordered_dot(values.float(), values.float()) == ordered_sum(values.float().double().square())


def test_the_estimator_s_step_knows_its_number() -> None:
    (first,) = next(ZOPrO(horizon=10).estimator()(Step(3, {}, (), State())))[:1]
    assert dict(first.terms)[Key(MU, 0)] == pytest.approx(1e-5 * (0.999 - 0.3))
