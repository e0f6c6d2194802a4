"""Pretrain the small language model that ships with the library: 2.6 M parameters, at most twenty minutes of two cores.

    python scripts/pretrain.py WORK --minutes 20      text, tokenizer and weights into WORK, the model into WORK/model
    python scripts/pretrain.py WORK --minutes 20      again after Ctrl-C: goes on from the last save

The text is that of corpus.py: no document of it touches dev or test of a shipped task. 1,500 documents are held out.
AdamW, the rate rises over 2 % of the run and falls along a cosine. With --minutes the run is measured in processor time
a thread, so that other work on the machine delays it and takes nothing from it; with --steps in steps.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from corpus import Document, documents, read_held_out
from debian_index import fetch_index, fetch_package, read_descriptions, read_packages
from torch import Tensor
from wordnet import PACKAGE, read_synsets

SHIPPED = Path(__file__).parent.parent / "src" / "zerothorder" / "data" / "shipped"
HELD_OUT = 1500
VOCABULARY, LENGTH, ROWS = 4096, 256, 4
PEAK, FLOOR, WARM_UP = 4e-3, 0.02, 0.02
"""Learning rate, the share of it that the cosine ends at, and the share of the run in which it rises."""
BETWEEN = "<|endoftext|>"
"""Stands before every document and after the last word of what is generated."""


def main() -> None:
    """Collect, train the tokenizer, train the model, write it with its measures."""
    parser = argparse.ArgumentParser(description="pretrain the small language model that ships with zerothorder")
    parser.add_argument("work", type=Path, help="folder of the run; one that holds a run goes on with it")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="length of the run, processor time of one thread")
    length.add_argument("--steps", type=int, help="length of the run in steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="half as fast again; needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    date, texts = collect(args.work / "corpus.json")
    held, seen = texts[:HELD_OUT], texts[HELD_OUT:]
    tokenizer = read_tokenizer(args.work / "tokenizer.json", seen)
    run = Run(args.work, encode(tokenizer, seen), pack(encode(tokenizer, held)), args.seed)
    run.train(args.minutes, args.steps, compiled=args.compile)
    # What is measured is what is written.
    loss = held_out_loss(run.model.to(torch.bfloat16).float(), run.held)
    characters = sum(len(document.text) for document in held) / sum(map(len, encode(tokenizer, held)))
    measures = {
        "index": date, "documents": len(seen), "held_out_documents": len(held),
        "training_tokens": sum(map(len, run.texts)), "steps": run.step, "tokens_seen": run.step * ROWS * LENGTH,
        "minutes": round(run.seconds / 60, 1), "threads": args.threads, "seed": args.seed,
        "held_out_loss": round(loss, 4),
        "held_out_bits_per_character": round(loss / math.log(2) / characters, 4),
    }  # fmt: skip
    write_model(run.model.to(torch.bfloat16), tokenizer, args.work / "model", measures)
    print(json.dumps(measures, indent=1))


def collect(path: Path) -> tuple[str, list[Document]]:
    """The date of Debian's index, and the documents; kept in a file, so that a run goes on with the same ones."""
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            lists, date = fetch_index(Path(scratch))
            wordnet, _ = fetch_package(Path(scratch), PACKAGE)
            packages = read_packages(next(lists.glob("*_Packages")))
            english = read_descriptions(next(lists.glob("*_Translation-en")), "en")
            found = documents(packages, english, read_synsets(wordnet), read_held_out(SHIPPED))
        path.write_text(json.dumps({"index": date, "documents": [(each.name, each.text) for each in found]}))
    kept = json.loads(path.read_text())
    return kept["index"], [Document(*each) for each in kept["documents"]]


def read_tokenizer(path: Path, texts: list[Document]) -> Any:
    """Byte-level BPE, trained on the documents unless it was; every text begins with `BETWEEN`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if not path.exists():
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[BETWEEN, "<pad>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        core.train_from_iterator((document.text for document in texts), trainer)
        core.post_processor = processors.TemplateProcessing(
            single=f"{BETWEEN} $A", pair=f"{BETWEEN} $A $B", special_tokens=[(BETWEEN, 0)]
        )
        core.save(str(path))
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Any, texts: list[Document]) -> list[list[int]]:
    """Each document's tokens, `BETWEEN` first."""
    return [found.ids for found in tokenizer.encode_batch([document.text for document in texts])]


def pack(texts: list[list[int]]) -> Tensor:
    """Documents one after the other, in rows of `LENGTH` tokens and the one after; a rest is left out."""
    stream = torch.tensor([token for ids in texts for token in ids])
    count = (len(stream) - 1) // LENGTH
    return stream.as_strided((count, LENGTH + 1), (LENGTH, 1)).contiguous()


def new_model(seed: int) -> Any:
    """A Llama of 2.56 M parameters, four layers, tied table of tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
            max_position_embeddings=LENGTH, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        )
    )  # fmt: skip


def loss_of(model: Any, rows: Tensor) -> Tensor:
    """Nats a token."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def held_out_loss(model: Any, rows: Tensor) -> float:
    """Nats a token over all rows, in float32."""
    with torch.inference_mode():
        return sum(float(loss_of(model, part)) * len(part) for part in rows.split(16)) / len(rows)


def rate_at(share: float) -> float:
    """The learning rate where `share` of the run is done."""
    rise = min(1.0, (share + 1e-3) / WARM_UP)
    fall = (1 + math.cos(math.pi * min(1.0, max(0.0, share - WARM_UP) / (1 - WARM_UP)))) / 2
    return PEAK * rise * (FLOOR + (1 - FLOOR) * fall)


class Run:
    """A model in training, with what it takes to go on: weights, optimizer, step and seconds in `WORK/state.pt`."""

    def __init__(self, work: Path, texts: list[list[int]], held: Tensor, seed: int) -> None:
        self.path, self.texts, self.held, self.seed = work / "state.pt", texts, held, seed
        self.step, self.seconds = 0, 0.0
        self.epoch, self.rows = -1, torch.empty(0)
        self.model = new_model(seed)
        matrices = [weight for weight in self.model.parameters() if weight.ndim > 1]
        vectors = [weight for weight in self.model.parameters() if weight.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=True)
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.seconds = saved["step"], saved["seconds"]

    def train(self, minutes: float | None, steps: int | None, compiled: bool = False) -> None:
        """Steps until the run's length is reached; a line every ten seconds, a save every minute and at Ctrl-C."""
        shown = saved = time.monotonic()
        mean = math.nan
        forward: Any = torch.compile(self.model) if compiled else self.model
        try:
            while (share := self.step / steps if steps else self.seconds / (60 * (minutes or 1))) < 1:
                began = time.process_time()
                loss = self.take(forward, rate_at(share))
                mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
                self.seconds += (time.process_time() - began) / torch.get_num_threads()
                now = time.monotonic()
                if now - shown > 10:
                    shown, tokens = now, self.step * ROWS * LENGTH
                    speed = f"{tokens / self.seconds:,.0f} tokens a second"
                    print(f"{share:6.1%} step {self.step}, {tokens:,} tokens, {speed}, loss {mean:.3f}", flush=True)
                if now - saved > 60:
                    saved = now
                    self.save()
        except KeyboardInterrupt:
            self.save()
            raise SystemExit(f"stopped at step {self.step}; the same command goes on from there") from None
        self.save()

    def take(self, forward: Any, rate: float) -> float:
        """One step of the model, called as `forward`; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(forward, self.batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def batch(self) -> Tensor:
        """Rows of this step: every epoch packs all documents in an order of its own."""
        count = (sum(map(len, self.texts)) - 1) // LENGTH // ROWS
        epoch, at = divmod(self.step, count)
        if epoch != self.epoch:
            order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(self.seed + 1000 * epoch))
            self.epoch, self.rows = epoch, pack([self.texts[i] for i in order.tolist()])
        return self.rows[at * ROWS : (at + 1) * ROWS]

    def save(self) -> None:
        """All or nothing."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, self.path.with_suffix(".partial"))
        self.path.with_suffix(".partial").replace(self.path)


def write_model(model: Any, core: Any, folder: Path, measures: dict[str, Any]) -> None:
    """Weights in bfloat16, tokenizer, configuration, and `pretraining.json`."""
    from transformers import PreTrainedTokenizerFast

    from zerothorder.data import save_model

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BETWEEN, eos_token=BETWEEN, pad_token="<pad>", model_max_length=LENGTH
    )
    save_model(model, tokenizer, folder, overwrite=True)
    # transformers 5 writes a class of its own, which earlier versions do not know; all know this one.
    told = folder / "tokenizer_config.json"
    settings = json.loads(told.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    told.write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "pretraining.json").write_text(json.dumps(measures, indent=1) + "\n")


if __name__ == "__main__":
    main()
