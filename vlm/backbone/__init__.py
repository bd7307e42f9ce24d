"""The backbone: ConceptMoE, a map from packed vectors to packed vectors. Read concept_moe.py first."""

from vlm.backbone.cache import Cache
from vlm.backbone.chunk import ChunkConfig, Chunks, ratio_loss
from vlm.backbone.concept_moe import BackboneOutput, ConceptMoE
from vlm.backbone.config import BackboneConfig
from vlm.backbone.controller import RatioController
from vlm.backbone.documents import Documents
from vlm.backbone.experts import ExpertsConfig

__all__ = [
    "BackboneConfig",
    "BackboneOutput",
    "Cache",
    "ChunkConfig",
    "Chunks",
    "ConceptMoE",
    "Documents",
    "ExpertsConfig",
    "RatioController",
    "ratio_loss",
]
