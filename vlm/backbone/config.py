"""Sizes of the backbone, shared by its blocks, the backbone itself and its costs."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args

from vlm.backbone.attention import AttentionBias, QueryKeyNorm
from vlm.backbone.block import BlockConfig
from vlm.backbone.chunk import ChunkConfig
from vlm.backbone.experts import ExpertsConfig
from vlm.backbone.rope import RopeScaling

Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Concept layers that run more than once, with the same weights, and keys and values of each pass's own.

    The paper does not say whether its loop repeats a block of layers or each layer by itself: here it is the block.
    """

    first: int  # index of the loop's first layer among the concept layers
    layers: int  # how many layers it has
    passes: int = 2  # how often they run

    def __post_init__(self) -> None:
        if self.first < 0 or self.layers < 1:
            raise ValueError(
                f"a loop begins at a layer and has one or more, got first={self.first}, layers={self.layers}"
            )
        if self.passes < 2:
            raise ValueError(f"a loop of passes={self.passes} is none; give 2 or more, or loop: null")


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """What the concept layers have of their own. None: as in the token layers."""

    width: int | None = None  # another width puts a projector before and one behind (the paper's strategy 3)
    num_heads: int | None = None
    num_kv_heads: int | None = None
    experts: ExpertsConfig | None = None
    loop: LoopConfig | None = None  # None: every layer runs once


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Sizes of the backbone. With `chunk` None all layers run on tokens: a plain MoE; with one expert it is dense."""

    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    encoder_layers: int
    concept_layers: int
    decoder_layers: int
    experts: ExpertsConfig
    chunk: ChunkConfig | None
    concept: ConceptConfig = field(default_factory=ConceptConfig)
    qk_norm: QueryKeyNorm = "head"  # queries and keys normalised by head (Qwen3), over all heads (OLMoE), or null
    attention_bias: AttentionBias = None  # biases on q, k, v (Qwen2), or on all four projections; null: none
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None  # rotary positions stretched; null: as they are
    norm_eps: float = 1e-6
    init_std: float = 0.02
    max_positions: int = 32_768  # generation refuses what would go beyond; rotary positions themselves have no end

    def __post_init__(self) -> None:
        counts = (self.encoder_layers, self.concept_layers, self.decoder_layers)
        if min(counts) < 0 or sum(counts) == 0:
            raise ValueError(
                f"layer counts must not be negative nor all zero, got encoder, concept, decoder = {counts}"
            )
        if self.max_positions < 1:
            raise ValueError(f"max_positions must be at least 1, got {self.max_positions}")
        if self.chunk is not None and self.concept_layers == 0:
            raise ValueError("concept_layers is 0, so chunking would save nothing; add layers or use chunk: null")
        if self.chunk is None and self.concept_width != self.width:
            raise ValueError(
                f"concept.width is {self.concept_width} and width {self.width}, but without a chunker no projector lies "
                "between them; set concept.width: null, or a chunk"
            )
        own = self.concept.experts
        if own is not None and (own.balance_weight, own.z_weight) != (
            self.experts.balance_weight,
            self.experts.z_weight,
        ):
            raise ValueError(
                "balance_weight and z_weight count for all layers, but concept.experts has "
                f"{own.balance_weight} and {own.z_weight} and experts {self.experts.balance_weight} and "
                f"{self.experts.z_weight}; give both the same"
            )
        loop = self.concept.loop
        if loop is not None and loop.first + loop.layers > self.concept_layers:
            raise ValueError(
                f"the loop covers concept layers {loop.first} to {loop.first + loop.layers - 1} but "
                f"concept_layers is {self.concept_layers}"
            )
        for blocks in ("token_block", "concept_block"):
            getattr(self, blocks)  # refuses sizes that cannot be

    @property
    def token_block(self) -> BlockConfig:
        """A block of the encoder or the decoder."""
        return BlockConfig(
            width=self.width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_width=self.head_width,
            experts=self.experts,
            qk_norm=self.qk_norm,
            attention_bias=self.attention_bias,
            norm_eps=self.norm_eps,
        )

    @property
    def concept_block(self) -> BlockConfig:
        """A concept layer's block."""
        own = self.concept
        return BlockConfig(
            width=self.concept_width,
            num_heads=self.num_heads if own.num_heads is None else own.num_heads,
            num_kv_heads=self.num_kv_heads if own.num_kv_heads is None else own.num_kv_heads,
            head_width=self.head_width,
            experts=self.experts if own.experts is None else own.experts,
            qk_norm=self.qk_norm,
            attention_bias=self.attention_bias,
            norm_eps=self.norm_eps,
        )

    @property
    def concept_width(self) -> int:
        return self.width if self.concept.width is None else self.concept.width

    @property
    def concept_order(self) -> tuple[int, ...]:
        """Which concept layer runs when; one entry for each pass, and so for each pair of stored keys and values."""
        layers, loop = list(range(self.concept_layers)), self.concept.loop
        if loop is None:
            return tuple(layers)
        end = loop.first + loop.layers
        return (*layers[: loop.first], *layers[loop.first : end] * loop.passes, *layers[end:])

    @property
    def num_layers(self) -> int:
        """Layers with weights of their own."""
        return self.encoder_layers + self.concept_layers + self.decoder_layers


def backbone_config(settings: Mapping[str, Any]) -> BackboneConfig:
    """A BackboneConfig from plain mappings, as `dataclasses.asdict` gives them and a YAML file holds them.

    Raises:
        ValueError: names a setting that is unknown, missing, or cannot be.
    """
    return _from_mapping(BackboneConfig, settings, "backbone")


def _from_mapping(kind: type[Config], settings: Any, name: str) -> Config:
    """A config dataclass, the configs inside it included; `name` is where its settings stand."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"{name} must be a mapping of settings, got {settings!r}")
    known = {one.name: one for one in fields(kind)}
    if unknown := [str(key) for key in settings if key not in known]:
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; known: {', '.join(known)}")
    required = [key for key, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if missing := [key for key in required if key not in settings]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    given = dict(settings)
    for key, value in settings.items():
        types = get_args(known[key].type) or (known[key].type,)
        inner = [one for one in types if isinstance(one, type) and is_dataclass(one)]
        if inner and not (value is None and NoneType in types):
            given[key] = _from_mapping(inner[0], value, f"{name}.{key}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"{name} has a value of a wrong type: {error}") from error
