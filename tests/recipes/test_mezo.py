"""MeZO (arXiv 2305.17333): what shows that an implementation is right, check by check, and the known traps.

docs/papers.md maps every check to the tests here; test_papers.py holds the map and this file together.
"""

import copy
import math
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zerothorder.config import TrainConfig
from zerothorder.directions.laws import Dense
from zerothorder.estimate import Step
from zerothorder.estimators.finite_difference import central
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.grids import cpu as grids_cpu
from zerothorder.grids import steps as grids_steps
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Point, Values
from zerothorder.random import cpu as random_cpu
from zerothorder.random.laws import GAUSSIAN_SCALE, gaussian_table
from zerothorder.recipes.mezo import SCHEME_DEFAULTS, MeZO
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import CHUNK, ParameterSpace
from zerothorder.state import State
from zerothorder.task import load_base

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAWS = ("gaussian", "rademacher")


class Of:
    """The objective value(model, batch): a number or one value a row."""

    def __init__(self, value: Callable[[nn.Module, Any], Tensor]) -> None:
        self.value = value

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return Values.of(self.value(model, prepared))


class Weights(nn.Module):
    """A few tensors of which a function is minimised; calling it gives all of them in one vector."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters()])


def draw(space: ParameterSpace, seed: int, key: Key, law: str = "gaussian") -> dict[str, Tensor]:
    """z(key), whole, by site name."""
    direction, state = Dense(run_key(seed), law), State()
    found: dict[str, Tensor] = {}
    for site in space:
        z = torch.zeros(site.numel, dtype=site.grid.compute)
        direction.shift(z, z, site, key, 1.0, 0, state)
        found[site.name] = z
    return found


def flat(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.cat(list(parts.values()))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# 1. Identity


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("eps", [1e-6, 1e-3, 1.0, 1e3])
def test_on_a_linear_function_rho_is_a_dot_z_at_any_eps(eps: float, law: str) -> None:
    model = Weights(a=randn(30, 7), b=randn(5, seed=1))
    space, slope = ParameterSpace.of(model), randn(215, seed=2)
    start = model().detach().clone()
    run = Run(model, space, MeZO(lr=0.5, eps=eps, law=law), Of(lambda m, b: slope @ m()), Swap(), seed=4)
    entry = run.step(None)
    z = flat(draw(space, 4, Key("z", 0), law))
    (key, rho), lr = entry.terms[0], entry.rates["plain"].lr
    assert key == Key("z", 0)
    assert rho == pytest.approx(float(slope @ z), rel=1e-5)
    # and the step is along the same z
    torch.testing.assert_close(model().detach(), start - lr * rho * z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 1.0, 30.0])
def test_on_a_quadratic_rho_is_the_gradient_along_z_at_any_eps(eps: float) -> None:
    model = Weights(a=randn(6, 5), b=randn(10, seed=1))
    root, slope = randn(40, 40, seed=2), randn(40, seed=3)
    curvature = root @ root.T / 40

    def value(m: nn.Module, batch: Any) -> Tensor:
        w = m()
        return 0.5 * w @ curvature @ w + slope @ w

    gradient = curvature @ model().detach() + slope
    space = ParameterSpace.of(model)
    entry = Run(model, space, MeZO(lr=0.0, eps=eps), Of(value), Swap(), seed=4).step(None)
    assert entry.terms[0][1] == pytest.approx(float(gradient @ flat(draw(space, 4, Key("z", 0)))), rel=1e-5)


def test_on_a_cubic_rho_differs_by_the_third_derivative() -> None:
    model = Weights(a=randn(20))
    space, eps = ParameterSpace.of(model), 0.5
    w, z = model().detach().clone(), flat(draw(space, 4, Key("z", 0)))
    entry = Run(model, space, MeZO(lr=0.0, eps=eps), Of(lambda m, b: (m() ** 3).sum()), Swap(), seed=4).step(None)
    exact = float((3 * w**2) @ z + eps**2 * (z**3).sum())
    assert entry.terms[0][1] == pytest.approx(exact, rel=1e-5)


# 2. Moments


def kurtosis(law: str) -> float:
    """E[z⁴] of the law as it is drawn: an exact sum over the integer table (2.9992), 1 for signs."""
    if law == "rademacher":
        return 1.0
    return float(((gaussian_table().double() * GAUSSIAN_SCALE) ** 4).mean())


@pytest.mark.parametrize(("d", "law"), [(10, "gaussian"), (50, "gaussian"), (50, "rademacher")])
def test_moments_of_the_estimate(d: int, law: str) -> None:
    """Mean of ρz is the gradient; E‖ρz‖²/‖∇‖² = d - 1 + kurtosis: d + 2 for Gaussian draws, d for signs."""
    draws = 4000
    site = next(iter(ParameterSpace.of(Weights(w=torch.zeros(d, dtype=torch.float64)))))
    direction, state = Dense(run_key(1), law), State()
    gradient, theta = randn(d, seed=1), randn(d, seed=2)
    estimator, rates = central(0.01), {"plain": Rates(0.0)}
    zs, rhos = torch.zeros(draws, d, dtype=torch.float64), torch.empty(draws, dtype=torch.float64)
    for t in range(draws):
        direction.shift(zs[t], zs[t], site, Key("z", t), 1.0, 0, state)
        here, along = float(gradient @ theta), float(gradient @ zs[t])
        step = estimator(Step(t, rates, (), state))
        points = [point.terms for point in next(step)]
        assert points == [((Key("z", t), 0.01),), ((Key("z", t), -0.01),)]
        try:
            step.send([Values.of(here + c * along) for ((_, c),) in points])
        except StopIteration as stop:
            ((_, rhos[t]),) = stop.value.terms
    found = rhos[:, None] * zs
    pull = (found.mean(0) - gradient) / (found.std(0) / math.sqrt(draws))
    assert pull.abs().max() < 4.5
    assert float((pull**2).sum()) < d + 4 * math.sqrt(2 * d)  # χ² with d degrees of freedom

    norm = float(gradient @ gradient)
    along = rhos**2 / norm  # (a·z)²/‖a‖², whose mean is 1 exactly: a control variate, correlated with the ratio
    assert float(along.mean()) == pytest.approx(1.0, abs=4 * float(along.std()) / math.sqrt(draws))
    ratio = (found**2).sum(1) / norm - d * (along - 1)
    error = float(ratio.std()) / math.sqrt(draws)
    assert error < 0.4  # so that 4 errors tell d + 2 from d
    assert float(ratio.mean()) == pytest.approx(d - 1 + kurtosis(law), abs=4 * error + 1e-6 * d)


def test_the_table_s_kurtosis_is_a_little_below_the_normal_s() -> None:
    assert kurtosis("gaussian") == pytest.approx(2.9992, abs=1e-4)
    assert kurtosis("rademacher") == 1.0


# 3. Restore drift


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_evaluation_leaves_every_bit_after_any_number_of_steps(dtype: torch.dtype) -> None:
    model = nn.Linear(40, 30).to(dtype)
    with torch.no_grad():
        model.weight.copy_(0.02 * randn(30, 40))
    before = copy.deepcopy(model.state_dict())
    versions = [p._version for p in model.parameters()]
    x = randn(4, 40, dtype=dtype)
    run = Run(model, ParameterSpace.of(model), MeZO(eps=1e-3), Of(lambda m, b: m(b).float().sum(1)), Swap())
    for t in range(10):
        points = [Point(((Key("z", t), s),)) for s in (1e-3, -1e-3)]
        run.executor.evaluate(points, run.objective, {"main": x}, Key("e", t), run.around)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert [p._version for p in model.parameters()] == versions


@pytest.mark.parametrize(("dtype", "once"), [(torch.float32, 6e-8), (torch.float16, 4.9e-4), (torch.bfloat16, 3.9e-3)])
def test_the_usual_loop_in_place_drifts_as_published(dtype: torch.dtype, once: float) -> None:
    """What is avoided: θ after +ε, -2ε, +ε in place; the drift of one cycle, and its growth as √cycles."""
    start = (0.02 * randn(20_000)).to(dtype)
    theta, drift = start.clone(), []
    for t in range(100):
        z = randn(20_000, seed=t + 1).to(dtype)
        for c in (1e-3, -2e-3, 1e-3):
            theta = theta + z * c
        drift.append(float((theta.double() - start.double()).norm() / start.double().norm()))
    assert drift[0] == pytest.approx(once, rel=0.25)
    assert drift[99] / drift[0] == pytest.approx(math.sqrt(100), rel=0.25)


# 4. Replay


class Net(nn.Module):
    """Tied, frozen and transposed weights, dropout, norm: 3 thousand parameters."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(60, 16)
            self.inner = nn.Linear(16, 16)
            self.frozen = nn.Linear(16, 16)
            self.norm = nn.LayerNorm(16)
            self.dropout = nn.Dropout(0.2)
            self.turned = nn.Parameter(torch.randn(16, 16).t() * 0.2)
            self.head = nn.Linear(16, 60, bias=False)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.frozen(self.inner(self.embed(ids)).tanh())))
        return self.head(x @ self.turned).mean(1).float()


def entropy(model: nn.Module, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(ids), ids[:, 0], reduction="none")


def ids_at(step: int) -> Tensor:
    return torch.randint(0, 60, (4, 6), generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_replay_gives_the_same_bits(dtype: torch.dtype, optimizer: Any, tmp_path: Path) -> None:
    model, base = Net().to(dtype), Net().to(dtype)
    recipe = MeZO(lr=2e-3, eps=1e-2, draws=2, weight_decay=0.1, schedule="cosine", optimizer=optimizer)
    run = Run(
        model, ParameterSpace.of(model), recipe, Of(entropy), Swap(), seed=3, steps=5, path=tmp_path / "ledger.zo"
    )
    for step in range(5):
        run.step(ids_at(step))
    run.ledger.close()
    replay(base, tmp_path / "ledger.zo")
    start = Net().to(dtype).state_dict()
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
        assert torch.equal(tensor, start[name]) == name.startswith("frozen"), name


# 5. Random numbers


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_draws_three_times_per_parameter_and_a_tied_table_once_more_a_probe(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two probes and one update, which restores nothing: 3 normals a parameter, where the in-place loop draws 4."""
    model = Net().to(dtype)
    run = Run(model, ParameterSpace.of(model), MeZO(), Of(entropy), Swap(), seed=3)
    sites = {Key("z", 0).seed(run_key(3), site.id): site for site in run.space}
    drawn = dict.fromkeys(sites, 0)

    def count(module: Any, name: str, keys: Callable[..., list[int]]) -> None:
        own = getattr(module, name)

        def counted(*args: Any) -> None:
            for key in keys(*args):
                drawn[key] += args[0].numel()
            own(*args)

        monkeypatch.setattr(module, name, counted)

    # every way by which the CPU draws z, with its keys
    count(random_cpu, "shift", lambda *args: [args[3]])
    count(grids_cpu, "probe_draw", lambda *args: [args[4]])
    count(grids_cpu, "step_draw", lambda *args: [args[3]])
    count(grids_steps, "move", lambda stored, residual, moves, start: moves.keys)
    run.step(ids_at(0))
    passes = {sites[key].name: count / sites[key].numel for key, count in drawn.items()}
    # the table is met as embedding and again as head, each time with its weights drawn anew
    assert passes.pop("embed.weight") == 5
    assert set(passes.values()) == {3}


# 6. Memory


class Live(TorchDispatchMode):
    """Bytes of all storages made inside and still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and storage._cdata not in given:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.now -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_needs_one_module_more_than_inference_and_no_gradient(dtype: torch.dtype) -> None:
    width = 1400
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(6)]).to(dtype)
    x = randn(2, width, dtype=dtype)
    module = (width * width + width + 128) * model[0].weight.element_size()
    graphs: list[bool] = []

    def value(m: nn.Module, batch: Tensor) -> Tensor:
        out = m(batch).float().square().mean(1)
        graphs.append(out.requires_grad or torch.is_grad_enabled())
        return out

    with Live() as inference, torch.inference_mode():
        value(model, x)
    space = ParameterSpace.of(model, precision="nearest")  # the residual byte is priced apart
    run = Run(model, space, MeZO(lr=1e-3), Of(value), Swap())
    graphs.clear()
    with Live() as step:
        run.step(x)
        run.step(x)
    assert step.peak - inference.peak <= module + 4 * CHUNK * 4
    assert step.peak - inference.peak < 0.5 * space.nbytes
    assert run.executor.nbytes <= module  # type: ignore[attr-defined]
    assert not any(graphs)
    assert all(p.grad is None and p.grad_fn is None for p in model.parameters())
    assert run.state.nbytes == 0


def test_live_counts_what_a_copy_of_the_weights_takes() -> None:
    model = nn.Sequential(*[nn.Linear(300, 300) for _ in range(4)])
    run = Run(model, ParameterSpace.of(model), MeZO(), Of(lambda m, b: m(b).sum(1)), Copy())
    with Live() as step:
        run.step(randn(2, 300, dtype=torch.float32))
    assert step.peak >= run.space.nbytes


# 7. Behaviour


def final_loss(draws: int, lr: float, seed: int, forwards: int = 96) -> float:
    """Logistic regression with minibatches, 20 weights: the whole loss after so many forwards."""
    x = randn(256, 20, seed=1)
    y = (x @ randn(20, seed=2) > 0).double()
    model = Weights(w=torch.zeros(20, dtype=torch.float64))

    def value(m: nn.Module, rows: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(x[rows] @ m(), y[rows], reduction="none")

    run = Run(model, ParameterSpace.of(model), MeZO(lr=lr, eps=1e-3, draws=draws), Of(value), Swap(), seed=seed)
    for step in range(forwards // (2 * draws)):
        run.step(torch.randint(0, 256, (32,), generator=torch.Generator().manual_seed(1000 * seed + step)))
    return float(value(model, torch.arange(256)).detach().mean())


def test_one_draw_and_four_with_four_times_the_rate_end_alike_at_equal_forwards() -> None:
    """Paired over 8 seeds: the means differ by less than 3 standard errors and by less than a tenth of the progress."""
    lr, seeds = 0.03, range(8)
    one = torch.tensor([final_loss(1, lr, s) for s in seeds])
    four = torch.tensor([final_loss(4, 4 * lr, s) for s in seeds])
    difference = four - one
    progress = math.log(2) - float(one.mean())
    assert progress > 0.1
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / math.sqrt(len(seeds))
    assert abs(float(difference.mean())) < 0.1 * progress
    # the spread is alike too, and with an unscaled rate the test would fail
    assert 1 / 3 < float(four.std() / one.std()) < 3
    slow = torch.tensor([final_loss(4, lr, s) for s in list(seeds)[:3]])
    assert float((slow - one[:3]).mean()) > 0.3 * progress


# Traps


@pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.09), (torch.bfloat16, 0.01)])
def test_small_updates_vanish_in_16_bits_without_the_residual_byte(dtype: torch.dtype, share: float) -> None:
    """One update of lr 1e-7 and ρ 10 on N(0, 0.02²): nearest rounding keeps few, the residual byte the sum of many."""
    kept: dict[str, float] = {}
    for precision in ("nearest", "residual"):
        model = Weights(w=(0.02 * randn(20_000)).to(dtype))
        before = model().detach().double().clone()
        space = ParameterSpace.of(model, precision=precision)  # type: ignore[arg-type]
        run = Run(model, space, MeZO(lr=1e-7), Of(lambda m, b: m().float().sum()), Swap(), seed=1)
        want = torch.zeros_like(before)
        for t in range(100):
            key = Key("z", t)
            rates = {"decay": Rates(1e-7), "plain": Rates(1e-7)}
            run.update.apply(Entry(t, ((key, 10.0),), {}, rates), space, run.direction, run.state)
            want -= 1e-6 * flat(draw(space, 1, key)).double()
            if t == 0 and precision == "nearest":
                changed = float((model().detach().double() != before).double().mean())
                assert changed == pytest.approx(share, rel=0.3)
        site = next(iter(space))
        now = torch.empty(site.numel)
        residual = run.state.tensors.get("residual", {}).get(site.name)
        site.grid.load(now, site.read(), residual)
        kept[precision] = float((now.double() - before) @ want / (want @ want))
    assert kept["residual"] == pytest.approx(1.0, abs=0.1)


def test_a_tied_table_is_one_site_perturbed_and_moved_once() -> None:
    model = Net().double()
    space = ParameterSpace.of(model)
    assert [s.aliases for s in space if s.name == "embed.weight"] == [("head.weight",)]
    before = model.embed.weight.detach().clone()
    z = draw(space, 3, Key("z", 0))["embed.weight"].view_as(before)
    seen: list[Tensor] = []

    def value(m: Any, batch: Tensor) -> Tensor:
        handles = [
            module.register_forward_hook(lambda mod, args, out: seen.append(mod.weight.detach().clone()), prepend=True)
            for module in (m.embed, m.head)
        ]
        try:
            return entropy(m, batch)
        finally:
            for handle in handles:
                handle.remove()

    entry = Run(model, space, MeZO(lr=0.1, eps=1e-2), Of(value), Swap(), seed=3).step(ids_at(0))
    assert len(seen) == 4
    for weight, sign in zip(seen, (1, 1, -1, -1), strict=True):
        torch.testing.assert_close(weight, before + sign * 1e-2 * z, rtol=1e-12, atol=1e-14)
    moved = before - entry.rates["decay"].lr * entry.terms[0][1] * z
    torch.testing.assert_close(model.embed.weight.detach(), moved, rtol=1e-12, atol=1e-14)


def test_dropout_left_on_is_the_same_at_every_point_and_the_generator_as_found() -> None:
    model = Net().train()
    run = Run(model, ParameterSpace.of(model), MeZO(), Of(entropy), Swap(), seed=3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    points = [Point(((Key("z", 0), 0.0),)), Point(), Point(((Key("z", 1), 0.0),))]
    a, b, c = run.executor.evaluate(points, run.objective, {"main": ids_at(0)}, Key("e", 0), run.around)
    other = run.executor.evaluate([Point()], run.objective, {"main": ids_at(0)}, Key("e", 1), run.around)[0]
    assert torch.equal(a.value, b.value)
    assert torch.equal(a.value, c.value)
    assert not torch.equal(a.value, other.value)  # another step, another mask
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_s_model_is_in_eval_mode(llama_folder: Path, tmp_path: Path) -> None:
    """Also under an adapter: no dropout and no batch statistics in any forward."""
    for scheme in ("full", "lora", "prefix"):
        config = TrainConfig(output=tmp_path / "run", model=str(llama_folder), scheme=scheme)  # type: ignore[arg-type]
        assert not any(module.training for module in load_base(config).model.modules())


def test_a_loss_that_is_not_a_number_costs_the_step_and_moves_nothing() -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    recipe = MeZO(lr=1e-2, weight_decay=0.1, optimizer="adam")

    def value(m: nn.Module, batch: tuple[Tensor, float]) -> Tensor:
        return entropy(m, batch[0]) * batch[1]

    run = Run(model, ParameterSpace.of(model), recipe, Of(value), Swap(), seed=3)
    for bad in (math.nan, math.inf):
        entry = run.step((ids_at(0), bad))
        assert entry.skipped
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        assert run.state.nbytes == 0
        assert not run.state.scalars
    assert not run.step((ids_at(0), 1.0)).skipped
    assert not torch.equal(model.embed.weight, before["embed.weight"])


def test_eps_has_a_default_of_its_own_in_every_scheme() -> None:
    """Tables 15 and 16 of the paper: OPT's grids."""
    grids = {
        "full": ({1e-6, 5e-7, 1e-7}, 1e-3),
        "lora": ({1e-4, 5e-5, 1e-5}, 1e-2),
        "prefix": ({5e-2, 1e-2, 5e-3, 1e-3}, 1e-1),
    }
    assert set(SCHEME_DEFAULTS) - set(grids) == {"head", "prompt"}, "which the paper does not have"
    for scheme, (rates, eps) in grids.items():
        assert SCHEME_DEFAULTS[scheme]["lr"] in rates
        assert SCHEME_DEFAULTS[scheme]["eps"] == eps
