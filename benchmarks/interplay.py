"""Time and peak memory of `zo interplay` on two runs of checkpoints: `python benchmarks/interplay.py 16 21`.

The words are the rank of the adapters and the places of each run. Adapters of SmolLM2-135M's shapes (all linear layers,
float32), whose places are a random walk, are written to a temporary folder and looked at in a fresh process. Prints one
JSON object: weights, bytes of the checkpoints, seconds, largest resident memory in bytes.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, KEYS, INNER = 30, 576, 192, 1536
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip
"""(out, in) of a layer's matrices."""


def walk(folder: Path, rank: int, places: int, seed: int) -> int:
    """Write a run of checkpoints; the number of weights."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for name, (out, inner) in SHAPES.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(rank, inner, generator=generator)
            weights[f"{place}.lora_B.weight"] = torch.zeros(out, rank)
    for step in range(places):
        for tensor in weights.values():
            tensor += 0.01 * torch.randn(tensor.shape, generator=generator)
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_file(weights, checkpoint / "adapter_model.safetensors")
    return sum(tensor.numel() for tensor in weights.values())


def measured(*words: str) -> tuple[float, int]:
    """(seconds, largest resident bytes) of a command."""
    code = (
        "import sys\n"
        "from zerothorder.cli.main import main\n"
        "try: code = main(sys.argv[2:])\n"
        "except SystemExit as end: code = end.code\n"
        # of this program alone: getrusage counts what the parent was before it became this
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(peak.split()[1]); sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, "zo", *words], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, int(done.stdout.splitlines()[-1]) * 1024


def main(rank: int, places: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        runs = [Path(made) / name for name in ("policy", "reward")]
        weights, _ = (walk(run, rank, places, seed) for seed, run in enumerate(runs))
        size = sum(path.stat().st_size for path in Path(made).rglob("*.safetensors"))
        seconds, peak = measured("interplay", *map(str, runs), "-o", str(Path(made) / "page.html"))
    print(json.dumps({"weights": weights, "checkpoints": size, "seconds": round(seconds, 1), "peak": peak}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
