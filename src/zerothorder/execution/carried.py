"""Layers that run all points in one call, weights read only: what each perturbation adds is carried by activations.

Every function takes the layer, its input for the rows of all points side by side, and its searched sites by the name
of the parameter; it returns the output, or None where it does not know how.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from zerothorder.execution.copies import Copies
from zerothorder.space import Site

BLOCK = 1 << 20
"""Perturbed weights of a dense law that are made at a time: small enough to stay in cache until they are used."""

LEAST = 16
"""Rows of a weight below which a product is not worth its call."""

_NORMS = ("RMSNorm", "T5LayerNorm")

Sites = Mapping[str, Site]
Carry = Callable[[Any, Tensor, Sites, Copies], Tensor | None]


def carrier(kind: type) -> Carry | None:
    """The function for a kind of layer; None for an unknown one. Subclasses may compute anything: they are unknown."""
    known = _KNOWN.get(kind)
    if known is None and kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils":
        return transposed_linear
    if known is None and kind.__module__.startswith("transformers.models.") and kind.__name__.endswith(_NORMS):
        return norm
    return known


def linear(module: Any, x: Tensor, sites: Sites, copies: Copies, rows: Tensor | None = None) -> Tensor | None:
    """x (W + δ_p)ᵀ + b_p. With factors δ_p = A C_p B: x Wᵀ + ((x Bᵀ) C_p) Aᵀ. Else W + δ_p block by block.

    `rows`: these outputs only, computed in float32 (or float64).
    """
    weight = sites.get("weight")
    flat, own = x.reshape(-1, x.shape[-1]), module.weight
    if rows is not None:
        own, flat = own[rows], flat if x.dtype == torch.float64 else flat.float()
        own = own.to(flat.dtype)
    if weight is None:
        y = flat @ own.T
    elif (found := copies.factors(weight, flat.dtype)) is not None:
        a, b, c = found
        thin = copies.scaled(flat @ b.T, c) @ (a if rows is None else a[rows]).T
        # the thin product first: the wide one then adds to it in its own accumulator, and is rounded once
        y = thin.addmm_(flat, own.T)
    else:
        y = _dense_linear(flat, weight, copies, rows=rows)
    y = y.view(*x.shape[:-1], -1)
    return _add_bias(y, module, sites, copies, rows)


def transposed_linear(module: Any, x: Tensor, sites: Sites, copies: Copies) -> Tensor | None:
    """x (W + δ_p) + b_p: the layer that GPT-2 calls Conv1D, its weight (in, out)."""
    weight, flat = sites.get("weight"), x.reshape(-1, x.shape[-1])
    if weight is None:
        y = flat @ module.weight
    elif (found := copies.factors(weight, x.dtype)) is not None:
        a, b, c = found
        y = (copies.scaled(flat @ a, c) @ b).addmm_(flat, module.weight)
    else:
        y = _dense_linear(flat, weight, copies, across=True)
    return _add_bias(y.view(*x.shape[:-1], -1), module, sites, copies)


def embedding(module: Any, x: Tensor, sites: Sites, copies: Copies) -> Tensor | None:
    """W[i] + δ_p[i], of the rows that occur: with factors W[i] + (A[i] C_p) B. The table is never copied."""
    if module.max_norm is not None:
        return None
    site = sites["weight"]
    out = nn.functional.embedding(x, module.weight)
    if (found := copies.factors(site, out.dtype)) is not None:
        a, b, c = found
        out.view(-1, out.shape[-1]).addmm_(copies.scaled(a[x.reshape(-1)], c), b)
        return out
    unique: Any = torch.unique(x, return_inverse=True)  # type: ignore[reportUnknownMemberType]
    occurring, place = cast(tuple[Tensor, Tensor], unique)
    table = copies.room(site, len(copies), len(occurring), out.shape[-1])
    for group in copies.groups:
        copies.weights(site, table[group], group, occurring)
    point = torch.arange(len(copies), device=x.device).repeat_interleave(x.numel() // len(copies)).view(x.shape)
    return table[point, place]


def norm(module: Any, x: Tensor, sites: Sites, copies: Copies) -> Tensor | None:
    """A layer that ends in a product with a vector of the last dimension: it meets every point's own vector."""
    (site,) = sites.values() if len(sites) == 1 else (None,)
    if site is None or site.shape != (x.shape[-1],):
        return None
    with copies.showing(site.parameter, copies.vectors(site)[:, None]):
        # not the call: its hooks have run
        return module.forward(x.reshape(len(copies), -1, x.shape[-1])).view(x.shape)


def rms_norm(module: Any, x: Tensor, sites: Sites, copies: Copies) -> Tensor | None:
    """x / rms(x)·g_p."""
    shape, count = module.normalized_shape, torch.Size(module.normalized_shape).numel()
    y = nn.functional.rms_norm(x, shape, None, module.eps).view(len(copies), -1, count)
    return (y * copies.vectors(sites["weight"]).view(len(copies), 1, count)).view(x.shape)


def layer_norm(module: Any, x: Tensor, sites: Sites, copies: Copies) -> Tensor | None:
    """normalised(x)·g_p + b_p."""
    count = torch.Size(module.normalized_shape).numel()
    y = nn.functional.layer_norm(x, module.normalized_shape, None, None, module.eps).view(len(copies), -1, count)
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        own = getattr(module, name)
        if own is not None:
            vector = copies.vectors(sites[name]).view(len(copies), 1, count) if name in sites else own.view(-1)
            y = combine(y, vector, out=y)
    return y.view(x.shape)


def convolution(module: Any, x: Tensor, sites: Sites, copies: Copies) -> Tensor | None:
    """conv(x, W) + conv1×1(conv(x, B) C_p, A) + b_p, of one group."""
    weight, plain = sites.get("weight"), module.groups == 1 and module.padding_mode == "zeros"
    found = copies.factors(weight, x.dtype) if weight is not None and plain else None
    if found is None:
        return None
    a, b, c = found
    convolve = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[x.ndim - 2]
    how = (module.stride, module.padding, module.dilation)
    thin = convolve(x, b.view(-1, *module.weight.shape[1:]), None, *how)
    places = (1,) * (x.ndim - 2)
    thin.view(len(copies), -1, *thin.shape[1:]).mul_(c.view(len(copies), 1, -1, *places))
    y = convolve(x, module.weight, None, *how) + convolve(thin, a.view(*a.shape, *places))
    if module.bias is None:
        return y
    bias = copies.vectors(sites["bias"]) if "bias" in sites else module.bias.expand(len(copies), -1)
    y.view(len(copies), -1, *y.shape[1:]).add_(bias.view(len(copies), 1, -1, *places))
    return y


def _add_bias(y: Tensor, module: Any, sites: Sites, copies: Copies, rows: Tensor | None = None) -> Tensor:
    if module.bias is None:
        return y
    if "bias" not in sites:
        return y.add_(module.bias if rows is None else module.bias[rows])
    bias = copies.vectors(sites["bias"])
    y.view(len(copies), -1, y.shape[-1]).add_((bias if rows is None else bias[:, rows])[:, None])
    return y


def _dense_linear(
    flat: Tensor, weight: Site, copies: Copies, across: bool = False, rows: Tensor | None = None
) -> Tensor:
    """flat (W + δ_p)ᵀ, or flat (W + δ_p) if `across`: the weights of a few rows are made, used, and forgotten."""
    first, last = weight.parameter.shape if rows is None else (len(rows), weight.parameter.shape[1])
    y = flat.new_zeros(flat.shape[0], last) if across else flat.new_empty(flat.shape[0], first)
    parts = list(zip(flat.chunk(len(copies)), y.chunk(len(copies)), strict=True))
    for group in copies.groups:
        count = group.stop - group.start
        step = min(first, max(LEAST, BLOCK // (last * count)))
        scratch = copies.room(weight, count, step, last)
        for at in range(0, first, step):
            block = slice(at, min(first, at + step))
            made = scratch[:, : block.stop - at]
            copies.weights(weight, made, group, block if rows is None else rows[block])
            for (x, out), w in zip(parts[group], made, strict=True):
                if across:
                    out.addmm_(x[:, block], w)
                else:
                    torch.mm(x, w.T.to(x.dtype), out=out[:, block])
    return y


_KNOWN: dict[type, Carry] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
}
