"""Names become models and models become folders; what cannot be had is refused in one sentence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zerothorder.data import TASKS, collate_prompts, encode, load_model, read_rows, save_model
from zerothorder.data.convert import gguf_to_folder
from zerothorder.data.heads import SPREAD, hashed_uniform
from zerothorder.errors import UsageError


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_causal_model(llama_folder: Path, capfd: pytest.CaptureFixture[str]):
    generator = torch.get_rng_state()
    loaded = load_model(llama_folder, "bfloat16", objective="lm")
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert loaded.source == str(llama_folder)
    assert loaded.tokenizer.pad_token == "</s>"
    assert loaded.tokenizer.padding_side == "left"
    assert torch.equal(generator, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_the_settings_of_transformers_are_put_back(llama_folder: Path):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(llama_folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_attention_can_be_chosen(llama_folder: Path):
    loaded = load_model(llama_folder, attn_implementation="eager")
    assert loaded.model.config._attn_implementation == "eager"


def test_padding_does_not_change_what_is_predicted(llama_folder: Path):
    model, tokenizer = (loaded := load_model(llama_folder)).model, loaded.tokenizer
    rows = [
        {"text": "a great film", "label": 1},
        {"text": "a terrible plot and good actors and a film", "label": 0},
    ]
    made = encode(
        rows,
        tokenizer,
        objective="classification",
        max_length=64,
        template="{text} It was",
        verbalizers="0=a,1=good",
    )
    prompts = [row.prompt for row in made.examples]
    with torch.inference_mode():
        both = model(**collate_prompts(prompts, tokenizer.pad_token_id)).logits[:, -1]
        alone = [model(input_ids=torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    torch.testing.assert_close(both, torch.stack(alone))


def test_an_encoder_decoder(tmp_path: Path, tokenizer: Any):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=len(tokenizer))
    loaded = load_model(save(T5ForConditionalGeneration(config), tokenizer, tmp_path / "t5"))
    assert type(loaded.model).__name__ == "T5ForConditionalGeneration"
    assert loaded.tokenizer.padding_side == "right"


def test_a_new_head_has_the_same_bits_everywhere(bert_folder: Path):
    generator = torch.get_rng_state()
    first = load_model(bert_folder, head=3)
    torch.manual_seed(1)
    second = load_model(bert_folder, head=3)
    torch.set_rng_state(generator)
    assert type(first.model).__name__ == "BertForSequenceClassification"
    assert first.tokenizer.padding_side == "right"
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    weight = states[0]["classifier.weight"]
    assert weight.shape == (3, 16)
    assert torch.equal(weight, hashed_uniform("classifier.weight", weight.shape))
    assert not states[0]["classifier.bias"].any()


def test_a_head_on_a_causal_model(llama_folder: Path):
    loaded = load_model(llama_folder, head=2)
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id
    batch = collate_prompts([(5, 6, 7), (8,)], loaded.tokenizer.pad_token_id or 0)
    with torch.inference_mode():
        alone = loaded.model(input_ids=torch.tensor([[8]])).logits[0]
        torch.testing.assert_close(loaded.model(**batch).logits[1], alone)


def test_hashed_uniform():
    values = hashed_uniform("score.weight", torch.Size([100, 100]))
    # The standard error of a standard deviation from 10,000 uniform values is 0.45 %.
    assert abs(values.std().item() / SPREAD - 1) < 0.02
    assert abs(values.mean().item()) < 4 * SPREAD / 100
    assert not torch.equal(values, hashed_uniform("other.weight", torch.Size([100, 100])))
    # Pinned: a ledger over a new head replays on these bits.
    assert [value.hex() for value in values[0, :2].tolist()] == [
        "-0x1.3e4a520000000p-6",
        "0x1.0744740000000p-5",
    ]


def test_a_saved_folder_is_what_was_loaded(llama_folder: Path, tmp_path: Path):
    loaded = load_model(llama_folder)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[3] += 1.0
    folder = save_model(loaded.model, loaded.tokenizer, tmp_path / "runs" / "model")
    again = load_model(folder)
    states = loaded.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert again.tokenizer("a great film")["input_ids"] == loaded.tokenizer("a great film")["input_ids"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["model"]
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_saving_twice_gives_the_same_bytes(llama_folder: Path, tmp_path: Path):
    loaded = load_model(llama_folder)
    folders = [save_model(loaded.model, loaded.tokenizer, tmp_path / name) for name in "ab"]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_saving_over_something(llama_folder: Path, tmp_path: Path):
    loaded = load_model(llama_folder)
    target = tmp_path / "out"
    target.mkdir()
    save_model(loaded.model, loaded.tokenizer, target)  # an empty folder is as good as none
    with pytest.raises(UsageError, match="exists already and is not empty"):
        save_model(loaded.model, loaded.tokenizer, target)
    (target / "old.txt").write_text("")
    save_model(loaded.model, loaded.tokenizer, target, overwrite=True)
    assert not (target / "old.txt").exists()
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="exists already"):
        save_model(loaded.model, loaded.tokenizer, other, overwrite=True)
    assert (other / "thesis.txt").exists()


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from zerothorder.data import load_model, save_model
from zerothorder.errors import UsageError
loaded = load_model(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_model(loaded.model, loaded.tokenizer, sys.argv[2])
except UsageError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing(llama_folder: Path, tmp_path: Path):
    out = tmp_path / "runs" / "model"
    command = [sys.executable, "-c", FULL_DISK, str(llama_folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"cannot write the model to {out} ("), done.stderr
    assert list((tmp_path / "runs").iterdir()) == []


def refused(name: Any, *says: str, **how: Any) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(name, **how)
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def test_settings_that_do_not_exist(llama_folder: Path):
    refused(llama_folder, "no dtype 'bfloat'", "did you mean 'bfloat16'", dtype="bfloat")
    refused(llama_folder, "no objective 'clasification'", "'classification'", objective="clasification")
    refused(llama_folder, "a head of 2 classes cannot be had for lm", objective="lm", head=2)
    refused(llama_folder, "a head of 0 classes", head=0)
    refused(llama_folder, "cannot use device 'gpu0'", device="gpu0")
    refused(llama_folder, "cannot be loaded", "nonsense", attn_implementation="nonsense")


def test_models_that_cannot_be_read(llama_folder: Path, bert_folder: Path, tmp_path: Path):
    refused(tmp_path / "none", "none does not exist")
    refused(tmp_path, "not a model folder: it has no config.json")
    (tmp_path / "model.txt").write_text("")
    refused(tmp_path / "model.txt", "is not a model: give a model folder")
    refused(bert_folder, f"{bert_folder} is an encoder, which writes no words", "put a classifier on it (--head")
    weights = llama_folder / "model.safetensors"
    state = load_file(weights)
    save_file({name: tensor for name, tensor in state.items() if "layers.1.mlp" not in name}, weights)
    refused(llama_folder, "holds no weights for model.layers.1.mlp.down_proj.weight (3 missing)", "(--head)")
    refused(llama_folder, "the folder is damaged", head=2)
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(llama_folder, f"the model {llama_folder} cannot be loaded")
    torch.save(state, llama_folder / "pytorch_model.bin")
    weights.unlink()
    refused(llama_folder, "as a pickle, which is not read")
    (llama_folder / "config.json").write_text("{")
    (llama_folder / "pytorch_model.bin").unlink()
    refused(llama_folder, f"the model {llama_folder} cannot be loaded")


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("smolm2-135m", "cannot load the model 'smolm2-135m'", "did you mean 'smollm2-135m'?")
    refused("some/model", "cannot load the model 'some/model', which is no folder")


def test_no_code_from_a_folder(llama_folder: Path):
    config = json.loads((llama_folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (llama_folder / "config.json").write_text(json.dumps(config))
    (llama_folder / "own.py").write_text(f"open({str(llama_folder / 'ran')!r}, 'w')\n")
    refused(llama_folder, "cannot be loaded")
    assert not (llama_folder / "ran").exists()


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A Llama of two layers in GGUF, one matrix of it in 4 bits."""
    import gguf
    import numpy as np

    folder = tmp_path / "gguf"
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "tiny.Q4_1.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(260)
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", *letters, "Ġa", "it"])
    writer.add_token_merges(["Ġ a", "i t"])
    writer.add_token_types([3, 3, *[1] * (len(letters) + 2)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (260, 32),
        "output_norm": (32,),
        "blk.0.attn_norm": (32,),
        "blk.0.ffn_norm": (32,),
        **{f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        if name == "blk.0.ffn_up":
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "tiny.Q4_1.gguf"


def test_gguf_is_read_saved_and_converted_alike(gguf_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    direct = load_model(gguf_file.parent)
    assert capfd.readouterr() == ("", "")
    saved = load_model(save_model(direct.model, direct.tokenizer, tmp_path / "saved"))
    generator = torch.get_rng_state()
    gguf_to_folder(gguf_file, tmp_path / "converted")
    assert torch.equal(generator, torch.get_rng_state())
    converted = load_model(tmp_path / "converted")
    expected = load_model(gguf_file).model.state_dict()
    for loaded in (direct, saved, converted):
        state = loaded.model.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert "quantization_config" not in loaded.model.config.to_dict()
    up = expected["model.layers.0.mlp.up_proj.weight"]
    assert all(len(row.unique()) <= 16 for row in up)  # one block of 32 a row: at most 16 levels
    refused_folder = gguf_file.parent
    (refused_folder / "second.gguf").write_bytes(b"")
    refused(refused_folder, "2 GGUF files (second.gguf, tiny.Q4_1.gguf): name one")
    refused(refused_folder / "second.gguf", "cannot be loaded")


@pytest.mark.e2e
def test_the_packaged_model_on_the_packaged_data():
    loaded = load_model("smollm2-135m", "bfloat16")
    assert loaded.model.num_parameters() == 134_515_008
    rows = read_rows("rotten-tomatoes", "dev")[:32]
    task = TASKS["rotten-tomatoes"]
    made = encode(
        rows,
        loaded.tokenizer,
        objective="classification",
        max_length=512,
        template=task.template,
        verbalizers=task.verbalizers,
    )
    assert made.truncated == 0
    terrible, great = (answer[0] for answer in made.examples[0].answers)
    batch = collate_prompts([row.prompt for row in made.examples], loaded.tokenizer.pad_token_id or 0)
    with torch.inference_mode():
        logits = loaded.model(**batch, logits_to_keep=1).logits[:, -1].float()
    scores = logits[:, great] - logits[:, terrible]
    labels = torch.tensor([row.label for row in made.examples])
    # Known of this model: it says "great" nearly always, and yet ranks good above bad.
    assert (scores > 0).float().mean() > 0.9
    assert scores[labels == 1].mean() > scores[labels == 0].mean()


@pytest.mark.e2e
def test_the_packaged_encoder():
    refused("minilm", "is an encoder", "--head")
    loaded = load_model("minilm", head=2)
    assert sum(weight.numel() for weight in loaded.model.bert.parameters()) == 22_713_216
