"""What a model folder is, and whether its parts agree: every byte is read, every fault named, nothing is loaded as a model."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.tokenizer import Tokenizer
from vlm.convert.report import LAYER, aligned, dtype_name, template_use
from vlm.model import ModelConfig, VisionLanguageModel
from vlm.model_folder import check_tokenizer, check_weights, model_files, read_model_config, read_sums
from vlm.weight_files import Stored, file_sum, open_weights, read_sizes, weight_files

NAMED = re.compile(r"<\|[^|<>{}]+\|>")  # tokens that a chat template writes out


@dataclass
class Findings:
    """What was found in a model folder."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    tensors: dict[str, Stored]
    sums: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # file -> its SHA-256, and "ok", "changed" or "no record"
    sizes: dict[str, int] = field(default_factory=dict)  # file -> bytes
    faults: list[str] = field(default_factory=list)


def examine(folder: Path) -> Findings:
    """Read a model folder.

    Raises:
        ValueError: it is no model folder, or so broken that there is nothing to describe; other faults are among the findings.
    """
    config = read_model_config(folder)
    tokenizer = Tokenizer(config.tokenizer, config.chat)
    found = Findings(folder, config, tokenizer, read_sizes(weight_files(folder)))
    check_files(found)
    model = VisionLanguageModel(config, is_empty=True)
    for check in (
        lambda: check_tokenizer(tokenizer, found.tensors, folder),
        lambda: check_weights(model, found.tensors, folder),
    ):
        try:
            check()
        except ValueError as error:
            found.faults.append(str(error))
    check_values(found)
    check_template(found)
    return found


def check_files(found: Findings) -> None:
    """Whether each file is what was written."""
    recorded = read_sums(found.folder)
    for path in model_files(found.folder):
        found.sizes[path.name] = path.stat().st_size
        digest, due = file_sum(path), recorded.pop(path.name, None)
        found.sums[path.name] = digest, "no record" if due is None else "ok" if due == digest else "changed"
        if found.sums[path.name][1] == "changed":
            kind = "is another tokenizer than" if path.name == "tokenizer.json" else "is not what"
            found.faults.append(f"{path.name} {kind} the model was saved with (its SHA-256 is not that of SHA256SUMS)")
    found.faults += [f"{name} is missing, which SHA256SUMS names" for name in recorded]


def check_values(found: Findings) -> None:
    """Whether every weight is a number."""
    for path in dict.fromkeys(one.file for one in found.tensors.values()):
        with open_weights(path) as file:
            for name, one in found.tensors.items():
                if one.file == path and one.dtype.is_floating_point:
                    bad = int((~torch.isfinite(file.get_tensor(name))).sum())
                    if bad:
                        found.faults.append(f"{name} has {bad} values that are no numbers")


def check_template(found: Findings) -> None:
    """Whether the tokens that the chat template writes out are tokens."""
    template = found.tokenizer.chat_template
    if template is None:
        return
    lacking = [name for name in dict.fromkeys(NAMED.findall(template)) if found.tokenizer.token_id(name) is None]
    if lacking:
        found.faults.append(f"the chat template writes {', '.join(lacking)}, which the tokenizer does not have")


def parts_of(found: Findings) -> dict[str, dict[str, Any]]:
    """Parameters, bytes and dtypes of each part of the model."""
    parts: dict[str, dict[str, Any]] = {}
    for name, one in found.tensors.items():
        part = parts.setdefault(name.split(".")[0], {"parameters": 0, "bytes": 0, "dtypes": []})
        part["parameters"] += one.num_bytes // one.dtype.itemsize
        part["bytes"] += one.num_bytes
        if dtype_name(one.dtype) not in part["dtypes"]:
            part["dtypes"].append(dtype_name(one.dtype))
    return parts


def kind_of(config: ModelConfig) -> str:
    """The model in one line."""
    backbone, experts = config.backbone, config.backbone.experts
    layers = (
        f"{backbone.encoder_layers} + {backbone.concept_layers} + {backbone.decoder_layers} layers of {backbone.width}"
    )
    inner = "dense" if experts.num_experts == 1 else f"{experts.num_experts} experts, {experts.top_k} chosen"
    chunk = "plain" if backbone.chunk is None else f"ConceptMoE, {backbone.chunk.compression:g} tokens per concept"
    head = "the head is the embedding" if config.tie_embeddings else "a head of its own"
    encoder = config.encoder["name"] if isinstance(config.encoder, dict) else config.encoder
    eyes = "text only" if encoder is None else f"pictures by {encoder}"
    return f"{chunk}: {layers}, {inner}; {head}; {eyes}"


def as_json(found: Findings) -> dict[str, Any]:
    names = found.tokenizer.special_names
    return {
        "folder": str(found.folder),
        "kind": kind_of(found.config),
        "parts": parts_of(found),
        "tensors": {
            name: {"shape": list(one.shape), "dtype": dtype_name(one.dtype), "file": one.file.name}
            for name, one in found.tensors.items()
        },
        "files": {
            name: {"bytes": found.sizes[name], "sha256": digest, "state": state}
            for name, (digest, state) in found.sums.items()
        },
        "tokens": found.tokenizer.vocab_size,
        "special_tokens": {
            token: {"name": name, "id": found.tokenizer.token_id(name)} for token, name in names.items()
        },
        "chat_template": found.tokenizer.chat_template is not None,
        "faults": found.faults,
    }


def as_text(found: Findings) -> str:
    """Tables: parts, tensors (like ones of the layers as one line), files, tokens."""
    parts = [
        (name, f"{part['parameters']:,}", f"{part['bytes'] / 2**20:,.1f}", ", ".join(part["dtypes"]))
        for name, part in parts_of(found).items()
    ]
    lines: dict[tuple[str, ...], int] = {}
    for name, one in found.tensors.items():
        line = (LAYER.sub("*", name), " x ".join(map(str, one.shape)), dtype_name(one.dtype))
        lines[line] = lines.get(line, 0) + 1
    tensors = [(line[0], str(count), *line[1:]) for line, count in lines.items()]
    files = [(name, f"{found.sizes[name]:,}", digest, state) for name, (digest, state) in found.sums.items()]
    special = [
        f"{token} {found.tokenizer.token_id(name)}" + ("" if token == name else f" ({name})")
        for token, name in found.tokenizer.special_names.items()
    ]
    return "\n".join(
        [
            kind_of(found.config),
            "",
            *aligned(("part", "parameters", "MiB", "dtypes"), parts),
            "",
            *aligned(("tensor", "count", "shape", "dtype"), tensors),
            "",
            *aligned(("file", "bytes", "SHA-256", "state"), files),
            "",
            f"tokens: {found.tokenizer.vocab_size}; special: {', '.join(special)}",
            f"chat template: {template_use(found.tokenizer)}",
        ]
    )
