"""TRL's preference losses before `TrainerMixin`, against formulas that are written down here a second time."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trl_kinds import LOSSES, batch_of, made, slopes
from trl_toys import WORDS, llama
from zerothorder.integrations.trainer_arguments import discopop_slope
from zerothorder.key import Key

PAD, PROMPT = 0, 4
"""The id of padding, and the words of every prompt of `trl_toys.rows`."""
EXACT, SINGLE = 1e-12, 2e-6
"""Relative tolerances: of losses in float64, and of those whose log-probabilities TRL computes in float32."""


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of the chosen and the rejected completion of each pair, under policy and reference."""

    lw: torch.Tensor
    ll: torch.Tensor
    rw: torch.Tensor
    rl: torch.Tensor
    yw: torch.Tensor
    yl: torch.Tensor

    @property
    def a(self) -> torch.Tensor:
        return self.lw - self.rw

    @property
    def b(self) -> torch.Tensor:
        return self.ll - self.rl

    @property
    def d(self) -> torch.Tensor:
        return self.a - self.b


def sg(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


def sp(x: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(torch.zeros_like(x), x)


def lrml(rho: torch.Tensor, tau: float) -> torch.Tensor:
    """DiscoPOP's loss of one log-ratio difference, times beta."""
    s = sg(rho / tau)
    return (1 - s) * sp(-rho) + s * torch.exp(-rho)


def exo(q: torch.Tensor, eps: float) -> torch.Tensor:
    return q * (q.log() - math.log(1 - eps)) + (1 - q) * ((1 - q).log() - math.log(eps))


def smoothed(d: torch.Tensor, beta: float, eps: float) -> torch.Tensor:
    return sp(-beta * d) * (1 - eps) + sp(beta * d) * eps


def ordered(x: torch.Tensor) -> torch.Tensor:
    return x.sort().values


FORMULAS: dict[str, Callable[[Pairs, float, float, float], torch.Tensor]] = {
    "sigmoid": lambda x, beta, eps, tau: sp(-beta * x.d),
    "hinge": lambda x, beta, eps, tau: (1 - beta * x.d).clamp(min=0),
    "ipo": lambda x, beta, eps, tau: (x.a / x.yw - x.b / x.yl - 1 / (2 * beta)) ** 2,
    "exo_pair": lambda x, beta, eps, tau: exo(sg(beta * x.d), eps),
    "nca_pair": lambda x, beta, eps, tau: sp(-beta * x.a) + 0.5 * sp(beta * x.a) + 0.5 * sp(beta * x.b),
    "robust": lambda x, beta, eps, tau: ((1 - eps) * sp(-beta * x.d) - eps * sp(beta * x.d)) / (1 - 2 * eps),
    "bco_pair": lambda x, beta, eps, tau: sp(-beta * x.a) + sp(beta * x.b),
    "sppo_hard": lambda x, beta, eps, tau: (x.a - 0.5 / beta) ** 2 + (x.b + 0.5 / beta) ** 2,
    "aot": lambda x, beta, eps, tau: smoothed(ordered(x.lw - x.ll) - ordered(x.rw - x.rl), beta, eps),
    "aot_unpaired": lambda x, beta, eps, tau: smoothed(ordered(x.a) - ordered(x.b), beta, eps),
    "apo_zero": lambda x, beta, eps, tau: 1 - sg(beta * x.a) + sg(beta * x.b),
    "apo_down": lambda x, beta, eps, tau: sg(beta * x.a) + 1 - sg(beta * x.d),
    "discopop": lambda x, beta, eps, tau: lrml(beta * x.d, tau),
    "sft": lambda x, beta, eps, tau: -x.lw.sum() / x.yw.sum(),
    "sigmoid_norm": lambda x, beta, eps, tau: sp(-beta * (x.a / x.yw - x.b / x.yl)),
}
"""The card's table: the loss of each pair (of the batch, for sft) from Pairs, beta, label_smoothing, discopop_tau."""

LN2 = math.log(2)
AT_REFERENCE: dict[str, Callable[[float, float], float]] = {
    "sigmoid": lambda beta, eps: LN2,
    "hinge": lambda beta, eps: 1.0,
    "ipo": lambda beta, eps: 1 / (4 * beta**2),
    "exo_pair": lambda beta, eps: -LN2 - 0.5 * math.log(eps * (1 - eps)),
    "nca_pair": lambda beta, eps: 2 * LN2,
    "robust": lambda beta, eps: LN2,
    "bco_pair": lambda beta, eps: 2 * LN2,
    "sppo_hard": lambda beta, eps: 1 / (2 * beta**2),
    "aot": lambda beta, eps: LN2,
    "aot_unpaired": lambda beta, eps: LN2,
    "apo_zero": lambda beta, eps: 1.0,
    "apo_down": lambda beta, eps: 1.0,
    "discopop": lambda beta, eps: 0.8465735902799727,
    "sigmoid_norm": lambda beta, eps: LN2,
}
"""The card's column of values where the policy is the reference; that of sft is the batch's own."""


def smoothing(loss: str) -> float:
    """Given to all losses: most have none, and must not mind."""
    return 1e-3 if loss == "exo_pair" else 0.1


@contextmanager
def in_double() -> Generator[None]:
    """TRL makes a tensor of label_smoothing for exo_pair, of the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def completions(ids: torch.Tensor) -> torch.Tensor:
    """Where the words after the prompt are, shifted as what they are predicted from is."""
    return ((ids != PAD) & (torch.arange(ids.shape[1]) >= PROMPT))[:, 1:]


@dataclass(frozen=True)
class Said:
    """In a model's place: the log-probability of every token after the first is the one that it was told.

    TRL reads the logits up to 1.10 and the log-probabilities of a fused head, zero off the labels, later on. The head
    computes in float32 whatever the model is; with one that was told, the arithmetic after it is compared in float64.
    """

    logps: torch.Tensor

    def __call__(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **named: Any) -> SimpleNamespace:
        others = torch.log(-torch.expm1(self.logps)) - math.log(WORDS + 2)
        logits = others[..., None].repeat(1, 1, WORDS + 3).scatter(-1, input_ids[:, 1:, None], self.logps[..., None])
        scored = torch.ones_like(self.logps, dtype=torch.bool) if labels is None else labels[:, 1:] != -100
        nothing = torch.zeros_like(self.logps).detach()
        return SimpleNamespace(
            logits=torch.cat([logits, torch.zeros_like(logits[:, :1])], 1), log_probs=self.logps.where(scored, nothing),
            entropy=nothing, mean_logits=nothing, is_top1=nothing > 0,
        )  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A batch of random words, and log-probabilities of them that two models are told."""

    inputs: dict[str, torch.Tensor]
    policy: torch.Tensor
    reference: torch.Tensor

    @property
    def pairs(self) -> Pairs:
        mask = completions(self.inputs["input_ids"])
        of = [(logps * mask).sum(1).chunk(2) for logps in (self.policy, self.reference)]
        return Pairs(*of[0], *of[1], *mask.sum(1).chunk(2))


def told(seed: int, count: int = 8, length: int | None = None) -> Told:
    """`count` pairs, their completions of 1 to 6 tokens, or all of `length`; prompts and padding are told of too."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (2 * count,), generator=draw) if length is None else torch.full((2 * count,), length)
    held = torch.arange(PROMPT + 6) < PROMPT + lengths[:, None]
    ids = torch.randint(3, WORDS + 3, held.shape, generator=draw) * held
    inputs = {"input_ids": ids, "attention_mask": held.long(), "completion_mask": held.long()}
    inputs["completion_mask"][:, :PROMPT] = 0
    logps = [-4 * torch.rand(held[:, 1:].shape, generator=draw, dtype=torch.float64) - 0.01 for _ in range(2)]
    return Told(inputs, *logps)


def trained(output: Path, loss: str | list[str], **more: Any) -> Any:
    """A DPOTrainer before which the mixin stands, of batches of 8 pairs. Its weights are not trained yet."""
    named = {name: more.pop(name) for name in ("model", "ref_model", "recipe") if name in more}
    args = {"loss_type": [loss] if isinstance(loss, str) else loss, "precompute_ref_log_probs": False}
    args |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, **more}
    return made("dpo with its reference", output, args=args, **named)


def by_trl(trainer: Any, case: Told) -> torch.Tensor:
    """The trainer's own loss of what the models were told."""
    trainer.ref_model = Said(case.reference)
    with in_double():
        loss = trainer.compute_loss(Said(case.policy), case.inputs)
    assert loss.dtype == torch.float64
    return loss


def sure(seed: int) -> Any:
    """A Llama in float64 that is sure of its words: log-ratios of some nats, where every term of a loss counts."""
    model = llama(seed).double()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model


def summed(model: Any, ids: torch.Tensor, attention: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the completions, summed, and their lengths."""
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=attention).logits.double()
    mask = completions(ids)
    return (logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0] * mask).sum(1), mask.sum(1)


def from_logits(trainer: Any, inputs: Any) -> Pairs:
    (policy, lengths), (reference, _) = (
        summed(model, inputs["input_ids"], inputs["attention_mask"]) for model in (trainer.model, trainer.ref_model)
    )
    return Pairs(*policy.chunk(2), *reference.chunk(2), *lengths.chunk(2))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_the_formula(loss: str, tmp_path: Path) -> None:
    """Card preference-losses, check 2: 1e-12 on random log-probabilities; 2e-6 on those of two models, float32 in
    TRL's fused head. Pairs of unlike length; settings that are nobody's default."""
    beta, eps, tau = 0.3, smoothing(loss), 0.2
    settings = {"beta": beta, "label_smoothing": eps, "discopop_tau": tau}
    trainer = trained(tmp_path, loss, model=sure(0), ref_model=sure(1), **settings)
    inputs = batch_of(trainer)
    pairs = from_logits(trainer, inputs)
    assert len({*pairs.yw.tolist(), *pairs.yl.tolist()}) > 1
    assert (beta * pairs.d).min() < -1 < 1 < (beta * pairs.d).max()
    expected = float(FORMULAS[loss](pairs, beta, eps, tau).mean())
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(expected, rel=SINGLE)
    for seed in range(3):
        case = told(seed)
        expected = float(FORMULAS[loss](case.pairs, beta, eps, tau).mean())
        assert by_trl(trainer, case).item() == pytest.approx(expected, rel=EXACT)


def test_several_losses_are_summed_with_their_weights(tmp_path: Path) -> None:
    """Card preference-losses, check 2, of a list: TRL's MPO."""
    weights = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    trainer = trained(
        tmp_path, list(weights), loss_weights=list(weights.values()), beta=0.3, model=sure(0), ref_model=sure(1)
    )
    inputs = batch_of(trainer)
    pairs, case = from_logits(trainer, inputs), told(0)
    of = [
        sum(w * float(FORMULAS[n](p, 0.3, 0.0, 0.05).mean()) for n, w in weights.items()) for p in (pairs, case.pairs)
    ]
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(of[0], rel=SINGLE)
    assert by_trl(trainer, case).item() == pytest.approx(of[1], rel=EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_the_policy_is_the_reference_a_loss_is_its_constant(loss: str, tmp_path: Path) -> None:
    """Card preference-losses, check 1: with any batch and TRL's defaults (beta 0.1, tau 0.05); discopop's, check 1, is
    so for any beta and tau."""
    eps = smoothing(loss)
    trainer = trained(tmp_path / "0", loss, ref_model=llama(0), label_smoothing=eps)
    for inputs in map(trainer._prepare_inputs, trainer.get_train_dataloader()):
        pairs = from_logits(trainer, inputs)
        constant = float(-pairs.lw.sum() / pairs.yw.sum()) if loss == "sft" else AT_REFERENCE[loss](0.1, eps)
        assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(constant, rel=SINGLE)
    for beta, tau in ((0.1, 0.05), (0.05, 0.2), (0.5, 1.0)) if loss == "discopop" else ((0.1, 0.05), (0.4, 0.05)):
        trainer = trained(tmp_path / "1", loss, label_smoothing=eps, beta=beta, discopop_tau=tau)
        for seed in range(2):
            case = told(seed)
            case = Told(case.inputs, case.policy, case.policy)
            pairs = case.pairs
            constant = float(-pairs.lw.sum() / pairs.yw.sum()) if loss == "sft" else AT_REFERENCE[loss](beta, eps)
            assert by_trl(trainer, case).item() == pytest.approx(constant, rel=EXACT)


@pytest.mark.parametrize(
    ("loss", "tau", "slope"),
    [("sigmoid", 0.05, -0.5), ("hinge", 0.05, -1.0), ("discopop", 0.05, 0.784264), ("discopop", 0.2, -0.366434)],
)
def test_where_the_policy_is_the_reference_a_loss_has_its_slope(
    loss: str, tau: float, slope: float, tmp_path: Path
) -> None:
    """Card preference-losses, check 2, through TRL: in the log-ratio difference, beta times a number; discopop's is
    given to six digits, and what the warning says of it is so to 1e-12."""
    case = told(0)
    count = len(case.pairs.yw)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(count)[:, None]
    for beta in (0.1, 0.5):
        logps = case.policy.clone().requires_grad_()
        trainer = trained(tmp_path, loss, beta=beta, discopop_tau=tau)
        by_trl(trainer, Told(case.inputs, logps, case.policy)).backward()
        assert logps.grad is not None
        found = logps.grad * count * sign
        mask = completions(case.inputs["input_ids"])
        assert found[~mask].abs().max() == 0
        assert found[mask].tolist() == pytest.approx([beta * slope] * int(mask.sum()), rel=1e-6)
        if loss == "discopop":
            assert found[mask].tolist() == pytest.approx([discopop_slope(beta, tau)] * int(mask.sum()), rel=EXACT)


def test_robust_without_smoothing_is_sigmoid(tmp_path: Path) -> None:
    """Card preference-losses, check 4."""
    losses = [
        trained(tmp_path, "robust", label_smoothing=0.0), trained(tmp_path, "sigmoid"),
        trained(tmp_path, "robust", label_smoothing=0.2),
    ]  # fmt: skip
    robust, sigmoid, smooth = (by_trl(trainer, told(0)).item() for trainer in losses)
    assert robust == pytest.approx(sigmoid, rel=EXACT)
    assert abs(smooth - sigmoid) > 1e-3


def test_nca_of_opposite_log_ratios_is_symmetric(tmp_path: Path) -> None:
    """Card preference-losses, check 4: where b = -a, it is twice sigmoid at half of beta and beta a/2; exchanging
    chosen and rejected adds beta a."""
    case = told(0, length=3)
    chosen, rejected = case.reference.chunk(2)
    away = torch.rand(chosen.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64) - 0.7
    away = away.minimum(-0.9 * chosen).maximum(0.9 * rejected)  # log-probabilities stay below zero
    case = Told(case.inputs, torch.cat([chosen + away, rejected - away]), case.reference)
    pairs = case.pairs
    assert torch.allclose(pairs.a, -pairs.b, rtol=EXACT)
    assert pairs.a.mean().abs() > 0.1
    nca, sigmoid = trained(tmp_path, "nca_pair", beta=0.4), trained(tmp_path, "sigmoid", beta=0.2)
    half = 0.4 * float(pairs.a.mean()) / 2
    loss = by_trl(nca, case).item()
    assert loss == pytest.approx(2 * by_trl(sigmoid, case).item() + half, rel=EXACT)
    assert by_trl(nca, exchanged(case)).item() == pytest.approx(loss + 2 * half, rel=EXACT)


@pytest.mark.parametrize("length", [1, 5])
def test_sigmoid_norm_of_equal_lengths_is_sigmoid_with_beta_over_the_length(length: int, tmp_path: Path) -> None:
    """Card preference-losses, check 4."""
    norm, sigmoid = trained(tmp_path, "sigmoid_norm", beta=0.5), trained(tmp_path, "sigmoid", beta=0.5 / length)
    case = told(length, length=length)
    assert by_trl(norm, case).item() == pytest.approx(by_trl(sigmoid, case).item(), rel=EXACT)
    ragged = told(length)
    assert by_trl(norm, ragged).item() != pytest.approx(by_trl(sigmoid, ragged).item(), rel=1e-3)


def halves_exchanged(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def exchanged(case: Told) -> Told:
    """Chosen for rejected, and rejected for chosen."""
    inputs = {name: halves_exchanged(tensor) for name, tensor in case.inputs.items()}
    return Told(inputs, halves_exchanged(case.policy), halves_exchanged(case.reference))


def test_exchanging_chosen_and_rejected_adds_beta_times_the_difference(tmp_path: Path) -> None:
    """Card preference-losses, check 5: of sigmoid, on random log-probabilities and on those of two models."""
    trainer = trained(tmp_path, "sigmoid", beta=0.3, model=sure(0), ref_model=sure(1))
    inputs = batch_of(trainer)
    other = {name: halves_exchanged(tensor) for name, tensor in inputs.items()}
    loss, swapped = (trainer.compute_loss(trainer.model, each).item() for each in (inputs, other))
    added = 0.3 * float(from_logits(trainer, inputs).d.mean())
    assert abs(added) > 0.05
    assert swapped - loss == pytest.approx(added, abs=SINGLE * loss)
    case = told(0)
    difference = by_trl(trainer, exchanged(case)).item() - by_trl(trainer, case).item()
    assert difference == pytest.approx(0.3 * float(case.pairs.d.mean()), rel=EXACT)


@pytest.mark.parametrize("gamma", [0.5, 1.4])
def test_simpo_is_the_formula(gamma: float, tmp_path: Path) -> None:
    """Card preference-losses, other trainers: CPO's simpo without its likelihood term has no reference, averages over
    a completion's tokens and has a margin."""
    args = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": gamma, "per_device_train_batch_size": 8}
    trainer = made("cpo", tmp_path, args=args, model=sure(0))
    inputs = batch_of(trainer)
    (lw, yw), (ll, yl) = (
        summed(trainer.model, inputs[f"{side}_input_ids"], inputs[f"{side}_attention_mask"])
        for side in ("chosen", "rejected")
    )
    assert (yw != yl).any()
    expected = float(sp(-(2.0 * (lw / yw - ll / yl) - gamma)).mean())
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(expected, rel=EXACT)


def test_simpo_has_the_slope_that_autograd_has(tmp_path: Path) -> None:
    """Card preference-losses, ZO safety class: simpo is pure, which the card has from reading alone."""
    args = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "per_device_train_batch_size": 8}
    trainer = made("cpo", tmp_path, args=args)
    inputs = batch_of(trainer)
    pairs = [slopes(trainer, inputs, Key("z", seed)) for seed in range(5)]
    assert max(abs(a - b) for a, b in pairs) < 2e-3 * max(abs(a) for a, _ in pairs)
    assert max(abs(a) for a, _ in pairs) > 1e-3


def slope_of(rho: float, tau: float) -> float:
    at = torch.tensor(rho, dtype=torch.float64, requires_grad=True)
    lrml(at, tau).backward()
    assert at.grad is not None
    return float(at.grad)


def root(low: float, high: float, tau: float) -> float:
    """Where the slope changes its sign, by bisection."""
    falls = slope_of(low, tau) < 0
    assert (slope_of(high, tau) < 0) != falls
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (slope_of(middle, tau) < 0) == falls else (low, middle)
    return low


def test_discopop_has_its_value_slope_and_stationary_points() -> None:
    """Card discopop, check 1."""
    for tau in (0.05, 0.2, 1.0):
        assert lrml(torch.zeros((), dtype=torch.float64), tau).item() == pytest.approx(0.8465735902799727, rel=EXACT)
        for beta in (0.05, 0.5):
            assert beta * slope_of(0.0, tau) == pytest.approx(discopop_slope(beta, tau), rel=EXACT)
    assert slope_of(0.0, 0.05) == pytest.approx(0.784264, abs=1e-6)
    low, high = root(-0.5, 0.0, 0.05), root(0.0, 0.5, 0.05)
    assert low == pytest.approx(-0.11857, abs=1e-4)
    assert high == pytest.approx(0.07201, abs=1e-4)
    values = [float(lrml(torch.tensor(rho, dtype=torch.float64), 0.05)) for rho in (low, high, 0.5)]
    assert values == pytest.approx([0.78592, 0.87829, 0.60652], abs=1e-5)
    assert slope_of(0.5, 0.05) == pytest.approx(-0.606, abs=1e-3)


def test_discopop_falls_everywhere_only_with_a_larger_tau() -> None:
    """Card discopop, values: monotone above tau (1 - ln 2)/3, where the warning ends."""
    grid = [i / 100 for i in range(-300, 301)]
    assert max(slope_of(rho, 0.11) for rho in grid) < 0 < max(slope_of(rho, 0.1) for rho in grid)
    edge = (1 - LN2) / 3
    assert discopop_slope(0.1, edge * 1.001) < 0 < discopop_slope(0.1, edge * 0.999)


def of_each(output: Path, tau: float) -> list[tuple[float, float]]:
    """log-ratio difference times beta, and TRL's discopop of that pair alone."""
    trainer = trained(output, "discopop", beta=0.4, discopop_tau=tau)
    cases = [told(seed, count=1) for seed in range(20)]
    return [(0.4 * float(case.pairs.d), by_trl(trainer, case).item()) for case in cases]


def test_discopop_of_a_pair_is_the_formula(tmp_path: Path) -> None:
    """Card discopop, check 3: 1e-12 in float64."""
    for tau in (0.05, 0.2):
        found = of_each(tmp_path, tau)
        assert min(rho for rho, _ in found) < -1 < 1 < max(rho for rho, _ in found)
        for rho, loss in found:
            assert loss == pytest.approx(float(lrml(torch.tensor(rho, dtype=torch.float64), tau)), rel=EXACT)


def test_discopop_between_its_limits_of_tau(tmp_path: Path) -> None:
    """Card discopop, check 2: CELL where tau is large; where it is small, an exponential above zero, DPO below."""
    for rho, loss in of_each(tmp_path, 1e6):
        assert loss == pytest.approx((math.log1p(math.exp(-rho)) + math.exp(-rho)) / 2, rel=1e-5)
    for rho, loss in of_each(tmp_path, 1e-6):
        assert loss == pytest.approx(math.exp(-rho) if rho > 0 else math.log1p(math.exp(-rho)), rel=EXACT)


def test_discopop_s_projected_gradient_at_the_reference_is_against_dpo_s(tmp_path: Path) -> None:
    """Card discopop, check 4: the central difference of a step, on one direction and batch, has the opposite sign; its
    ratio is near -0.784/0.5 = -1.57, up to eps and the rounding of float32 (2 % seen)."""
    found = {}
    for loss in ("discopop", "sigmoid"):
        trainer = trained(tmp_path / loss, loss, beta=0.5, ref_model=llama(0))
        inputs = batch_of(trainer)
        found[loss] = [slopes(trainer, inputs, Key("z", seed))[1] for seed in range(5)]
    for of_discopop, of_dpo in zip(found["discopop"], found["sigmoid"], strict=True):
        assert of_discopop / of_dpo == pytest.approx(-0.784264 / 0.5, rel=0.05)


@dataclass(frozen=True)
class Moved:
    """What a training has done to 16 pairs, at the weights it ended with: log-ratios, and the fall of the loss."""

    pairs: Pairs
    fall: float
    model: Any


def moved(output: Path, loss: str, *, policy: Any = None, recipe: str = "spsa", **more: Any) -> Moved:
    """Train on all 16 pairs at each step, from the reference or from another policy."""
    trainer = trained(
        output, loss, model=policy or llama(0), ref_model=llama(0), recipe=recipe, per_device_train_batch_size=16,
        lr_scheduler_type="constant", **more,
    )  # fmt: skip
    inputs = batch_of(trainer)
    before = trainer.compute_loss(trainer.model, inputs).item()
    trainer.train()
    after = trainer.compute_loss(trainer.model, inputs).item()
    return Moved(from_logits(trainer, inputs), before - after, trainer.model)


def test_sigmoid_raises_the_margins(tmp_path: Path) -> None:
    """Card preference-losses, check 6. Four seeds gave 0.022 to 0.044."""
    after = moved(tmp_path, "sigmoid", max_steps=50, learning_rate=5e-3)
    assert 0.1 * after.pairs.d.mean() > 0.01
    assert after.fall > 0.005


@pytest.mark.slow
def test_apo_down_lowers_both_where_sigmoid_raises_the_chosen(tmp_path: Path) -> None:
    """Card preference-losses, check 6, one seed and rate for both. At the reference apo_down has no slope in the chosen
    log-probability; it falls later, so 200 steps. Four seeds gave -0.35 to -0.24, and -1.43 to -1.15 of the rejected.
    """
    same = {"max_steps": 200, "learning_rate": 2e-3, "beta": 1.0}
    down, sigmoid = (moved(tmp_path / loss, loss, **same).pairs for loss in ("apo_down", "sigmoid"))
    assert down.a.mean() < -0.1
    assert down.b.mean() < -0.5
    assert sigmoid.a.mean() > 0.1
    assert sigmoid.d.mean() > 0.5


@pytest.mark.parametrize(("tau", "warm", "sign"), [(0.05, False, -1), (0.2, False, 1), (0.05, True, 1)])
def test_discopop_lowers_its_loss_and_the_margins_from_the_reference(
    tau: float, warm: bool, sign: int, tmp_path: Path
) -> None:
    """Card discopop, check 5: margins rise with a larger tau, or from a policy beyond the loss's hill (rho > 0.08).
    Four seeds gave -0.098 to -0.093; 0.060 to 0.100; 0.084 to 0.168."""
    policy, before = None, 0.0
    if warm:
        first = moved(tmp_path / "warm", "sigmoid", recipe="adamw", max_steps=3, learning_rate=1e-3, beta=0.5)
        assert (0.5 * first.pairs.d).min() > 0.08
        policy, before = first.model, 0.5 * float(first.pairs.d.mean())
    args = {"max_steps": 60, "learning_rate": 5e-4, "beta": 0.5, "discopop_tau": tau}
    after = moved(tmp_path / "run", "discopop", policy=policy, **args)
    assert after.fall > 0.01
    assert sign * (0.5 * float(after.pairs.d.mean()) - before) > 0.03
