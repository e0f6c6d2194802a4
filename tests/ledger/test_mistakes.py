"""What a replay refuses, each in a sentence: another base, other names, other versions, missing files."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from small_runs import Case, Net, batch_at, load_base, save_base, weights_hash
from zerothorder import catalogue, random
from zerothorder.errors import LedgerError, UsageError
from zerothorder.ledger import header as header_module
from zerothorder.ledger.reader import read
from zerothorder.ledger.writer import Ledger
from zerothorder.recipes.mezo import MeZO
from zerothorder.replay import replay
from zerothorder.run import new_header
from zerothorder.updates import Update

CASE = Case(steps=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = CASE.base()
    save_base(model, tmp_path)
    run = CASE.start(tmp_path, model)
    CASE.finish(CASE.go(run))
    return tmp_path


def refused(model: nn.Module, path: Path, sentence: str) -> None:
    """A LedgerError with this sentence, and a model that is as it was."""
    before = weights_hash(model)
    with pytest.raises(LedgerError, match=sentence):
        replay(model, path)
    assert weights_hash(model) == before


def test_one_flipped_bit_of_the_base(folder: Path) -> None:
    model = load_base(folder)
    with torch.no_grad():
        model.embed.weight.view(torch.int32)[17, 3] ^= 1
    refused(model, folder / "ledger.zo", "another base: weights hash .* give the model the run started from")


def test_one_flipped_bit_of_a_frozen_weight(folder: Path) -> None:
    """Frozen weights do not move, but the run's losses came from them: it is another base."""
    model = load_base(folder)
    with torch.no_grad():
        model.frozen.bias.view(torch.int32)[0] ^= 1
    refused(model, folder / "ledger.zo", "another base")


def test_a_changed_buffer(folder: Path) -> None:
    model = load_base(folder)
    model.register_buffer("scale", torch.ones(1))
    refused(model, folder / "ledger.zo", "another base")


def test_the_trained_model_is_not_the_base(folder: Path) -> None:
    model = load_base(folder)
    replay(model, folder / "ledger.zo")
    refused(model, folder / "ledger.zo", "another base")


def test_a_renamed_parameter_is_named(folder: Path) -> None:
    model = load_base(folder)
    model.add_module("middle", model.inner)
    del model.inner
    refused(model, folder / "ledger.zo", "moves a parameter 'inner.weight' that this base does not have")


def test_another_shape_is_named(folder: Path) -> None:
    model = load_base(folder)
    model.head = nn.Linear(24, 6)
    refused(
        model, folder / "ledger.zo", r"'head.weight' of shape \[5, 24\] in float32, this base has \[6, 24\] in float32"
    )


def test_another_dtype_is_named(folder: Path) -> None:
    refused(load_base(folder).to(torch.bfloat16), folder / "ledger.zo", "in float32, this base has .* in bfloat16")


def test_a_parameter_too_many_is_named(folder: Path) -> None:
    """Where the caller chose the space (resume): the ledger does not know this one."""
    model = load_base(folder)
    model.more = nn.Linear(2, 2)
    header = read(folder / "ledger.zo").header
    with pytest.raises(LedgerError, match=r"this base trains a parameter 'more\.bias' that RUN does not know"):
        header_module.check_base(header, model, CASE.space(model), "RUN")


def test_a_frozen_parameter_of_the_run_is_named(folder: Path) -> None:
    model = load_base(folder)
    model.norm.requires_grad_(False)
    refused(model, folder / "ledger.zo", "moves a parameter 'norm.weight' that this base does not have")


def rewritten(folder: Path, **changes: object) -> Path:
    """The ledger's entries under another header."""
    contents = read(folder / "ledger.zo")
    path = folder / "other.zo"
    ledger = Ledger(dataclasses.replace(contents.header, **changes), path)  # type: ignore[arg-type]
    for entry in contents.entries:
        ledger.append(entry)
    ledger.close()
    return path


def test_an_unknown_recipe_gets_the_nearest_name(folder: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'mezzo'; did you mean 'mezo'"):
        replay(load_base(folder), rewritten(folder, recipe="mezzo"))


def test_a_setting_of_a_newer_recipe(folder: Path) -> None:
    path = rewritten(folder, settings={"lr": 1e-3, "sparsity": 0.5})
    refused(
        load_base(folder), path, "recipe 'mezo' has settings that this zerothorder does not know .*'sparsity'.*upgrade"
    )


def test_another_generator(folder: Path) -> None:
    path = rewritten(folder, generator=random.VERSION + 1)
    refused(load_base(folder), path, f"uses generator {random.VERSION + 1}, this zerothorder has {random.VERSION}")


def test_a_newer_format(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "FORMAT", 7)
    path = rewritten(folder)
    monkeypatch.undo()
    refused(load_base(folder), path, "ledger format 7, this zerothorder reads up to 1; upgrade zerothorder")


# ------------------------------------------------------------------------------------------- attachments


@pytest.fixture
def hybrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with an attachment at the start and a dense part in its second step."""
    monkeypatch.setattr(MeZO, "update", lambda self: Update(accepts_dense=True))
    model = CASE.base()
    save_base(model, tmp_path)
    run = CASE.start(tmp_path, model)
    run.attach("mask", {"head.bias": torch.ones(5)})
    inner = run.estimator

    def estimate(step):  # type: ignore[no-untyped-def]
        found = yield from inner(step)
        return dataclasses.replace(found, dense={"head.bias": torch.arange(5.0)} if step.index == 1 else None)

    run.estimator = estimate
    CASE.finish(CASE.go(run))
    again = load_base(tmp_path)
    replay(again, tmp_path / "ledger.zo")
    assert weights_hash(again) == weights_hash(model)
    return tmp_path


def file_of(folder: Path, what: str) -> Path:
    contents = read(folder / "ledger.zo")
    digest = contents.attached["mask"] if what == "mask" else contents.entries[1].dense_hash
    return folder / "attachments" / f"{digest}.safetensors"


@pytest.mark.parametrize(("what", "named"), [("mask", "'mask'"), ("dense", "step 1")])
def test_a_missing_attachment_is_named(hybrid: Path, what: str, named: str) -> None:
    path = file_of(hybrid, what)
    path.unlink()
    with pytest.raises(
        LedgerError, match=f"{named} needs the attachment {path.name}, which is not in .*; copy it there"
    ):
        replay(load_base(hybrid), hybrid / "ledger.zo")
    replay(load_base(hybrid), hybrid / "ledger.zo", until=1) if what == "dense" else None  # the step before stands


@pytest.mark.parametrize(("what", "named"), [("mask", "'mask'"), ("dense", "step 1")])
def test_a_damaged_attachment_is_named(hybrid: Path, what: str, named: str) -> None:
    path = file_of(hybrid, what)
    whole = path.read_bytes()
    for at in (3, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 2
        path.write_bytes(damaged)
        with pytest.raises(LedgerError, match=f"{named} is damaged: its content does not match its name"):
            replay(load_base(hybrid), hybrid / "ledger.zo")


# ------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("changes", [{"optimizer": "momentum"}, {"law": "rademacher"}, {"lr": 1.0}])
def test_a_run_goes_on_with_its_own_recipe(folder: Path, changes: dict[str, object]) -> None:
    """Steps of another update would be written that replay, which follows the header, takes by the first one."""
    name, value = next(iter(changes.items()))
    before = getattr(CASE.recipe(), name)
    with pytest.raises(UsageError, match=f"begun with {name} = {before!r}, not {value!r}; go on with its own settings"):
        dataclasses.replace(CASE, settings=changes).resume(folder)


def test_a_run_goes_on_with_its_own_rounding(tmp_path: Path) -> None:
    case = Case(torch.float16)
    case.go(case.start(tmp_path), 1)
    with pytest.raises(UsageError, match="precision = 'residual', not 'nearest'"):
        dataclasses.replace(case, precision="nearest").resume(tmp_path)


def test_every_recipe_of_the_catalogue_can_be_rebuilt_from_its_header() -> None:
    model = Net()
    for name in catalogue.CATALOGUE:
        recipe = catalogue.build(name)
        found = new_header(model, CASE.space(model), recipe, b"k" * 16, {}, {})
        decoded, _ = header_module.Header.decode(found.encode(), "test")
        assert catalogue.row(decoded.recipe).recipe(**decoded.settings) == recipe


def test_a_bad_dense_part_costs_one_step() -> None:
    run = CASE.start()
    run.update = Update(accepts_dense=True)
    inner = run.estimator

    def estimate(step):  # type: ignore[no-untyped-def]
        found = yield from inner(step)
        return dataclasses.replace(found, dense={"head.bias": torch.tensor([0.0, 1.0, float("nan"), 0.0, 0.0])})

    run.estimator = estimate
    before = weights_hash(run.model)
    entry = run.step(batch_at(0))
    assert entry.skipped
    assert entry.dense_hash is None
    assert weights_hash(run.model) == before


def test_an_estimate_that_cannot_be_applied_is_not_written(tmp_path: Path) -> None:
    run = CASE.start(tmp_path)
    inner = run.estimator

    def estimate(step):  # type: ignore[no-untyped-def]
        return dataclasses.replace((yield from inner(step)), dense={"head.bias": torch.zeros(5)})

    run.estimator = estimate
    with pytest.raises(UsageError, match="scalars only, but the estimate holds a first-order part"):
        run.step(batch_at(0))
    run.ledger.close()
    assert read(tmp_path / "ledger.zo").entries == ()
