"""Schemes: which weights are searched. All, the head, LoRA factors, a prefix of keys and values, or virtual tokens.

Source: MeZO (arXiv 2305.17333): LoRA with r = 8 and α = 16 on queries and values; 5 prefix vectors a layer that start
from the keys and values of real tokens, which the paper calls crucial. ZO-Bench (arXiv 2402.11592): the head alone, and
10 virtual tokens that start as real ones.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.data.classes import is_classifier
from zerothorder.data.prefix_cache import by_either_name, cache_of
from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.data.soft_prompt import virtual_tokens, with_prompt
from zerothorder.errors import UsageError, nearest
from zerothorder.key import Key
from zerothorder.random.philox import lanes
from zerothorder.space import ParameterSpace

SCHEMES = ("full", "lora", "prefix", "prompt", "head")
RANK, ALPHA = 8, 16
PREFIX_TOKENS, PROMPT_TOKENS = 5, 10

# Names of query and value projections, the usual ones first; a fused projection is taken whole.
_TARGETS = (
    ("q_proj", "v_proj"),
    ("q", "v"),
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
)
_FACTORS = Key("lora_A", 0)
_TOKENS, _VIRTUAL = Key("prefix", 0), Key("prompt", 0)
_ENCODER = "prompt_encoder."  # where peft keeps a prefix


def apply_scheme(model: Any, scheme: str, run_key: bytes) -> Any:
    """The model as the scheme searches it: requires_grad on its weights alone. "full" changes nothing.

    Of a classifier an adapter includes the head, which may be new.
    Adapter weights are float32 whatever the model's dtype: they are few, and small steps survive in them.
    "lora": A is a pure function of run key and site, B is zero, so base and ledger alone rebuild the start.
    "prefix": the keys and values of PREFIX_TOKENS tokens that the run key draws; they come out of a forward,
    which another machine may round differently, so `start_of` gives them for the ledger to keep.
    "prompt": embeddings of PROMPT_TOKENS tokens that the run key draws, exact copies: replay makes them again.
    "head": what the model has beside its body, an output layer or a classifier (with the pooler before it).
    UsageError where the architecture has no place for the scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"unknown scheme {scheme!r}{nearest(scheme, SCHEMES)}")
    if virtual_tokens(model):
        raise UsageError("a model with a prompt can be measured, but not trained further; train its base")
    if scheme == "full":
        return model
    if scheme in ("head", "prompt"):
        return (_head if scheme == "head" else _prompt)(model, run_key)
    peft = need("peft", f"the scheme {scheme!r}")
    # peft draws initial weights of its own from the global generator; all of them are replaced
    with torch.random.fork_rng(devices=[]), hushed():
        adapted = _lora(peft, model, run_key) if scheme == "lora" else _prefix(peft, model, run_key)
    return adapted.train(model.training)


def start_of(scheme: str, space: ParameterSpace) -> dict[str, Tensor]:
    """What replay cannot recompute bit for bit of the searched tensors as they are now, by site name."""
    if scheme != "prefix":
        return {}
    return {site.name: site.parameter.detach().clone() for site in space if site.name.startswith(_ENCODER)}


def room_taken(scheme: str) -> int:
    """Positions of the model's context that the scheme takes."""
    return {"prefix": PREFIX_TOKENS, "prompt": PROMPT_TOKENS}.get(scheme, 0)


def _head(model: Any, run_key: bytes) -> Any:
    own = _beside_the_body(model)
    if not own:
        raise UsageError(
            f"{_kind(model)} has no head of its own to search (an output layer that is tied to the embedding is part "
            "of the body); use the scheme full, or freeze what shall stay"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is one for one in own.values()))
    return model


def _prompt(model: Any, run_key: bytes) -> Any:
    if is_classifier(model):
        raise UsageError(
            "a prompt stands where a classifier may read, and does not train it; use the scheme lora, head or full"
        )
    table = model.get_input_embeddings()
    drawn = lanes(_VIRTUAL.seed(run_key, 0), 32, 0, PROMPT_TOKENS) % table.num_embeddings
    with torch.no_grad():
        rows = table(drawn.to(table.weight.device))  # through it: some scale what they look up
    model.requires_grad_(False)
    return with_prompt(model, rows)


def _beside_the_body(model: Any) -> dict[str, nn.Parameter]:
    body = f"{model.base_model_prefix}."
    if not any(name.startswith(body) for name, _ in model.named_parameters()):
        raise UsageError(
            f"what of {_kind(model)} is its head cannot be told from names; use the scheme full with --freeze"
        )
    return {n: p for n, p in model.named_parameters() if not n.startswith(body) or ".pooler." in n}


def _kept_whole(model: Any) -> dict[str, Any]:
    """What an adapter's configuration says of a classifier: the modules of its head are searched and saved with it."""
    if not is_classifier(model):
        return {}
    names = ("pooler" if ".pooler." in name else name.partition(".")[0] for name in _beside_the_body(model))
    return {"modules_to_save": sorted(set(names))}


def _lora(peft: Any, model: nn.Module, run_key: bytes) -> Any:
    targets = lora_targets(model)
    config = peft.LoraConfig(
        task_type=_task(model),
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(targets),
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in _leaves(model, targets)),
        **_kept_whole(model),
    )
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for site in ParameterSpace.of(adapted):
            if ".lora_A." in site.name:
                seed = _FACTORS.seed(run_key, site.id)
                site.parameter.copy_(kaiming_uniform(seed, site.shape))
            elif ".lora_B." in site.name:
                site.parameter.zero_()
    return adapted


def lora_targets(model: nn.Module) -> tuple[str, ...]:
    """The names of the model's query and value projections. UsageError where none are known."""
    for names in _TARGETS:
        if {name.rpartition(".")[2] for name, _ in _projections(model)} >= set(names):
            return names
    raise UsageError(
        f"LoRA sits on query and value projections, of which {_kind(model)} has none that are known; "
        "use the scheme full"
    )


def _projections(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]


def _leaves(model: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [module for name, module in _projections(model) if name.rpartition(".")[2] in names]


def kaiming_uniform(seed: int, shape: tuple[int, ...]) -> Tensor:
    """U(-b, b) with b = 1/√fan_in (Kaiming with a = √5, as nn.Linear and LoRA have it), float32.

    An odd integer of 24 bits times a constant: one rounding, so the bits are the same everywhere.
    """
    count = math.prod(shape)
    odd = 2 * (lanes(seed, 32, 0, count) >> 8) + 1 - (1 << 24)
    scale = torch.tensor(2.0**-24 / math.sqrt(shape[1]), dtype=torch.float32)
    return (odd.float() * scale).view(shape)


def _prefix(peft: Any, model: Any, run_key: bytes) -> Any:
    rows = _keys_and_values(model, run_key)  # (layers, 2, heads, tokens, head size)
    layers, _, heads, tokens, size = rows.shape
    config = peft.PrefixTuningConfig(
        task_type=_task(model),
        num_virtual_tokens=tokens,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * size,
        **_kept_whole(model),
    )
    adapted = by_either_name(peft.get_peft_model(model, config))
    weight = adapted.prompt_encoder["default"].embedding.weight
    weight.data = weight.data.to(rows.device)
    with torch.no_grad():
        # peft's layout of a token's row: layer by layer, key then value, head by head
        weight.copy_(rows.permute(3, 0, 1, 2, 4).reshape(tokens, -1))
    return adapted


def _keys_and_values(model: Any, run_key: bytes) -> Tensor:
    """Keys and values of PREFIX_TOKENS random vocabulary tokens, read as one text by the (decoder) layers."""
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    embeddings = model.get_input_embeddings()
    drawn = lanes(_TOKENS.seed(run_key, 0), 32, 0, PREFIX_TOKENS) % embeddings.num_embeddings
    tokens = drawn[None].to(embeddings.weight.device)
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if encoder_decoder else {})
    unfit = f"a prefix needs a cache of keys and values, alike in all layers, which {_kind(model)} does not have"
    if encoder_decoder and is_classifier(model):
        raise UsageError(f"{unfit} as a classifier; use the scheme lora, head or full")
    try:
        with torch.no_grad():
            cache: Any = cache_of(model(**inputs, use_cache=True))
        layers: Any = getattr(cache, "self_attention_cache", cache).layers
        pairs = torch.stack([torch.stack((layer.keys[0], layer.values[0])) for layer in layers])
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise UsageError(f"{unfit} ({one_sentence(error)}); use the scheme lora or full") from error
    if pairs.shape[-2] != PREFIX_TOKENS:
        raise UsageError(f"{unfit}; use the scheme lora or full")
    return pairs


def _task(model: Any) -> str | None:
    if is_classifier(model):
        return "SEQ_CLS"
    if bool(getattr(model.config, "is_encoder_decoder", False)):
        return "SEQ_2_SEQ_LM"
    can_generate = getattr(model, "can_generate", None)
    return "CAUSAL_LM" if callable(can_generate) and can_generate() else None


def _kind(model: Any) -> str:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return f"the architecture {kind!r}" if kind else f"a {type(model).__name__}"
