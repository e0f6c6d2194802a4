"""The page of an interplay: whole, offline, with the numbers that were computed; and the command that writes it."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zerothorder.cli.main import main
from zerothorder.interplay.look import WHOLE, Interplay, look
from zerothorder.interplay.maps import check_maps, flattened
from zerothorder.interplay.page import table, write_page, write_values
from zerothorder.interplay.paths import Checkpoints
from zerothorder.report import write_report


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A policy that goes straight on and a reward model that turns at right angles, and a start for both."""
    generator = torch.Generator().manual_seed(0)
    line, turns = torch.randn(64, generator=generator), torch.randn(4, 64, generator=generator)
    for name, updates in (("policy", [line] * 4), ("reward", list(turns))):
        place = torch.zeros(64)
        for step, update in enumerate([torch.zeros(64), *updates]):
            place = place + update
            folder = tmp_path / name / f"checkpoint-{10 * step}"
            folder.mkdir(parents=True)
            save_file({"layer.a": place[:40].clone(), "layer.</b>": place[40:].clone()}, folder / "model.safetensors")
    return tmp_path / "policy", tmp_path / "reward"


def of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_what_was_computed_and_fetches_nothing(runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = look([Checkpoints.of(folder) for folder in runs])
    page = write_page(found, tmp_path / "page.html")
    data = of(page)
    assert data == json.loads(json.dumps(table(found)))
    assert [run["moments"] for run in data["runs"]] == [[0, 10, 20, 30, 40]] * 2
    whole = data["tensors"][0]
    assert whole["successive"]["policy"] == pytest.approx([1, 1, 1])
    assert np.abs(whole["successive"]["reward"]).max() < 6 * whole["chance"]
    assert whole["chance"] == pytest.approx(1 / 8)
    assert {tensor["name"] for tensor in data["tensors"]} == {"all tensors", "layer.a", "layer.</b>"}
    text = page.read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("</script>") == 2
    assert not list(tmp_path.glob("*.part"))


def test_the_page_prints_what_procrustes_and_the_distances_say_of_two_paths(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    """From the places in the files themselves; the sentence is the page's own script's, run in tests/browser."""
    spatial = pytest.importorskip("scipy.spatial")
    page = write_page(look([Checkpoints.of(folder) for folder in runs]), tmp_path / "page.html")
    for tensor in of(page)["tensors"]:
        names = ("layer.a", "layer.</b>") if tensor["name"] == "all tensors" else (tensor["name"],)
        places = []
        for folder in runs:
            files = [load_file(folder / f"checkpoint-{10 * step}" / "model.safetensors") for step in range(5)]
            places.append(np.stack([np.concatenate([file[name].double() for name in names]) for file in files]))
        (pair,) = tensor["pairs"]
        assert pair["disparity"] == pytest.approx(spatial.procrustes(*places)[2], rel=1e-4)
        assert 0.01 < pair["disparity"] < 0.99
        assert 0.01 < pair["distance_correlation"] < 1
    said = "Procrustes ${said(p.disparity)}, distance correlation ${said(p.distance_correlation)}."
    assert said in page.read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:using precomputed metric:UserWarning")
def test_umap_keeps_neighbours_together_in_two_dimensions_and_in_three(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("umap")
    check_maps(("umap",))
    draw = np.random.default_rng(0)
    middles = 50 * np.eye(3, 30)
    places = np.concatenate([middle + draw.standard_normal((12, 30)) for middle in middles])
    for count in (2, 3):
        points = flattened(places @ places.T, "umap", count)
        assert points.shape == (36, count)
        nearest = np.linalg.norm(points[:, None] - points[None], axis=2).argsort(1)[:, 1:6]
        assert (nearest // 12 == np.arange(36)[:, None] // 12).mean() > 0.9
    assert np.array_equal(points, flattened(places @ places.T, "umap", 3)), "the same in every run"
    page = tmp_path / "page.html"
    assert main(["interplay", *map(str, runs), "--maps", "pca", "umap", "-o", str(page), "--json"]) == 0
    capsys.readouterr()
    drawn = of(page)["maps"]
    assert list(drawn) == ["umap"]
    for count in (2, 3):
        own = drawn["umap"][str(count)]
        assert {run: np.array(at).shape for run, at in own.items()} == {"policy": (5, count), "reward": (5, count)}
        assert np.array([*own["policy"], *own["reward"]]).mean(0) == pytest.approx(np.zeros(count), abs=1e-3)


def test_what_is_not_a_number_is_left_out_of_the_json(tmp_path: Path) -> None:
    for step in (0, 1, 2):
        folder = tmp_path / "still" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    found = look([Checkpoints.of(tmp_path / "still")])
    assert math.isnan(found.paths["still"].successive(WHOLE)[0])
    assert table(found)["tensors"][0]["successive"]["still"] == [None]
    json.dumps(table(found), allow_nan=False)


def test_the_tensors_that_moved_least_are_left_out_and_counted(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerothorder.interplay.page.MOST", 1)
    found: Interplay = look([Checkpoints.of(runs[0])])
    moved = {name: found.paths["policy"].lengths(name).sum() for name in ("layer.a", "layer.</b>")}
    data = table(found)
    assert [tensor["name"] for tensor in data["tensors"]] == ["all tensors", max(moved, key=moved.__getitem__)]
    assert data["left_out"] == 1


def test_the_command_writes_the_page_and_says_the_means(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out.html"
    assert main(["interplay", *map(str, runs), "-o", str(page), "--json"]) == 0
    result = [json.loads(line) for line in capsys.readouterr().out.splitlines()][-1]
    assert result["page"] == str(page)
    assert result["all"]["pairs"][0]["first"] == "policy"
    assert main(["interplay", *map(str, runs), "-o", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "+1.000" in shown
    assert "policy and reward" in shown


def stage(folder: Path, place: torch.Tensor, start: torch.Tensor | None = None) -> None:
    for own, values in ((folder, place), (folder / "start", start)):
        if values is not None:
            own.mkdir(parents=True)
            save_file({"base_model.model.layer.a": values}, own / "adapter_model.safetensors")
    (folder / "stage.json").write_text("{}")


def test_rounds_are_drawn_as_policy_and_reward_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One place at the start and one a round that is done, by number and not by letter."""
    ways = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    for run in ("one", "two"):
        for name, way in zip(("policy", "reward"), ways, strict=True):
            for number in range(11):
                start = torch.zeros(64) if number == 0 else None
                stage(tmp_path / run / f"{name}-{number}", (number + 1) * way, start)
            stage(tmp_path / run / f"{name}-11", 99 * way)
            (tmp_path / run / f"{name}-11" / "stage.json").unlink()
        (tmp_path / run / "rounds.json").write_text("{}")
    assert main(["interplay", str(tmp_path / "one"), "-o", str(tmp_path / "page.html"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out.splitlines()[-1])["all"]
    assert whole["successive"] == {"policy": pytest.approx([1] * 10), "reward": pytest.approx([1] * 10)}
    assert whole["lengths"]["policy"] == pytest.approx([float(ways[0].norm())] * 11, rel=1e-4)
    cosine = float(ways[0] @ ways[1] / ways[0].norm() / ways[1].norm())
    assert whole["pairs"][0]["together"] == pytest.approx([cosine] * 11, abs=1e-4)
    both = [str(tmp_path / run) for run in ("one", "two")]
    assert main(["interplay", *both, "-o", str(tmp_path / "page.html"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out.splitlines()[-1])["all"]
    assert list(whole["successive"]) == ["one reward", "one policy", "two reward", "two policy"]
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "rounds.json").write_text("{}")
    assert main(["interplay", str(tmp_path / "three")]) == 2
    assert "holds no round that is done" in capsys.readouterr().err


def test_what_a_reward_model_learns_from_a_policy_is_seen_a_round_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """reward-i comes before policy-i and learns from policy-(i-1): here it moves as that did."""
    ways = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    for name, moves in (("policy", ways[1:]), ("reward", ways[:-1])):
        for number, at in enumerate(moves.cumsum(0)):
            stage(tmp_path / "run" / f"{name}-{number}", at, torch.zeros(64) if number == 0 else None)
    (tmp_path / "run" / "rounds.json").write_text("{}")
    assert main(["interplay", str(tmp_path / "run"), "-o", str(tmp_path / "page.html"), "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out.splitlines()[-1])["all"]["pairs"]
    # the reward model's next move is along what the policy did only where rounds are so paired
    assert pair["after"] == pytest.approx([1] * 3, abs=1e-4)
    assert max(map(abs, pair["together"])) < 0.5


def test_runs_are_told_apart_by_their_paths(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        shutil.copytree(runs[0], tmp_path / name / "run")
    words = ["interplay", str(tmp_path / "a/run"), str(tmp_path / "b/run"), "-o", str(tmp_path / "page.html")]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["all"]
    assert list(told["successive"]) == ["a/run", "b/run"]
    assert main(["interplay", str(runs[0]), str(runs[0])]) == 2
    assert "named twice" in capsys.readouterr().err


def test_the_chance_of_a_mean_is_that_of_all_its_cosines(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interplay", str(runs[1]), "-o", str(tmp_path / "page.html")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["reward"])
    assert float(row.split()[-1]) == pytest.approx(2 / (3 * 64) ** 0.5, rel=0.05), "three cosines in 64 dimensions"


def test_the_config_of_a_model_that_a_trainer_saved_is_not_the_run_s(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[0]
    (run / "config.json").write_text('{"model_type": "llama"}')
    (run / "ledger.zo").write_bytes(b"")
    assert main(["interplay", str(run), "-o", str(tmp_path / "out.html")]) == 0
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert main(["interplay", str(run), "-o", str(tmp_path / "out.html")]) == 2
    assert "give it with --base" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs RUNS"),
        (["nowhere"], "is not a folder"),
        (["."], "holds neither ledger.zo nor checkpoint-N"),
        ([".", "--pieces", "0"], "--pieces is 0"),
    ],
)
def test_what_is_no_run_is_said_in_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["interplay", *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_run_s_report_gets_the_pictures(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["interplay", *map(str, runs), "-o", str(page), "--report", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["reports"] == [str(run / "report.html") for run in runs]
    kept = json.loads((runs[0] / "interplay.json").read_text())
    assert kept["tensors"] == of(page)["tensors"][:1]
    text = (runs[0] / "report.html").read_text()
    for title in ("Each update and the one before it", "Updates of two runs", "Paths through the weights"):
        assert f"<h3>{title}</h3>" in text
    assert "policy and reward" in text
    write_report(runs[0])  # a report written again has them still
    assert (runs[0] / "report.html").read_text() == text
    (runs[0] / "interplay.json").write_text("[]")
    assert "interplay.json cannot be read as JSON" in write_report(runs[0]).read_text()


def test_one_run_of_one_update_has_a_picture(runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = look([Checkpoints.of(runs[0])])
    assert write_values(found, tmp_path).name == "interplay.json"
    assert "<h3>Updates of two runs</h3>" not in write_report(tmp_path).read_text()
    for step in (20, 30, 40):
        shutil.rmtree(runs[0] / f"checkpoint-{step}")
    write_values(look([Checkpoints.of(runs[0])]), tmp_path)
    assert "<h3>Paths through the weights</h3>" in write_report(tmp_path).read_text()
