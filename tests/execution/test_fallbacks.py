"""What cannot run together runs one by one, with the right values, and `reason` says why."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from many_points import KEY, Rows, bind, key, look, pairs, randn, shaken
from zerothorder.errors import UsageError
from zerothorder.execution import Surroundings, batched, carried
from zerothorder.execution.batched import Batched
from zerothorder.execution.check import check_sites
from zerothorder.execution.copy import Copy
from zerothorder.key import Key
from zerothorder.objectives.wrap import MicroBatches
from zerothorder.point import Point, Values

WIDTH = 12


class Net(nn.Module):
    """A body between two Linear layers."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Linear(WIDTH, WIDTH), body or nn.Tanh(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.first(x)))


def rows(count: int = 4, length: int = 3) -> dict[str, Tensor]:
    return {"x": randn(count, length, WIDTH)}


def agree(executor: Batched, bound: Surroundings, batch: Any, objective: Any = None) -> None:
    """Twice, since the first evaluation decides how the next ones go."""
    for points in (pairs(2), pairs(3, 0.1)):
        expected = look(Copy(), bound, batch, points, objective)
        assert torch.allclose(look(executor, bound, batch, points, objective), expected, rtol=0, atol=1e-10)


# Before a pass


@pytest.mark.parametrize("module", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.BatchNorm1d(3)])
def test_modules_that_draw_or_couple_rows_in_training_mode(module: nn.Module) -> None:
    net, executor = shaken(Net(module)).train(), Batched()
    agree(executor, bind(net), rows())
    assert executor.reason == (
        f"body ({type(module).__name__}) is in training mode: rows would not be what they are alone"
    )
    quiet = Batched()
    agree(quiet, bind(net.eval()), rows())
    assert quiet.reason is None


class Number(Rows):
    """One number for the whole batch."""

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        return super().values(model, prepared).mean()


class Whole:
    """Neither counts nor cuts."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return Rows().evaluate(model, prepared)


class Neighbours(Rows):
    """A row's value depends on the rows it stands with: a contrastive loss."""

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        out = model(**prepared).flatten(1)
        return -(out @ out.T).log_softmax(1).diagonal()


class Detailed(Rows):
    """Says more than a number a row."""

    def evaluate(self, model: nn.Module, prepared: dict[str, Tensor]) -> Values:
        found = super().evaluate(model, prepared)
        return Values(found.value, found.weight, detail=int(found.value.argmax()))


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Number(), "Number does not give one value an example"),
        (Whole(), "Whole does not give one value an example"),
        (Neighbours(), "rows evaluated together have other values than alone, even without a perturbation"),
        (Detailed(), "Detailed gives a detail of all rows together"),
    ],
)
def test_objectives_without_a_value_for_every_row_by_itself(objective: Any, reason: str) -> None:
    executor, bound = Batched(), bind(shaken(Net()))
    agree(executor, bound, rows(), objective)
    assert executor.reason == reason
    assert executor.sentences() == [f"points are evaluated one by one, not together: {reason}"]
    if isinstance(objective, Detailed):
        found = executor.evaluate(pairs(1), objective, {"main": rows()}, KEY, bound)
        assert all(isinstance(values.detail, int) for values in found)


def test_a_point_that_wants_a_gradient_goes_alone_and_the_others_together() -> None:
    class Differentiable(Rows):
        def gradient(self, model: nn.Module, prepared: dict[str, Tensor]) -> Values:
            value = self.values(model, prepared)
            named = dict(model.named_parameters())
            found = torch.autograd.grad(value.mean(), list(named.values()))
            return Values(value.detach(), torch.ones_like(value), dict(zip(named, found, strict=True)))

    bound, executor = bind(shaken(Net())), Batched(check=False)
    points = [*pairs(1), Point(((key(0), 0.3),), want="gradient")]
    found = executor.evaluate(points, Differentiable(), {"main": rows()}, KEY, bound)
    assert executor.reason is None
    assert bound.meter.calls == 2, "both points along the draw in one call, the gradient in another"
    (expected,) = Copy().evaluate(points[2:], Differentiable(), {"main": rows()}, KEY, bound)
    assert found[2].gradient is not None
    assert expected.gradient is not None
    assert all(torch.allclose(found[2].gradient[n], g, rtol=0, atol=1e-12) for n, g in expected.gradient.items())


class Reading(nn.Module):
    """Uses the weight of a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.store = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.store.weight + self.store.bias).tanh()


class AfterTheModel(Rows):
    """Uses a layer of the model's when the model has returned."""

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        last: Any = model.last
        return super().values(model, prepared) + (prepared["x"].sum(1) @ last.weight.T).sum(1)


@pytest.mark.parametrize("objective", [Rows(), AfterTheModel()])
def test_a_weight_that_is_read_without_its_module_s_call(objective: Rows) -> None:
    """Within another module, that one runs point by point; outside all of them, every point is a pass of its own."""
    bound = bind(shaken(Net(Reading())))
    executor = Batched(check_sites(bound, objective, rows(), mode="joint").owners)
    agree(executor, bound, rows(), objective)
    if isinstance(objective, AfterTheModel):
        assert executor.reason == "last.weight is read outside the modules that are called"
    else:
        assert executor.reason is None
        assert executor.one_by_one == {"Reading"}
        assert executor.sentences() == ["run once a point, not for all at once: Reading"]


def test_the_kinds_that_run_once_a_point_are_named() -> None:
    body = nn.Sequential(nn.Bilinear(WIDTH, WIDTH, WIDTH), nn.PReLU(WIDTH))
    body.forward = lambda x: body[1](body[0](x, x).movedim(-1, 1)).movedim(1, -1)  # type: ignore[method-assign]
    executor, bound = Batched(), bind(shaken(Net(body)))
    agree(executor, bound, rows())
    assert executor.reason is None
    assert executor.one_by_one == {"Bilinear", "PReLU"}
    assert executor.sentences() == ["run once a point, not for all at once: Bilinear, PReLU"]


# Points and batches that do not go together


class Listed(Rows):
    """As `Rows`, of a list of examples."""

    def count(self, prepared: Any) -> int:
        return len(prepared)

    def select(self, prepared: Any, rows: Any) -> Any:
        return [prepared[row] for row in rows]

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return super().evaluate(model, {"x": torch.stack(prepared)})


@pytest.mark.parametrize("micro", [False, True])
def test_points_on_several_batches_or_rows(micro: bool) -> None:
    bound, executor = bind(shaken(Net())), Batched()
    objective: Any = MicroBatches(Listed(), 3) if micro else Listed()
    given = {"main": randn(4, 3, WIDTH), "other": randn(2, 3, WIDTH, seed=7)}
    batches = {name: objective.prepare(bound.model, list(x), KEY) for name, x in given.items()}
    mixed = [replace(point, on=on) for on in given for point in pairs(1)]
    for points in (mixed, mixed[:2], mixed[2:], pairs(2)):
        found = executor.evaluate(points, objective, batches, KEY, bound)
        expected = Copy().evaluate(points, objective, batches, KEY, bound)
        assert [len(values.value) for values in found] == [4 if point.on == "main" else 2 for point in points]
        assert all(torch.allclose(a.value, b.value, rtol=0, atol=1e-10) for a, b in zip(found, expected, strict=True))
    assert executor.reason is None
    some = [replace(point, rows=(2, 0)) for point in pairs(1)]
    if micro:
        with pytest.raises(UsageError, match="MicroBatches cannot be evaluated on some rows"):
            executor.evaluate(some, objective, batches, KEY, bound)
    else:
        found = executor.evaluate(some, objective, batches, KEY, bound)
        for values, whole in zip(found, Copy().evaluate(pairs(1), objective, batches, KEY, bound), strict=True):
            assert torch.allclose(values.value, whole.value[[2, 0]], rtol=0, atol=1e-10)
    with pytest.raises(UsageError, match="no batch named 'third'; it was given main, other"):
        executor.evaluate([replace(point, on="third") for point in pairs(1)], objective, batches, KEY, bound)


# Within a pass


class Positions(nn.Module):
    """Adds a searched table to the tokens; `form` is how it is read."""

    def __init__(self, form: str, length: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, WIDTH), nn.Embedding(length, WIDTH)
        self.form, self.last = form, nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        places, h = torch.arange(x.shape[1]), self.words(x)
        if self.form == "a pair":
            return self.last((h[:, :, None] * self.places((places[:, None] - places).abs())).sum(2).tanh())
        return self.last((h + self.places(places if self.form == "a place" else places[None])).tanh())


class SequenceFirst(nn.Module):
    """Works on (length, rows, width), or on its rows one below the other."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat, self.first, self.last = flat, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        h = self.first(x.reshape(-1, WIDTH)).view(x.shape) if self.flat else self.first(x)
        return self.last(h.tanh().cumsum(0).transpose(0, 1))


class LastState(nn.Module):
    """An LSTM, of which the output or the last state is used."""

    def __init__(self, state: bool, rows_first: bool) -> None:
        super().__init__()
        self.state, self.rows_first = state, rows_first
        self.lstm, self.last = nn.LSTM(WIDTH, WIDTH, 2, batch_first=rows_first), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, (state, _) = self.lstm(x if self.rows_first else x.transpose(0, 1))
        return self.last(state[-1] if self.state else (out if self.rows_first else out.transpose(0, 1)).sum(1))


class Packed(nn.Module):
    """An LSTM over rows of several lengths, sorted and laid end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x)) % 2 + x.shape[1] - 1
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.last(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0].sum(1))


class Auxiliary(nn.Module):
    """Gives a number beside its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.gain, self.gain.square().mean()


class UsingAuxiliary(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used, self.inner, self.last = used, Auxiliary(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, number = self.inner(x)
        return self.last(h) + (number if self.used else 0)


class OneVector(nn.Module):
    """The same vector is added at every place of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("given", randn(1, WIDTH))
        self.change, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x + self.change(self.given)).tanh())


class Limited(nn.Module):
    """Takes no more rows than a batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise RuntimeError(f"at most 4 rows, not {len(x)}\nand a line that nobody needs")
        return self.last(self.first(x).tanh())


def ids(length: int) -> dict[str, Tensor]:
    return {"x": torch.randint(0, 30, (4, length), generator=torch.Generator().manual_seed(0))}


NO_BATCH, ENDS = "a {} is called with something that is not a batch", "a pass of all points ends in "
STRANGE: dict[str, tuple[Callable[[int], nn.Module], str | None]] = {
    "a table by (1, length)": (lambda length: Positions("a row", length), None),
    "a table by (length)": (lambda length: Positions("a place", length), NO_BATCH.format("Embedding")),
    "a table by (length, length)": (lambda length: Positions("a pair", length), NO_BATCH.format("Embedding")),
    "sequence first": (lambda length: SequenceFirst(False), NO_BATCH.format("Linear")),
    "sequence first, flat": (lambda length: SequenceFirst(True), "the rows of points mix in Linear"),
    "an LSTM's output": (lambda length: LastState(False, True), None),
    "an LSTM's last state": (lambda length: LastState(True, True), NO_BATCH.format("Linear")),
    "an LSTM, sequence first": (lambda length: LastState(False, False), NO_BATCH.format("LSTM")),
    "an LSTM of several lengths": (lambda length: Packed(), "a LSTM is called with an object that holds state"),
    "a number that is not used": (lambda length: UsingAuxiliary(False), None),
    "a number that is used": (
        lambda length: UsingAuxiliary(True),
        f"{ENDS}RuntimeError: Tensor on device meta",
    ),
    "a vector for all": (lambda length: OneVector(), NO_BATCH.format("Linear")),
    "a limit": (lambda length: Limited(), f"{ENDS}RuntimeError: at most 4 rows, not 6"),
}


@pytest.mark.parametrize("length", [2, 6, 7, 8, 12, 16])
@pytest.mark.parametrize("name", STRANGE)
def test_rows_that_cannot_be_told_apart(name: str, length: int) -> None:
    """Of any length: 6, 8, 12 and 16 could be taken for the rows of some pass or other."""
    make, reason = STRANGE[name]
    executor, bound = Batched(), bind(shaken(make(length)))
    agree(executor, bound, ids(length) if "table" in name else rows(4, length))
    assert (executor.reason is None) == (reason is None)
    if length == 7:
        assert (executor.reason or "").startswith(reason or "")


@pytest.mark.parametrize("name", STRANGE)
def test_one_token_and_one_row_come_out_right(name: str) -> None:
    """Leading dimensions of one are a table's as much as a batch's."""
    for count, length in ((4, 1), (1, 7), (1, 8), (1, 2)):
        if "several" not in name or length > 1:
            net = shaken(STRANGE[name][0](length))
            batch = ids(length) if "table" in name else rows(4, length)
            agree(Batched(), bind(net), {"x": batch["x"][:count]})


class Placed(nn.Module):
    """Is told the places of its tokens beside the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        return x * self.gain + places.sin()[:, None]


class Placing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Placed(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x, torch.arange(x.shape[1])).tanh())


@pytest.mark.parametrize("check", [True, False])
def test_an_argument_without_rows_stays_one_at_a_length_that_points_divide(check: bool) -> None:
    """At 7 places it cannot be cut into points; at 8 and 16 it could, of two points and of four."""
    executor, bound = Batched(check=check), bind(shaken(Placing()))
    for length in (7, 8, 16, 4, 12):
        agree(executor, bound, rows(4, length))
    assert executor.reason is None
    assert executor.one_by_one == {"Placed"}


def test_a_resumed_run_knows_what_was_found() -> None:
    """Kept as JSON: what runs point by point, which arguments hold no rows, or why nothing runs together."""
    bound = bind(shaken(Placing()))
    first = Batched(singly=["Linear"])
    look(first, bound, rows(4, 7), pairs(2))
    kept = json.loads(json.dumps(first.findings(bound.model)))
    assert kept == {"singly": ["Linear"], "one_by_one": None, "shared": False, "rowless": [["inner", 0, 1]]}
    resumed = Batched().restored({}, kept)
    before = bound.meter.calls
    agree(resumed, bound, rows(4, 16))
    assert bound.meter.calls - before == 2 + 4 + 6  # a pass each, and `Copy`; no check
    assert resumed.one_by_one == {"Placed", "Linear"}
    assert resumed.findings(bound.model) == kept
    mixing = bind(shaken(Positions("a place", 7)))
    first = Batched()
    look(first, mixing, ids(7), pairs(2))
    resumed = Batched().restored({}, json.loads(json.dumps(first.findings(mixing.model))))
    agree(resumed, mixing, ids(7))
    assert resumed.reason == first.reason is not None


def test_without_the_check_a_length_may_be_taken_for_rows() -> None:
    """Why it is there: the table's 16 places are cut as if they were four points of four rows."""
    bound, points = bind(shaken(Positions("a place", 16))), pairs(2)
    executor = Batched(check=False)
    found = look(executor, bound, ids(16), points)
    assert executor.reason is None
    assert not torch.allclose(found, look(Copy(), bound, ids(16), points), rtol=0, atol=1e-3)


@pytest.mark.parametrize("wrong", ["scaled", "without the perturbation", "another point's"])
def test_a_layer_that_carries_wrongly_runs_point_by_point(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = carried.linear

    def planted(module: Any, x: Tensor, sites: Any, copies: Any, few: Any = None) -> Any:
        if wrong == "scaled":
            return 1.01 * own(module, x, sites, copies, few)
        if wrong == "without the perturbation":
            return nn.functional.linear(x, module.weight, module.bias)
        found = own(module, x, sites, copies, few)
        return found.roll(len(found) // len(copies), 0)

    monkeypatch.setitem(carried._KNOWN, nn.Linear, planted)
    executor, bound = Batched(), bind(shaken(Net(nn.LayerNorm(WIDTH))))
    agree(executor, bound, rows())
    assert executor.reason is None
    assert executor.singly == {"Linear"}
    assert executor.one_by_one == {"Linear"}


# Errors


def test_an_error_that_is_not_of_the_pass_is_the_user_s() -> None:
    class Failing(Rows):
        def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            raise ZeroDivisionError("planted")

    executor, bound = Batched(), bind(shaken(Net()))
    with pytest.raises(ZeroDivisionError, match="planted"):
        look(executor, bound, rows(), pairs(2), Failing())
    agree(executor, bound, rows())
    assert executor.reason is None


def test_too_little_memory_is_not_hidden() -> None:
    """Fewer copies would help; going on one by one in silence would not say so."""

    class Large(Rows):
        def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
            if len(prepared["x"]) > 4:
                raise torch.OutOfMemoryError("planted")
            return super().values(model, prepared)

    executor, bound = Batched(check=False), bind(shaken(Net()))
    with pytest.raises(torch.OutOfMemoryError):
        look(executor, bound, rows(), pairs(2), Large())
    assert executor.reason is None


def test_an_interrupted_check_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = batched.check_together, 0

    def interrupted(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        own(*args)

    monkeypatch.setattr(batched, "check_together", interrupted)
    executor, bound = Batched(), bind(shaken(Positions("a place", 16)))
    with pytest.raises(KeyboardInterrupt):
        look(executor, bound, ids(16), pairs(2))
    agree(executor, bound, ids(16))
    assert calls == 2
