"""Peak memory of one DPO run in a fresh process: `python benchmarks/trainer_memory.py zo full`.

The first word is zo (this library's mixin, recipe mezo) or trl (the trainer as it is, with torch's AdamW); the second
full or lora. SmolLM2-135M in float32, 4 pairs a step cut at 128 tokens, 3 steps; prints one JSON object: the largest
resident memory, and that before training began.
"""

import json
import resource
import sys
import tempfile

import torch
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from zerothorder import TrainerMixin
from zerothorder.data import load_model, read_rows

STEPS, PAIRS, TOKENS = 3, 4, 128


class ZerothOrderDPOTrainer(TrainerMixin, DPOTrainer):
    """TRL's trainer without backpropagation."""


def largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(kind: str, scheme: str) -> None:
    from datasets import Dataset

    loaded = load_model("smollm2-135m", "float32")
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in read_rows("preferences", "train")]
    # the longest first, so that every batch is as long as it may be
    rows.sort(key=lambda row: -len(str(row["chosen"]) + str(row["rejected"])))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=PAIRS, max_length=TOKENS, use_cpu=True,
            save_strategy="no", report_to="none", disable_tqdm=True, bf16=False, gradient_checkpointing=False,
            precompute_ref_log_probs=True, learning_rate=1e-6, dataloader_pin_memory=False,
        )  # fmt: skip
        given = {
            "model": loaded.model, "args": args, "train_dataset": Dataset.from_list(rows[: PAIRS * STEPS]),
            "processing_class": loaded.tokenizer, "peft_config": lora if scheme == "lora" else None,
        }  # fmt: skip
        trainer = ZerothOrderDPOTrainer(**given, recipe="mezo") if kind == "zo" else DPOTrainer(**given)
        before = largest()
        trainer.train()
    print(json.dumps({"kind": kind, "scheme": scheme, "before": before, "peak": largest()}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
