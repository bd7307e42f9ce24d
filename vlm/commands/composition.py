"""What the top-level groups of a run's config come to: the model's config, and how many slots a picture takes.

In: groups as the parser holds them. Out: a `ModelConfig`, an `ImageLayout`.
"""

import json
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from jsonargparse import Namespace

from data.image import ImageLayout
from data.tokenizer import Chat
from vlm.backbone import BackboneConfig
from vlm.connector import ConnectorConfig
from vlm.model import EncoderSetting, ModelConfig, build_encoder, image_layout, model_config


def compose_model(
    tokenizer: str, encoder: EncoderSetting, connector: Any, backbone: Any, tie_embeddings: bool, chat: Chat
) -> ModelConfig:
    """The model's config from the top-level groups, as the parser holds them."""
    settings = {
        "tokenizer": tokenizer,
        "encoder": plain(encoder),
        "connector": plain(connector),
        "backbone": plain(backbone),
        "tie_embeddings": tie_embeddings,
        "chat": chat,
    }
    required = [field.name for field in fields(BackboneConfig) if field.default is MISSING and field.name != "chunk"]
    if missing := [name for name in required if settings["backbone"].get(name) is None]:
        raise ValueError(f"the config's `backbone` lacks {', '.join(missing)}; see configs/demo.yaml for an example")
    return model_config(settings)


def compose_layout(encoder: EncoderSetting, connector: Any) -> ImageLayout | None:
    """How many slots a picture takes, from the top-level groups."""
    return _layout_of(json.dumps(plain(encoder), sort_keys=True), ConnectorConfig(**plain(connector)))


@cache
def _layout_of(encoder: str, connector: ConnectorConfig) -> ImageLayout | None:
    # The parser computes its links more than once, and a tower takes half a second to build, even without weights.
    return image_layout(build_encoder(json.loads(encoder)), connector)


def plain(value: Any) -> Any:
    """The parser's namespaces as mappings; it writes an optional dataclass as a class path with arguments."""
    if isinstance(value, Namespace):
        if "init_args" in value:
            return plain(value.init_args)
        return {key: plain(part) for key, part in vars(value).items()}
    return value
