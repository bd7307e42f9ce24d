"""A pretrained language model from a Hugging Face folder into a model folder of ours: a plain model, without a chunker.

config.json -> architecture -> BackboneConfig          (architecture.py, rotary.py)
tensors' names and sizes    -> recipes                 (names.py)
tokenizer.json              -> tokenizer, new rows     (vocabulary.py)
tensors                     -> model.safetensors       one after another: never the whole model in memory
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data.tokenizer import Chat, Tokenizer
from vlm.connector import ConnectorConfig
from vlm.convert.architecture import read_architecture
from vlm.convert.names import EMBED, HEAD, Recipe, recipes
from vlm.convert.source import Source, read_source
from vlm.convert.vocabulary import Vocabulary, check_rows, read_vocabulary, rows_of
from vlm.model import ModelConfig
from vlm.model_folder import require_new_folder, write_model_folder
from vlm.weight_files import SHARD_BYTES, Size, open_weights


@dataclass(frozen=True)
class Import:
    """What an import made of what; every tensor of the source and of the result is named."""

    architecture: str
    config: ModelConfig
    made: dict[str, Recipe]  # our tensor -> its size here, and the tensors it is made of
    unused: tuple[str, ...]  # tensors of the source that the model is whole without
    vocabulary: Vocabulary
    num_padding: int  # rows of the source's embedding beyond its tokenizer, left out

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Special tokens that the source lacks: a new row each of embedding and head."""
        return self.vocabulary.added


def import_model(
    name: str,
    out: Path,
    layers: tuple[int, int, int] | None = None,
    shard_bytes: int = SHARD_BYTES,
    chat: Chat = "own",
) -> Import:
    """Import a pretrained model. Weights keep their dtypes.

    Args:
        name: a folder, or a name on the hub.
        out: the model folder to write; must not exist, or be empty.
        layers: encoder, concept and decoder layers; see `read_architecture`.
        chat: how conversations with the model are written; `template`: by its own chat template.

    Raises:
        ValueError: the model cannot be had, is not whole, or has what cannot be expressed here.
    """
    require_new_folder(out)
    source = read_source(name)
    backbone, is_tied = read_architecture(source.config, layers)
    made = recipes(backbone, is_tied, source.tensors)
    vocabulary = read_vocabulary(source.folder, source.config, chat)
    rows = made[EMBED].size.shape[0]
    if rows != source.config["vocab_size"]:
        raise ValueError(
            f"the embedding has {rows} rows and config.json vocab_size {source.config['vocab_size']}; they are of two models"
        )
    for one in (EMBED, HEAD):
        if one in made:
            check_rows(one, made[one].size.shape[0], vocabulary)
            made[one] = resized(made[one], vocabulary.tokenizer)
    config = ModelConfig(
        tokenizer="tokenizer.json",
        encoder=None,
        connector=ConnectorConfig(),
        backbone=backbone,
        tie_embeddings=is_tied,
        chat=chat,
    )
    sizes = {ours: recipe.size for ours, recipe in made.items()}
    write_model_folder(
        out,
        config,
        vocabulary.tokenizer,
        sizes,
        lambda ours: read_parts(ours, made[ours], source, vocabulary),
        shard_bytes,
    )
    used = {part for recipe in made.values() for part in recipe.parts}
    unused = tuple(sorted(source.tensors.keys() - used))
    return Import(source.config["architectures"][0], config, made, unused, vocabulary, rows - vocabulary.num_known)


def resized(recipe: Recipe, tokenizer: Tokenizer) -> Recipe:
    """Embedding or head with a row for each token of ours."""
    size = Size((tokenizer.vocab_size, recipe.size.shape[1]), recipe.size.dtype)
    return Recipe(size, recipe.parts)


def read_parts(name: str, recipe: Recipe, source: Source, vocabulary: Vocabulary) -> Iterator[Tensor]:
    """The pieces of one of our tensors, in the order of its rows."""
    parts = list(recipe.parts)
    while parts:
        path = source.tensors[parts[0]].file
        # Closed after each tensor: what was read of a file counts as memory of the process as long as it is open.
        with open_weights(path) as file:
            while parts and source.tensors[parts[0]].file == path:
                part = parts.pop(0)
                if name in (EMBED, HEAD):
                    yield from rows_of(file.get_slice(part), vocabulary, recipe.size.dtype)
                else:
                    yield file.get_tensor(part)
