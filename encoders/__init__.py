"""Vision encoders: pictures -> packed vectors with their grids. Names resolve on first use: importing is cheap."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoders.check import check_encoder
    from encoders.feature_cache import FeatureCache, fill
    from encoders.fused_encoder import FusedEncoder
    from encoders.huggingface_encoder import HuggingFaceEncoder
    from encoders.open_clip_encoder import OpenClipEncoder
    from encoders.patch_encoder import PatchEncoder
    from encoders.protocol import Features, VisionEncoder, encode_by_size, from_name
    from encoders.timm_encoder import TimmEncoder

__all__ = [
    "FeatureCache",
    "Features",
    "FusedEncoder",
    "HuggingFaceEncoder",
    "OpenClipEncoder",
    "PatchEncoder",
    "TimmEncoder",
    "VisionEncoder",
    "check_encoder",
    "encode_by_size",
    "fill",
    "from_name",
]

HOME = {
    "check_encoder": "check",
    "FeatureCache": "feature_cache",
    "fill": "feature_cache",
    "FusedEncoder": "fused_encoder",
    "HuggingFaceEncoder": "huggingface_encoder",
    "OpenClipEncoder": "open_clip_encoder",
    "PatchEncoder": "patch_encoder",
    "TimmEncoder": "timm_encoder",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"encoders has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"encoders.{HOME.get(name, 'protocol')}"), name)
