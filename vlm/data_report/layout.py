"""The tokenizer and the layout of pictures that a run would have, from its config or from an encoder's name."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.image_layout import ImageLayout
    from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reading:
    """How a run reads its records."""

    tokenizer: "Tokenizer"
    layout: "ImageLayout | None"
    row_tokens: int | None  # where a config says it
    tokenizer_name: str
    encoder_name: str | None


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """For whom tokens are counted."""
    group = parser.add_argument_group("tokens")
    group.add_argument(
        "--tokenizer", metavar="FOLDER", help="a tokenizer.json, its folder, or demo (default: the config's, else demo)"
    )
    group.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="of a run, for its tokenizer, encoder, connector and row_tokens; may be repeated for overlays",
    )
    group.add_argument(
        "--encoder",
        metavar="NAME",
        help="timm:NAME, open_clip:NAME, hf:FOLDER or the path of a class: the slots of pictures are counted",
    )


def read_reading(args: argparse.Namespace) -> Reading:
    """What the options say.

    Raises:
        ValueError: a tokenizer, config or encoder that cannot be had.
    """
    from data.tokenizer import Tokenizer

    settings = run_settings(args.config)
    name = args.tokenizer or settings.get("tokenizer") or "demo"
    encoder = args.encoder or settings.get("encoder")
    row_tokens = (settings.get("data") or {}).get("row_tokens")
    label = encoder.get("name") if isinstance(encoder, dict) else encoder
    return Reading(Tokenizer(name), _layout(encoder, settings.get("connector")), row_tokens, str(name), label)


def run_settings(configs: list[str]) -> dict[str, Any]:
    """The settings of a run's configs, later ones over earlier ones; groups that name a file are read."""
    if not configs:
        return {}
    from vlm.commands.configs import find_config, require_settings
    from vlm.commands.pretrained import pretrained_backbones, with_pretrained

    found = [(Path(path), require_settings(Path(path))) for path in map(find_config, configs)]
    backbones = pretrained_backbones(found)
    settings: dict[str, Any] = {}
    for path, own in found:
        own = with_pretrained(own, backbones)
        for group in ("connector", "data"):
            if isinstance(own.get(group), str):
                beside = path.parent / own[group]
                own = {**own, group: require_settings(beside if beside.is_file() else Path(find_config(own[group])))}
        settings = _overlaid(settings, own)
    return settings


def _overlaid(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _overlaid(merged[name], value) if both else value
    return merged


def _layout(encoder: Any, connector: Any) -> "ImageLayout | None":
    if encoder is None:
        return None
    from vlm.connector import ConnectorConfig
    from vlm.model import build_encoder, image_layout

    try:
        config = ConnectorConfig(**(connector or {}))
    except TypeError as error:
        raise ValueError(f"connector: {error}; see vlm fit --help for its settings") from None
    return image_layout(build_encoder(encoder), config)
