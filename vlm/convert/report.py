"""What an import made of what, as a table or as JSON."""

import re
from collections.abc import Iterable
from typing import Any

from data.tokenizer import Tokenizer
from vlm.convert.from_hf import Import
from vlm.convert.names import EMBED, HEAD

LAYER = re.compile(r"\b(encoder|concept|decoder)\.\d+")


def as_json(done: Import) -> dict[str, Any]:
    """Every tensor by name: what it is made of, which rows are new, and what is unused."""
    vocabulary = done.vocabulary
    new_rows = [vocabulary.num_known, vocabulary.tokenizer.vocab_size]
    return {
        "architecture": done.architecture,
        "tensors": [
            {
                "name": name,
                "shape": list(recipe.size.shape),
                "dtype": dtype_name(recipe.size.dtype),
                "from": list(recipe.parts),
                "new_rows": new_rows if name in (EMBED, HEAD) and done.new_tokens else None,
            }
            for name, recipe in done.made.items()
        ],
        "unused": list(done.unused),
        "padding_rows_left_out": done.num_padding,
        "special_tokens": {
            token: {"id": vocabulary.tokenizer.token_id(name), "name": name, "is_new": token in vocabulary.added}
            for token, name in vocabulary.tokenizer.special_names.items()
        },
        "chat_template": vocabulary.tokenizer.chat_template is not None,
    }


def as_text(done: Import) -> str:
    """Like tensors of the layers as one line."""
    lines: dict[tuple[str, ...], int] = {}
    for name, recipe in done.made.items():
        made_of = " + ".join(dict.fromkeys(star(part) for part in recipe.parts))
        shape, dtype = " x ".join(map(str, recipe.size.shape)), dtype_name(recipe.size.dtype)
        line = (LAYER.sub("*", name), shape, dtype, made_of)
        lines[line] = lines.get(line, 0) + 1
    rows = [(line[0], str(count), *line[1:]) for line, count in lines.items()]
    vocabulary = done.vocabulary
    special = [
        f"{token} is {name}" if token != name else f"{token} is new" if token in vocabulary.added else token
        for token, name in vocabulary.tokenizer.special_names.items()
    ]
    rows_told = f"{vocabulary.num_known} of the source's {vocabulary.num_known + done.num_padding} rows"
    used = sum(len(recipe.parts) for recipe in done.made.values())
    backbone = done.config.backbone
    return "\n".join(
        [
            *aligned(("tensor", "count", "shape", "dtype", "from"), rows),
            "",
            f"{done.architecture}: {used} tensors used, {len(done.unused)} unused"
            + (f" ({', '.join(done.unused[:3])}{', ...' if len(done.unused) > 3 else ''})" if done.unused else ""),
            f"layers: {backbone.encoder_layers} encoder, {backbone.concept_layers} concept, {backbone.decoder_layers} decoder",
            f"tokens: {rows_told}, {len(done.new_tokens)} new rows near their mean",
            f"special tokens: {', '.join(special)}",
            f"chat template: {template_use(vocabulary.tokenizer)}",
        ]
    )


def template_use(tokenizer: Tokenizer) -> str:
    """What becomes of the chat template."""
    if tokenizer.chat_template is None:
        return "none"
    if tokenizer.template is not None:
        return f"conversations are written by it (chat: template); {tokenizer.template.stop_token} ends an answer"
    try:
        tokenizer.with_chat("template")
    except ValueError as error:
        return f"kept, but it cannot be used: {error}"
    return "kept; conversations have the project's own format (chat: own)"


def star(name: str) -> str:
    """A tensor's name with its numbers as stars."""
    return re.sub(r"\b\d+\b", "*", name)


def dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def aligned(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of a table, columns to the left."""
    every = [titles, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return lines
