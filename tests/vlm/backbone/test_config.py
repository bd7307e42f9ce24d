"""The backbone's config from plain mappings. Values of wrong types: tests/vlm/test_model_folder.py, where no check of types is on."""

from dataclasses import asdict
from typing import Any

import pytest

from vlm.backbone import BackboneConfig, ChunkConfig, ConceptConfig, ExpertsConfig, LoopConfig, backbone_config

EXPERTS = ExpertsConfig(num_experts=4, top_k=2, hidden=8)
CONFIG = BackboneConfig(
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=EXPERTS,
    chunk=ChunkConfig(compression=2.0),
    concept=ConceptConfig(experts=EXPERTS, loop=LoopConfig(first=0, layers=1)),
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The settings with one of them set, `chunk.merge`, or dropped."""
    settings = asdict(CONFIG)
    *groups, name = path.split(".")
    inner = settings
    for group in groups:
        inner = inner[group]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return settings


@pytest.mark.parametrize("nulled", [(), ("chunk",), ("concept", "loop"), ("concept", "experts")])
def test_settings_and_their_config_are_one(nulled: tuple[str, ...]) -> None:
    settings: Any = asdict(CONFIG)
    if nulled:
        *groups, name = nulled
        (settings[groups[0]] if groups else settings)[name] = None
    assert asdict(backbone_config(settings)) == settings


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("wdith", 3, "backbone has no setting wdith; known: width, num_heads"),
        ("chunk.mrege", "sum", "backbone.chunk has no setting mrege; known: compression, "),
        ("chunk.sigma", 0.1, "sigma must be positive, and is an alternative to tau"),
        ("concept.loop.first", 2, "the loop covers concept layers 2 to 2 but concept_layers is 2"),
        ("concept.loop.start", 0, "backbone.concept.loop has no setting start"),
        ("concept.experts.number", 4, "backbone.concept.experts has no setting number"),
        ("width", None, "backbone lacks width"),
        ("experts.top_k", None, "backbone.experts lacks top_k"),
        ("experts", 3, "backbone.experts must be a mapping of settings, got 3"),
        ("chunk", ["sum"], r"backbone.chunk must be a mapping of settings, got \['sum'\]"),
    ],
)
def test_settings_that_cannot_be_are_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        backbone_config(changed(path, value))
    assert "\n" not in str(error.value)
