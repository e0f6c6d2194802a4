"""How much of a difference of two losses is rounding: `python benchmarks/rounding.py`.

LoRA (rank 16, all linear layers, float32) over SmolLM2 in bfloat16 and in float32, moved by ±d along random directions
of length d: the difference of whole texts' log-probabilities, Σ_t log p(y_t), at both points. In float32 it is the
slope times 2d; in bfloat16 what rounding adds stays as large when d shrinks. d of a two-point step is ε·‖z‖: ε·√n for
Gaussian z, ε·‖mu‖ for ZOPrO.
"""

import argparse

import torch
from peft import LoraConfig, get_peft_model

from zerothorder.data import load_model, read_rows
from zerothorder.objectives.sequences import answer_nll

TEXTS = 16


def differences(dtype: str, lengths: list[float], draws: int) -> torch.Tensor:
    """(length, draw, text): Σ_t log p at +d less that at -d."""
    loaded = load_model("smollm2-135m", dtype)
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, config).eval()
    weights = [p for name, p in model.named_parameters() if "lora_" in name]
    with torch.no_grad():  # an adapter that was trained a little: both halves have a slope
        for own in weights:
            if not own.any():
                own.normal_(std=1e-3)
    rows = list(read_rows("summaries", "dev"))[:TEXTS]
    prompts = [tuple(loaded.tokenizer(row["text"])["input_ids"][:32]) for row in rows]
    answers = [tuple(loaded.tokenizer(" " + row["summary"])["input_ids"][:16]) for row in rows]

    def log_probabilities() -> torch.Tensor:
        return -answer_nll(model, prompts, answers, loaded.tokenizer.pad_token_id)

    def move(way: list[torch.Tensor], by: float) -> None:
        for own, start, z in zip(weights, starts, way, strict=True):
            own.copy_(start + by * z)

    starts = [own.detach().clone() for own in weights]
    found = torch.empty(len(lengths), draws, TEXTS)
    with torch.inference_mode():
        for draw in range(draws):
            generator = torch.Generator().manual_seed(draw)
            way = [torch.randn(own.shape, generator=generator) for own in weights]
            whole = torch.cat([z.reshape(-1) for z in way]).norm()
            way = [z / whole for z in way]
            for at, length in enumerate(lengths):
                move(way, length)
                plus = log_probabilities()
                move(way, -length)
                found[at, draw] = plus - log_probabilities()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.14, 0.45, 1.4, 4.5])
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    exact, rounded = (differences(dtype, asked.lengths, asked.draws) for dtype in ("float32", "bfloat16"))
    print(
        f"{'d':>6} {'float32':>9} {'bfloat16':>9} {'rounding':>9}   root mean square over {TEXTS} texts and draws, nats"
    )
    for length, one, other in zip(asked.lengths, exact, rounded, strict=True):
        figures = (float(values.square().mean().sqrt()) for values in (one, other, other - one))
        print(f"{length:6.2f} " + " ".join(f"{figure:9.4f}" for figure in figures))


if __name__ == "__main__":
    main()
