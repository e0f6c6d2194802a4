"""Models, data sets, prompts and batches: everything between a user's names and the tensors of a step."""

from zerothorder.data.batches import BatchStream, collate_prompts
from zerothorder.data.cache import cache_root, fetch_wheel
from zerothorder.data.classes import classes_in, name_classes, saved_classes
from zerothorder.data.encode import Encoded, Example, encode
from zerothorder.data.folders import save_model
from zerothorder.data.formats import Row
from zerothorder.data.models import Loaded, load_model
from zerothorder.data.soft_prompt import virtual_tokens
from zerothorder.data.sources import MODELS
from zerothorder.data.tables import read_rows
from zerothorder.data.tasks import TASKS
from zerothorder.data.templates import Template, Verbalizers, parse_template, parse_verbalizers

__all__ = [
    "MODELS",
    "TASKS",
    "BatchStream",
    "Encoded",
    "Example",
    "Loaded",
    "Row",
    "Template",
    "Verbalizers",
    "cache_root",
    "classes_in",
    "collate_prompts",
    "encode",
    "fetch_wheel",
    "load_model",
    "name_classes",
    "parse_template",
    "parse_verbalizers",
    "read_rows",
    "save_model",
    "saved_classes",
    "virtual_tokens",
]
