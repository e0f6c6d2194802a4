"""Predicted peak memory within 10 % of a process that loads the model and takes steps. Each case is a fresh process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from zerothorder.plan import PlanConfig, make_plan

pytestmark = pytest.mark.e2e
CHILD = Path(__file__).parent / "child.py"


def measured(model: str, dtype: str, kind: str, rows: int, tokens: int, recipe: str, executor: str) -> dict[str, int]:
    """Bytes above the process after its imports, of loading and of three steps."""
    words = (model, dtype, kind, str(rows), str(tokens), recipe, executor)
    done = subprocess.run([sys.executable, str(CHILD), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def agree(
    model: str, dtype: str, kind: str, rows: int, tokens: int, recipe: str = "mezo", executor: str = "batched"
) -> None:
    fields: dict[str, Any] = {
        "dtype": dtype,
        "recipe": recipe,
        "executor": executor,
        "head": 2 if kind == "head" else None,
        "time": False,
    }
    predicted = make_plan(PlanConfig(model=model, batch_size=rows, tokens=tokens, **fields)).memory
    found = measured(model, dtype, kind, rows, tokens, recipe, executor)
    assert predicted.peak == pytest.approx(found["peak"], rel=0.1), (predicted, found)
    assert predicted.steps == pytest.approx(found["steps"], rel=0.1), (predicted, found)


@pytest.mark.parametrize(
    ("dtype", "recipe", "executor"),
    [("float32", "mezo", "swap"), ("bfloat16", "mezo", "batched"), ("bfloat16", "low-rank", "batched")],
)
def test_smollm2(dtype: str, recipe: str, executor: str):
    agree("smollm2-135m", dtype, "classification", 16, 64, recipe, executor)


def test_minilm_as_a_classifier():
    agree("minilm", "float32", "head", 16, 64)


def test_a_shape_it_was_not_tuned_on(tmp_path: Path):
    from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

    from zerothorder.data.sources import model_folder

    torch.manual_seed(0)
    shape = {"hidden_size": 640, "ffn_dim": 2560, "num_hidden_layers": 6, "num_attention_heads": 10}
    OPTForCausalLM(OPTConfig(**shape, word_embed_proj_dim=640)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(str(model_folder("smollm2-135m"))).save_pretrained(str(tmp_path))
    agree(str(tmp_path), "float32", "classification", 12, 80)
