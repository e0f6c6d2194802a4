"""Tiny random models of every family, and an objective that calls them: hidden 16, two layers, no download."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.directions.laws import Dense
from zerothorder.execution import Surroundings
from zerothorder.key import Key, run_key
from zerothorder.point import Values
from zerothorder.space import ParameterSpace
from zerothorder.state import State

ROWS, LENGTH, VOCABULARY = 3, 7, 99


class Mean:
    """Per-example mean of minus the log-probability of class 3 (or of the output itself), float32 or better."""

    def prepare(self, model: nn.Module, batch: dict[str, Tensor], key: Key) -> dict[str, Tensor]:
        return batch

    def count(self, prepared: dict[str, Tensor]) -> int:
        return len(next(iter(prepared.values())))

    def select(self, prepared: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
        return {name: tensor[list(rows)] for name, tensor in prepared.items()}

    def evaluate(self, model: nn.Module, prepared: dict[str, Tensor]) -> Values:
        return Values.of(self.loss(model, prepared))

    def gradient(self, model: nn.Module, prepared: dict[str, Tensor]) -> Values:
        names = {id(p): n for n, p in model.named_parameters()}
        loss = self.loss(model, prepared)
        found = torch.autograd.grad(loss.mean(), list(model.parameters()), allow_unused=True)
        gradient = {names[id(p)]: g for p, g in zip(model.parameters(), found, strict=True) if g is not None}
        return Values(loss.detach(), torch.ones_like(loss), gradient)

    def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        out = model(**prepared)
        out = getattr(out, "logits", out)
        out = out if out.dtype == torch.float64 else out.float()
        return -out.log_softmax(-1)[..., 3].reshape(out.shape[0], -1).mean(1)


class Generated(Mean):
    """Share of greedy tokens above half the vocabulary plus the value of `Mean`: generate() inside an objective."""

    def loss(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        call: Any = model
        ids = call.generate(**prepared, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
        self.tokens = ids.clone()
        again = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return super().loss(model, again) if not model.config.is_encoder_decoder else ids.float().mean(1)


def around(model: nn.Module, law: str = "gaussian", seed: int = 0, **options: Any) -> Surroundings:
    return Surroundings(model, ParameterSpace.of(model, **options), Dense(run_key(seed), law), State())


def text(encoder_decoder: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(4, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | {"decoder_input_ids": ids[:, :3].contiguous()} if encoder_decoder else batch


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(0))}


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=None,
        )
    )


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=None
        )
    )


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            word_embed_proj_dim=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            eos_token_id=None,
        )
    )


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        num_labels=5,
    )
    return BertForSequenceClassification(config)


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config)


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        num_labels=5,
    )
    return ViTForImageClassification(config)


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=3,
            max_position_embeddings=32,
            eos_token_id=None,
        )
    )


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2, eos_token_id=None)
    config.bos_token_id = 1
    return MambaForCausalLM(config)


def lora() -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(llama(), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))


def prefix() -> Any:
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    from zerothorder.data.prefix_cache import by_either_name

    prefix = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    return by_either_name(get_peft_model(llama(), prefix))


class Convolutional(nn.Module):
    """Convolutions with batch normalisation, a raw scale of the whole net, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2), nn.BatchNorm2d(6)
        )
        self.head = nn.Linear(6, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.body(pixel_values * self.scale).mean((2, 3)))


class Recurrent(nn.Module):
    """An embedding, a two-layer LSTM whose weights are one flat list, a head tied to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.lstm = nn.LSTM(8, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(input_ids))
        return self.head(hidden[:, -1])


class Fused(nn.Module):
    """torch's own encoder: its fast path reads the weights of modules it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(input_ids)).mean(1))


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]] = {
    "llama": (llama, text),
    "gpt2": (gpt2, text),
    "opt": (opt, text),
    "bert": (bert, text),
    "t5": (t5, lambda: text(encoder_decoder=True)),
    "vit": (vit, images),
    "mixtral": (mixtral, text),
    "mamba": (mamba, text),
    "lora": (lora, text),
    "prefix": (prefix, text),
    "convolutional": (Convolutional, images),
    "lstm": (Recurrent, text),
    "fused": (Fused, text),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model in eval mode with weights large enough that every one of them shows, and a batch for it."""
    make, batch = MODELS[name]
    state = torch.get_rng_state()
    torch.manual_seed(5)
    try:
        model = make().eval()
        for parameter in model.parameters():
            if name != "lora" or parameter.requires_grad is False:
                # the libraries start at 0.02, where sixteen dimensions say nothing
                parameter.data.add_(torch.randn(parameter.shape) * 0.2)
    finally:
        torch.set_rng_state(state)
    data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch().items()}
    return model.to(dtype), data
