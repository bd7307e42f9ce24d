"""How long a prompt is for a model: in tokens of its own tokenizer, its pictures in its own slots."""

from functools import lru_cache
from pathlib import Path

from data.tokenizer import Tokenizer
from eval.long_context.measure import Measure


@lru_cache(maxsize=1)
def measure_of(folder: Path) -> Measure:
    """By the model of this folder; its weights are not read.

    Raises:
        ValueError: it is no model folder.
    """
    from vlm.model import build_encoder, image_layout
    from vlm.model_folder import read_model_config

    config = read_model_config(folder)
    return Measure(Tokenizer(config.tokenizer), image_layout(build_encoder(config.encoder), config.connector))
