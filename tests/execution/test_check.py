"""What the check before the first step finds, what it says, and what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_families import Mean, around, build
from zerothorder.errors import UsageError
from zerothorder.execution import Surroundings
from zerothorder.execution import check as checking
from zerothorder.execution.check import check_sites
from zerothorder.execution.copy import Copy
from zerothorder.execution.findings import Report, patterns
from zerothorder.execution.observe import digest
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Values

BATCH = {"x": torch.randn(6, 5, generator=torch.Generator().manual_seed(2))}


class Gate(nn.Module):
    """Gives its own weights back: they are used after it has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(5) + 0.5)

    def forward(self) -> Tensor:
        return self.weight.view(1, 5)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.read, self.gate, self.after = nn.Linear(5, 5), nn.Linear(5, 5), Gate(), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate()
        x = nn.functional.linear(self.used(x), self.read.weight)  # read.bias is never used
        return self.after(torch.tanh(x)) * gate


class Net(nn.Module):
    def __init__(self, block: type[nn.Module] = Block) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([block(), block()])
            self.down, self.up = nn.Linear(5, 2, bias=False), nn.Linear(2, 5, bias=False)
            nn.init.zeros_(self.up.weight)  # as LoRA starts
            self.unused = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x + self.up(self.down(x))


def check(net: nn.Module, objective: Any = None, **options: Any) -> Report:
    return check_sites(around(net), objective or Mean(), BATCH, **options)


MOVED = {
    f"blocks.{n}.{name}.weight": f"blocks.{n}" for n in (0, 1) for name in ("read", "gate")
}  # read without a call, used after the return
DEAD = {f"blocks.{n}.read.bias" for n in (0, 1)} | {"unused.weight", "unused.bias"}


def test_it_finds_what_is_read_elsewhere_dead_and_dormant() -> None:
    found = check(Net())
    assert found.owners == MOVED
    assert set(found.dead) == DEAD
    assert found.dormant == ("down.weight",)
    assert not found.noisy
    assert found.sites == 18


def test_its_sentences_name_them_by_pattern() -> None:
    moved, dead, dormant = check(Net()).sentences()
    assert moved == (
        "4 sites are read outside the module that holds the weights, so are exchanged while blocks.* runs: "
        "blocks.*.read.weight, blocks.*.gate.weight"
    )
    assert dead == (
        "4 sites change nothing on this batch, so training would move them without effect: blocks.*.read.bias, "
        "unused.weight, unused.bias; freeze what the objective does not use"
    )
    assert dormant == "1 site changes nothing alone, only together with others: down.weight"


def test_no_finding_no_sentence() -> None:
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))

    class Plain(Mean):
        def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            return model(prepared["x"]).square().mean(1)

    found = check(net, Plain())
    assert found == Report(sites=4, evaluations=3 + 2 + 4)
    assert found.sentences() == []


def test_the_joint_mode_finds_what_is_read_elsewhere_without_a_look_at_every_site() -> None:
    found = check(Net(), mode="joint")
    assert found.owners == MOVED
    assert found.dead == found.dormant == ()
    unused = around(Net(), where=lambda name: "unused" in name)
    assert set(check_sites(unused, Mean(), BATCH, mode="joint").dead) == {"unused.weight", "unused.bias"}


def test_a_site_missed_while_another_hides_it_is_found() -> None:
    """lora_A read directly while lora_B is zero: alone it changes nothing even where it is read."""

    class Hidden(Net):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x + self.up(nn.functional.linear(x, self.down.weight))

    found = check(Hidden())
    assert found.owners == MOVED | {"down.weight": ""}
    assert found.dormant == ("down.weight",)


def test_groups_keep_copy_from_holding_a_second_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups find what one finds; none holds more bytes than the largest site."""
    monkeypatch.setattr(checking, "_GROUP_BYTES", 1)
    held: list[int] = []
    own = Copy.evaluate

    def counting(self: Copy, points: Sequence[Point], *rest: Any) -> list[Values]:
        around: Surroundings = rest[-1]
        held.append(around.space.nbytes if points[0].terms else 0)
        return own(self, points, *rest)

    monkeypatch.setattr(Copy, "evaluate", counting)
    net = Net()
    found = check(net)
    assert found.owners == MOVED
    assert set(found.dead) == DEAD
    assert max(held) == 25 * 4


def test_a_metric_that_moves_in_steps_is_judged_by_the_model_s_outputs() -> None:
    class Sign(Mean):
        def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            return (model(**prepared).sum(1) > 1000).float()

    found = check(Net(), Sign())
    assert found.owners == MOVED
    assert set(found.dead) == DEAD
    assert found.dormant == ("down.weight",)


def test_an_output_that_the_loss_ignores_does_not_make_a_site_alive() -> None:
    class Pooled(Net):
        def forward(self, x: Tensor) -> Any:
            out = super().forward(x)
            return {"logits": out, "pooled": self.unused(out)}

    class First(Mean):
        def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            return model(**prepared)["logits"].square().mean(1)

    assert {"unused.weight", "unused.bias"} <= set(check(Pooled(), First()).dead)


def test_an_objective_with_noise_of_its_own_is_named_and_nothing_else_claimed() -> None:
    generator = torch.Generator().manual_seed(0)

    class Noisy(Mean):
        def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            return super().loss(model, prepared) + torch.rand((), generator=generator)

    found = check(Net(), Noisy())
    assert found.noisy
    assert not found.owners
    assert not found.dead
    (sentence,) = found.sentences()
    assert "other values at the same weights" in sentence


def test_dropout_is_no_noise() -> None:
    class Dropping(Mean):
        def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            return nn.functional.dropout(model(**prepared), 0.3).square().mean(1)

    assert check(Net(), Dropping()).owners == MOVED


class Broken(Swap):
    """Perturbs one way only and forgets the sites of one name, wherever they are."""

    def evaluate(
        self, points: Sequence[Point], objective: Objective, batches: Mapping[str, Any], key: Key, around: Surroundings
    ) -> list[Values]:
        kept = [site for site in around.space if "after" not in site.name]
        space = type(around.space)(kept) if kept else around.space
        return super().evaluate(
            points if kept else [Point()], objective, batches, key, Surroundings(**{**vars(around), "space": space})
        )


def test_an_executor_that_disagrees_everywhere_is_refused() -> None:
    with pytest.raises(UsageError, match=r"disagrees with a perturbed copy .* use the executor copy"):
        check(Net(), make=Broken)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="'sites' and 'joint'"):
        check(Net(), mode="all")  # type: ignore[arg-type]


def test_every_evaluation_is_counted_and_uses_a_few_rows() -> None:
    net = Net()
    bound = around(net)
    told: list[tuple[int, int]] = []
    found = check_sites(bound, Mean(), BATCH, rows=2, progress=lambda done, total: told.append((done, total)))
    assert bound.meter.calls == found.evaluations
    assert bound.meter.examples == 6 + 2 * (found.evaluations - 1)  # one look at all rows tells how many there are
    assert [done for done, _ in told] == [*range(1, found.evaluations + 1), found.evaluations]
    assert all(done <= total for done, total in told)
    assert told[-1] == (found.evaluations, found.evaluations)


def test_it_leaves_the_model_and_the_generators_alone() -> None:
    net = Net()
    before = [(p.data_ptr(), p._version, p.detach().clone()) for p in net.parameters()]
    generator = torch.get_rng_state()

    class Drawing(Mean):
        def prepare(self, model: nn.Module, batch: dict[str, Tensor], key: Key) -> dict[str, Tensor]:
            torch.rand(3)
            return batch

    check(net, Drawing())
    for p, (address, version, own) in zip(net.parameters(), before, strict=True):
        assert (p.data_ptr(), p._version) == (address, version)
        assert torch.equal(p, own)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_run_checked_twice_finds_the_same() -> None:
    net = Net()
    assert check(net) == check(net)


def test_tied_weights_read_elsewhere_go_to_what_covers_both_places() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"a": nn.Linear(5, 5, bias=False), "b": nn.Linear(5, 5, bias=False)})
            self.inner["b"].weight = self.inner["a"].weight

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.inner["a"](x), self.inner["b"].weight)

    assert check(Tied()).owners == {"inner.a.weight": ""}


def test_mamba_in_words() -> None:
    model, batch = build("mamba")
    found = check_sites(around(model), Mean(), batch, mode="joint").sentences()
    (sentence,) = found
    assert sentence == (
        "8 sites are read outside the module that holds the weights, so are exchanged while backbone.layers.*.mixer "
        "runs: backbone.layers.*.mixer.conv1d.weight, backbone.layers.*.mixer.conv1d.bias, "
        "backbone.layers.*.mixer.dt_proj.weight, backbone.layers.*.mixer.dt_proj.bias"
    )


def test_lora_in_words() -> None:
    model, batch = build("lora")
    found = check_sites(around(model), Mean(), batch).sentences()
    (sentence,) = found
    assert sentence == (
        "4 sites change nothing alone, only together with others: "
        "model.layers.*.self_attn.q_proj.lora_A.default.weight, model.layers.*.self_attn.v_proj.lora_A.default.weight "
        "(expected of lora_A while lora_B is zero)"
    )


def test_patterns_are_few() -> None:
    names = [f"layers.{n}.{kind}" for n in range(12) for kind in ("a", "b1", "c.2x", "d.3", "e", "f")]
    assert patterns(names) == "layers.*.a, layers.*.b1, layers.*.c.2x, layers.*.d.* and 2 more patterns"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_a_digest_sees_every_bit_place_and_shape(dtype: torch.dtype) -> None:
    x = torch.arange(12).to(dtype)
    same = digest(x)
    assert digest(x.clone()) == same
    assert digest(x.view(3, 4)) != same
    changed = x.clone()
    changed[5] = 0 if changed[5] else 1
    assert digest(changed) != same
    if dtype != torch.bool:
        assert digest(x.flip(0)) != same
    if dtype.is_floating_point:
        assert digest(-x) != same  # the sign of zero too
        nan = torch.full((3,), torch.nan, dtype=dtype)
        assert digest(nan) == digest(nan.clone())
