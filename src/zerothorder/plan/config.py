"""What is to be planned: the fields of `TrainConfig` that memory and time depend on, and the shape of a batch."""

from dataclasses import dataclass
from typing import Any, Literal

from zerothorder.config import Objective, Scheme, settings_of
from zerothorder.errors import UsageError
from zerothorder.execution.batched import points_a_pass

_LEAST = {
    "steps": 1, "batch_size": 1, "micro_batch": 1, "tokens": 2, "answer_tokens": 1, "choices": 2, "threads": 1,
    "copies": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Predict memory and time of a run before anything is loaded."""

    model: str = "smollm2-135m"
    """A local folder, a hub id, or a packaged model."""
    recipe: str = "mezo"
    """The method; `zo recipes` lists them."""
    scheme: Scheme = "full"
    """Which weights: all, LoRA factors, a prefix of keys and values, a prompt of virtual tokens, or the head."""
    objective: Objective = "classification"
    """classification by verbalizer, lm, or metric; of a metric one forward over the prompts is counted."""
    head: int | None = None
    """Classes of a classification head on top, for encoders."""
    freeze: tuple[str, ...] = ()
    """Leave alone the parameters whose name contains one of these words, for example embed_tokens."""
    steps: int = 1000
    """Steps of the run."""
    batch_size: int = 16
    """Rows a step."""
    micro_batch: int | None = None
    """Rows evaluated at a time (gradient accumulation)."""
    tokens: int = 64
    """Tokens a row, padding included; virtual ones come in addition."""
    answer_tokens: int = 1
    """Tokens of a candidate answer (classification)."""
    choices: int = 2
    """Candidate answers; those of one token share a forward, longer ones take a row each."""
    lr: float | None = None
    """Learning rate; by default the recipe's for the scheme (see `zo recipes RECIPE`)."""
    eps: float | None = None
    """Size of the perturbation; by default the recipe's for the scheme (see `zo recipes RECIPE`)."""
    draws: int | None = None
    """Directions a step (n-SPSA); by default the recipe's (see `zo recipes RECIPE`)."""
    weight_decay: float | None = None
    """Coupled weight decay, without biases and norms; by default the recipe's (see `zo recipes RECIPE`)."""
    optimizer: Literal["sgd", "momentum", "adam"] | None = None
    """What turns the estimate into a step; by default the recipe's (see `zo recipes RECIPE`)."""
    law: Literal["gaussian", "rademacher"] | None = None
    """Law of the directions, or of their factors; by default the recipe's (see `zo recipes RECIPE`)."""
    rank: int | None = None
    """Rank of the directions, of recipes that have one; by default the recipe's (see `zo recipes RECIPE`)."""
    settings: tuple[str, ...] = ()
    """The recipe's other settings, as NAME=VALUE: sparsity=0.8 resample=10 (see `zo recipes RECIPE`)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the weights and of the forwards."""
    precision: Literal["residual", "stochastic", "nearest"] = "residual"
    """How 16-bit weights keep small steps: a residual byte each, or bare rounding."""
    executor: Literal["batched", "swap", "copy"] = "batched"
    """How points are evaluated: together in one pass, one by one, or on a second copy of the weights."""
    copies: int | None = None
    """Points evaluated together; by default as many as make 1,024 tokens."""
    attention: Literal["sdpa", "eager"] | None = None
    """Attention implementation; by default the model's."""
    seed: int = 0
    """Names the run."""
    threads: int | None = None
    """CPU threads; by default torch's choice."""
    time: bool = True
    """Calibrate this machine (a few seconds) and predict the time too."""
    trust_remote_code: bool = False
    """Allow code that comes with a model."""
    json: bool = False
    """Print one JSON object."""

    def recipe_settings(self) -> dict[str, Any]:
        """The recipe's settings that were given."""
        return settings_of(self)

    def check_numbers(self) -> None:
        """UsageError for a number that no run can have."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be {least} or more")
        if self.head is not None and (self.head < 2 or self.objective != "classification"):
            raise UsageError("--head is for classification and takes the number of classes, 2 or more")

    def together(self, points: int) -> int:
        """Points that share a pass, at the first step, which takes most."""
        if self.executor != "batched":
            return 1
        return min(points, self.copies or points_a_pass(self.rows, self.rows * self.tokens))

    @property
    def rows(self) -> int:
        """Rows of a step that are in one forward."""
        return min(self.batch_size, self.micro_batch or self.batch_size)
