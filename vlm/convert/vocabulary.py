"""The tokenizer of a pretrained model with the project's special tokens in it, and what that does to its embedding.

A special token of ours is the source's own where it means the same, and is added at the end of the vocabulary where there is
none. Files of ours: `tokenizer.json`, with `special_tokens.json` beside it that says which is which.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from jaxtyping import Float
from torch import Tensor

from data.tokenizer import (
    BESIDE,
    SPECIAL_NAMES,
    SPECIAL_TOKENS,
    TEMPLATE,
    TEMPLATE_NAMES,
    TEMPLATE_TOKENS,
    Chat,
    Tokenizer,
)
from vlm.convert.source import read_json

# Our token -> names under which other models have it. A picture's slots hold no embedding, so its name is free to choose.
ALIASES = {"<|image|>": ("<|image_pad|>", "<image>")}
# Our token -> settings of tokenizer_config.json, then of config.json, that name it. In this order: a token serves once.
DECLARED = {
    "<|end|>": ("eos_token", "eos_token_id"),
    "<|bos|>": ("bos_token", "bos_token_id"),
    "<|pad|>": ("pad_token", "pad_token_id"),
}
NOISE = 0.1  # of new rows about the mean of the others, in units of the others' spread
ROWS = 8192  # of an embedding held at once


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with the special tokens, and where they come from."""

    tokenizer: Tokenizer
    own: dict[str, str]  # our token -> the source's token that serves as it
    added: tuple[str, ...]  # our tokens that are new, in the order of their rows
    num_known: int  # tokens that the source's tokenizer has


def read_vocabulary(folder: Path, config: dict[str, Any], chat: Chat = "own") -> Vocabulary:
    """The tokenizer of a Hugging Face folder.

    Args:
        chat: how conversations are written, see `Tokenizer`.

    Raises:
        ValueError: there is no tokenizer.json, its ids have holes, or its chat template is to be used and cannot.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json; make one with transformers: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    text = path.read_text(encoding="utf-8")
    try:
        theirs = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises nothing narrower
        raise ValueError(f"tokenizer {path}: {error}; is it a tokenizer.json of the tokenizers library?") from error
    num_known = theirs.get_vocab_size()
    if max(theirs.get_vocab().values()) + 1 != num_known:
        raise ValueError(f"tokenizer {path}: its ids have holes, so that an embedding would have rows without a token")
    special = {token.content for token in theirs.get_added_tokens_decoder().values() if token.special}
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    own = own_tokens(theirs, special, settings, config)
    added = tuple(token for token in SPECIAL_TOKENS if token not in own)
    if spelled := [token for token in added if theirs.token_to_id(token) is not None]:
        raise ValueError(
            f"tokenizer {path}: has {spelled[0]} as a token that a text can spell; mark it special: true in the file"
        )
    if added:
        theirs.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in added])
        assert [theirs.token_to_id(token) for token in added] == list(range(num_known, num_known + len(added)))
        text = theirs.to_str()
    beside = kept_files(folder, settings)
    if renamed := {token: name for token, name in own.items() if token != name}:
        beside[SPECIAL_NAMES] = json.dumps(renamed, indent=2) + "\n"
    return Vocabulary(Tokenizer.from_text(text, str(path), beside, chat), own, added, num_known)


def own_tokens(
    theirs: tokenizers.Tokenizer, special: set[str], settings: dict[str, Any], config: dict[str, Any]
) -> dict[str, str]:
    """Our token -> the source's special token that means the same; what is not special could be spelled by a text."""
    own: dict[str, str] = {}
    for token in sorted(SPECIAL_TOKENS, key=[*DECLARED, *SPECIAL_TOKENS].index):
        names = [token, *ALIASES.get(token, ())]
        if token in DECLARED:
            in_settings, in_config = DECLARED[token]
            named = settings.get(in_settings)
            number = config.get(in_config)
            if named is None and isinstance(number, int):
                named = theirs.id_to_token(number)
            names.append(named["content"] if isinstance(named, dict) else named or "")
        free = [name for name in names if name in special and name not in own.values()]
        if free:
            own[token] = free[0]
    return own


def kept_files(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Chat template and settings of generation, by file name; older models have the template among the settings."""
    paths = {name: folder / name for name in BESIDE if name not in (SPECIAL_NAMES, TEMPLATE_TOKENS)}
    found = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}
    template = settings.get("chat_template")
    if isinstance(template, str):
        found.setdefault(TEMPLATE, template)
    if TEMPLATE in found:  # which writes these by name
        named = {key: value for key, value in settings.items() if key in TEMPLATE_NAMES}
        tokens = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
        found[TEMPLATE_TOKENS] = json.dumps({key: value for key, value in tokens.items() if value}, indent=2) + "\n"
    return found


def rows_of(view: Any, vocabulary: Vocabulary, dtype: torch.dtype) -> Iterator[Float[Tensor, "rows d"]]:
    """Rows of our embedding or head: the source's, then new ones near their mean.

    Args:
        view: of the source's rows, sliced as a tensor is; those beyond its tokenizer are padding and left out. A new row
            is the mean of the others with noise, so that no token begins louder or more likely than most.
    """
    total = torch.zeros(view.get_shape()[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, vocabulary.num_known, ROWS):
        part = view[start : min(start + ROWS, vocabulary.num_known)]
        precise = part.to(torch.float64)
        total += precise.sum(0)
        squares += precise.square().sum(0)
        yield part
    if not vocabulary.added:
        return
    mean = total / vocabulary.num_known
    spread = (squares / vocabulary.num_known - mean.square()).clamp(min=0).sqrt()
    draw = torch.randn(
        len(vocabulary.added), len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    yield (mean + NOISE * spread * draw).to(dtype)


def check_rows(name: str, rows: int, vocabulary: Vocabulary) -> None:
    """Refuse an embedding that does not cover the tokenizer.

    Raises:
        ValueError: gives both numbers.
    """
    if rows < vocabulary.num_known:
        raise ValueError(
            f"{name} has {rows} rows and tokenizer.json {vocabulary.num_known} tokens; they are of two models"
        )
