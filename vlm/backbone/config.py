"""Sizes of the backbone, shared by its blocks, the backbone itself and its costs."""

from dataclasses import dataclass

from vlm.backbone.chunk import ChunkConfig
from vlm.backbone.experts import ExpertsConfig


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
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "num_kv_heads", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and {self.num_heads}: "
                "each key head serves the same number of query heads"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width must be even, as rotary positions turn pairs, got {self.head_width}")
        counts = (self.encoder_layers, self.concept_layers, self.decoder_layers)
        if min(counts) < 0 or sum(counts) == 0:
            raise ValueError(
                f"layer counts must not be negative nor all zero, got encoder, concept, decoder = {counts}"
            )
        if self.chunk is not None and self.concept_layers == 0:
            raise ValueError("concept_layers is 0, so chunking would save nothing; add layers or use chunk: null")

    @property
    def num_layers(self) -> int:
        return self.encoder_layers + self.concept_layers + self.decoder_layers
