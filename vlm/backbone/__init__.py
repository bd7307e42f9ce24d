"""The backbone: ConceptMoE, a map from packed vectors to packed vectors. Read concept_moe.py first."""

from vlm.backbone.cache import Cache
from vlm.backbone.chunk import ChunkConfig, Chunks
from vlm.backbone.concept_moe import BackboneOutput, ConceptMoE
from vlm.backbone.config import BackboneConfig, ConceptConfig, LoopConfig, backbone_config
from vlm.backbone.controller import RatioController
from vlm.backbone.documents import Documents
from vlm.backbone.experts import ExpertsConfig
from vlm.backbone.ratio import ratio_loss
from vlm.backbone.rope import RopeScaling

__all__ = [
    "BackboneConfig",
    "BackboneOutput",
    "Cache",
    "ChunkConfig",
    "Chunks",
    "ConceptConfig",
    "ConceptMoE",
    "Documents",
    "ExpertsConfig",
    "LoopConfig",
    "RatioController",
    "RopeScaling",
    "backbone_config",
    "ratio_loss",
]
