"""Calling a language model on token rows: padding, the arguments it takes, log-probabilities in float32."""

import functools
import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.objectives.head import packed_head_input
from zerothorder.profile import timed

Tokens = Sequence[int]


@timed("data")
def pad(rows: Sequence[Tokens], pad_id: int, device: torch.device, left: bool) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (rows, longest), int64; padded on the left also `position_ids` from 0."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for row, tokens in enumerate(rows):
        place = slice(longest - len(tokens), longest) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(tokens, dtype=torch.int64)
        mask[row, place] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if left:
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def base_model(model: nn.Module) -> nn.Module:
    """The model inside a PEFT wrapper, the model itself otherwise."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model  # type: ignore[return-value]


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether prompts go to an encoder and answers to a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


@functools.cache
def _accepted(kind: type) -> frozenset[str]:
    forward: Any = getattr(kind, "forward")  # noqa: B009 - untyped in torch
    return frozenset(inspect.signature(forward).parameters)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives."""
    return next(model.parameters()).device


def answer_logits(model: nn.Module, prompts: Sequence[Tokens], answers: Sequence[Tokens], pad_id: int) -> Tensor:
    """Logits that predict each row's answer, right-aligned: (rows, longest answer, vocabulary), model dtype.

    Row i's answer tokens are predicted by its last len(answer) positions. Causal models read prompt + answer[:-1]
    padded on the left; encoder-decoders read the prompt and a right-aligned view of the decoded answer.
    """
    keep = max(map(len, answers))
    device = device_of(model)
    if is_encoder_decoder(model):
        config: Any = model.config
        start = int(pad_id if config.decoder_start_token_id is None else config.decoder_start_token_id)
        fed = pad([(start, *a[:-1]) for a in answers], pad_id, device, left=False)
        encoder = pad(prompts, pad_id, device, left=False)
        logits = model(**encoder, decoder_input_ids=fed["input_ids"], use_cache=False).logits
        shift = torch.tensor([len(a) - keep for a in answers], device=device)
        places = (torch.arange(keep, device=device) + shift[:, None]).clamp(min=0)  # (rows, keep)
        return logits.gather(1, places[:, :, None].expand(-1, -1, logits.shape[-1]))
    with packed_head_input(model):
        return _causal_logits(model, prompts, answers, pad_id, keep)


def _causal_logits(
    model: nn.Module, prompts: Sequence[Tokens], answers: Sequence[Tokens], pad_id: int, keep: int
) -> Tensor:
    accepted = _accepted(type(base_model(model)))
    batch = pad([(*p, *a[:-1]) for p, a in zip(prompts, answers, strict=True)], pad_id, device_of(model), left=True)
    if "position_ids" not in accepted:
        del batch["position_ids"]
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = keep
    return model(**batch, **options).logits[:, -keep:]


def answer_nll(model: nn.Module, prompts: Sequence[Tokens], answers: Sequence[Tokens], pad_id: int) -> Tensor:
    """-Σ log p(answer | prompt) of each row, float32 (rows,)."""
    logits = answer_logits(model, prompts, answers, pad_id)
    total: list[Tensor] = []
    for row, answer in enumerate(answers):
        # one row at a time: a float32 copy of all logits would be the largest tensor of the step
        scores = logits[row, -len(answer) :].float().log_softmax(-1)
        target = torch.tensor(list(answer), device=scores.device)
        total.append(-scores.gather(1, target[:, None]).sum())
    return torch.stack(total)


def choice_logits(model: nn.Module, prompts: Sequence[Tokens], words: Sequence[int], pad_id: int) -> Tensor:
    """Next-token logits of the given words after each prompt, float32 (rows, words)."""
    rows = torch.tensor(list(words), device=device_of(model))
    head = _linear_head(model)
    with _in_float32([] if head is None else [head], rows):
        logits = answer_logits(model, prompts, [(0,)] * len(prompts), pad_id)[:, -1]
    return (logits if head is not None else logits[:, rows]).float()


def class_logits(model: nn.Module, texts: Sequence[Tokens], pad_id: int) -> Tensor:
    """Logits of a classifier's classes for each text, float32 (rows, classes).

    Padded on the right: an encoder reads its first position, a decoder the last one that is no padding.
    """
    inner: Any = base_model(model)
    batch = pad(texts, pad_id, device_of(model), left=False)
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in _accepted(type(base_model(model))) else {}
    classes = torch.arange(inner.config.num_labels, device=device_of(model))
    with _in_float32(_class_layers(inner), classes):
        return model(**batch, **options).logits.float()


def _class_layers(model: Any) -> list[nn.Linear]:
    """The layers outside a classifier's body that give a number a class; those in a wrapper that are not used too."""
    body = f"{model.base_model_prefix}."
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(body)
        and module.out_features == model.config.num_labels
    ]


@contextmanager
def _in_float32(heads: Sequence[nn.Linear], rows: Tensor) -> Generator[None]:
    """Output layers give only these rows of their logits, computed in float32.

    A bf16 logit of 16 is a multiple of 1/8: differences of losses at θ ± εz would be mostly rounding.
    """

    def narrow(module: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        held: Any = module.bias
        bias = None if held is None else held[rows].float()
        return nn.functional.linear(args[0].float(), module.weight[rows].float(), bias)

    setattr(narrow, "rows", rows)  # noqa: B010 - for an executor that computes these outputs itself
    # prepended: it must see the weights while an executor still has the perturbed ones in place
    handles = [head.register_forward_hook(narrow, prepend=True) for head in heads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear_head(model: nn.Module) -> nn.Linear | None:
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, nn.Linear) else None
