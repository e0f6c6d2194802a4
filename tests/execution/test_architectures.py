"""Swap, with what the check found, is Copy bit by bit on every family of models."""

from typing import Any

import pytest
import torch
from torch import nn

from small_families import MODELS, Generated, Mean, around, build
from zerothorder.execution import Surroundings
from zerothorder.execution.check import check_sites
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.point import Point, Values

KEY = Key("prepare", 3)
POINTS = [
    Point(((Key("z", 3), 0.05),)),
    Point(((Key("z", 3), -0.05),)),
    Point(),
    Point(((Key("z", 3), 0.05), (Key("z", 3, 1), -0.025)), rows=(2, 0)),
]

MOVED = {
    # read by functions of the mixer; the modules that hold them are never called
    "mamba": {
        f"backbone.layers.{layer}.mixer.{module}.{kind}": f"backbone.layers.{layer}.mixer"
        for layer in (0, 1)
        for module in ("conv1d", "dt_proj")
        for kind in ("weight", "bias")
    },
    # attention hands its output projection's weights to one fused function
    "fused": {
        f"encoder.layers.{layer}.self_attn.out_proj.{kind}": f"encoder.layers.{layer}.self_attn"
        for layer in (0, 1)
        for kind in ("weight", "bias")
    },
}
# sites without an effect: a softmax does not see what is added to all of its inputs, and the last state of the reverse
# direction is its first step
DEAD = {
    "vit": {f"vit.layers.{layer}.attention.k_proj.bias" for layer in (0, 1)},
    "lstm": {"lstm.weight_hh_l1_reverse"},
}
DORMANT = {"lora": {f"model.layers.{n}.self_attn.{p}_proj.lora_A.default.weight" for n in (0, 1) for p in "qv"}}


def look(executor: Any, bound: Surroundings, objective: Any, batch: Any, points: Any = POINTS) -> list[Values]:
    return executor.evaluate(points, objective, {"main": batch}, KEY, bound)


def same(a: list[Values], b: list[Values]) -> bool:
    return all(torch.equal(x.value, y.value) and torch.equal(x.weight, y.weight) for x, y in zip(a, b, strict=True))


def bits(model: nn.Module) -> list[tuple[int, int, torch.Tensor]]:
    return [(p.data_ptr(), p._version, p.detach().clone()) for p in model.parameters()]


def unchanged(model: nn.Module, before: list[tuple[int, int, torch.Tensor]]) -> bool:
    return all(
        (p.data_ptr(), p._version) == (at, version) and torch.equal(p, own)
        for p, (at, version, own) in zip(model.parameters(), before, strict=True)
    )


@pytest.mark.parametrize("name", sorted(MODELS))
def test_check_then_swap_is_copy(name: str) -> None:
    model, batch = build(name)
    bound, before = around(model), bits(model)
    report = check_sites(bound, Mean(), batch, rows=2)
    assert unchanged(model, before)
    assert report.owners == MOVED.get(name, {})
    rounding = {site.name for site in bound.space if site.name.endswith("k_proj.bias") or ".key.bias" in site.name}
    assert set(report.dead) - rounding == DEAD.get(name, set()) - rounding
    assert set(report.dormant) - rounding == DORMANT.get(name, set())
    assert bound.meter.calls == report.evaluations
    swap = Swap(report.owners)
    found = look(swap, bound, Mean(), batch)
    assert same(found, look(Copy(), bound, Mean(), batch))
    assert len({tuple(v.value.tolist()) for v in found}) == 4
    assert unchanged(model, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "mamba", "vit"])
def test_joint_check_in_low_precision(name: str, dtype: torch.dtype) -> None:
    model, batch = build(name, dtype)
    bound, before = around(model), bits(model)
    report = check_sites(bound, Mean(), batch, mode="joint")
    assert report.owners == MOVED.get(name, {})
    assert same(look(Swap(report.owners), bound, Mean(), batch), look(Copy(), bound, Mean(), batch))
    assert unchanged(model, before)


def test_without_the_check_mamba_trains_on_what_never_reached_the_loss() -> None:
    model, batch = build("mamba")
    bound = around(model, where=lambda name: "conv1d" in name)
    missed, truth = look(Swap(), bound, Mean(), batch), look(Copy(), bound, Mean(), batch)
    assert torch.equal(missed[0].value, missed[2].value)
    assert not torch.equal(truth[0].value, truth[2].value)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral", "mamba", "t5", "lora"])
def test_generate_inside_an_objective(name: str) -> None:
    model, batch = build(name)
    batch.pop("decoder_input_ids", None)
    bound, before = around(model), bits(model)
    report = check_sites(bound, Generated(), batch, mode="joint")
    assert report.owners == MOVED.get(name, {})
    points = [Point(((Key("z", 3), c),)) for c in (0.5, -0.5)] + [Point()]
    texts: list[list[torch.Tensor]] = []
    found: list[list[Values]] = []
    for executor in (Swap(report.owners), Copy()):
        objective = Generated()
        tokens: list[torch.Tensor] = []
        for point in points:
            found.append(look(executor, bound, objective, batch, [point]))
            tokens.append(objective.tokens)
        texts.append(tokens)
    assert all(same(a, b) for a, b in zip(found[:3], found[3:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*texts, strict=True))
    assert not torch.equal(texts[0][0], texts[0][1])
    assert unchanged(model, before)


def test_prefix_under_generate_is_exchanged_for_the_whole_evaluation() -> None:
    """PEFT reads the prompt in generate() before the wrapper's forward runs."""
    model, batch = build("prefix")
    bound = around(model)
    report = check_sites(bound, Generated(), batch)
    swap, copy = look(Swap(report.owners), bound, Generated(), batch), look(Copy(), bound, Generated(), batch)
    assert same(swap, copy)
    assert not torch.equal(swap[0].value, swap[2].value)


def test_prefix_in_inference_mode_reads_the_embedding_directly() -> None:
    model, batch = build("prefix")
    call: Any = model
    call.peft_config["default"].inference_mode = True
    bound = around(model)
    report = check_sites(bound, Mean(), batch)
    assert set(report.owners) == {site.name for site in bound.space}
    assert same(look(Swap(report.owners), bound, Mean(), batch), look(Copy(), bound, Mean(), batch))


def test_tied_embeddings_are_one_site_perturbed_once() -> None:
    """In float64, the value is the one of a model whose one shared tensor was moved by hand."""
    model, batch = build("llama", torch.float64)
    call: Any = model
    bound = around(model, where=lambda name: "embed" in name or "lm_head" in name)
    (site,) = bound.space
    assert {site.name, *site.aliases} == {"model.embed_tokens.weight", "lm_head.weight"}
    z = torch.zeros(site.numel, dtype=torch.float64)
    bound.direction.shift(z, z, site, Key("z", 3), 0.05, 0, bound.state)
    found = look(Swap(), bound, Mean(), batch, POINTS[:1])[0].value
    with torch.inference_mode():
        own = call.lm_head.weight.detach().clone()
        moved = own + z.view_as(own)
    call.lm_head.weight.data = moved.clone()
    with torch.inference_mode():
        expected = Mean().evaluate(model, batch).value
    assert torch.equal(found, expected)


def test_a_container_with_raw_parameters_around_modules() -> None:
    """ViT's class token and position table belong to the module that also runs the patch convolution."""
    model, batch = build("vit")
    bound = around(model, where=lambda name: "embeddings" in name)
    assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"} < {site.name for site in bound.space}
    swap = Swap()
    assert same(look(swap, bound, Mean(), batch), look(Copy(), bound, Mean(), batch))
    for site in bound.space:
        single = around(model, where=lambda name, only=site.name: name == only)
        assert same(look(swap, single, Mean(), batch), look(Copy(), single, Mean(), batch))


@pytest.mark.parametrize("name", ["llama", "vit", "mixtral", "lstm"])
def test_scratch_is_the_largest_module(name: str) -> None:
    """Not the model: one module's sites, and once more at each depth of modules that own some inside such modules."""
    model, batch = build(name)
    bound, swap = around(model), Swap()
    look(swap, bound, Mean(), batch)
    levels: dict[int, int] = {}

    def walk(module: nn.Module, depth: int) -> None:
        own = sum(-(-p.numel() // 64) * 64 * 4 for p in module.parameters(recurse=False))
        depth += own > 0
        levels[depth] = max(levels.get(depth, 0), own)
        for child in module.children():
            walk(child, depth)

    walk(model, 0)
    assert swap.nbytes == sum(levels.values())
    assert len(levels) - 1 == (2 if name == "vit" else 1)
    held = swap.nbytes
    look(swap, bound, Mean(), batch)
    assert swap.nbytes == held
    assert held < sum(p.numel() * 4 for p in model.parameters())
