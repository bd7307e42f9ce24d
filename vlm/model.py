"""The whole model: pictures and text in, a vector for each token out. READ THIS FIRST.

    pictures -> encoder -> connector -+
                                      +-> interleave (n d) -> backbone (n d) -> head -> logits (n v)
    token ids -> embed ---------------+

A batch is one packed row of whole documents (see data/batch.py); there is no batch axis and no padding.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.batch import Batch
from data.image import ImageLayout, ImageSpec
from data.tokenizer import Chat, Tokenizer
from encoders.protocol import Features, from_name, portable_setting
from vlm.backbone import BackboneConfig, BackboneOutput, ConceptMoE, Documents, backbone_config
from vlm.connector import Connector, ConnectorConfig
from vlm.interleave import interleave
from vlm.weight_files import SHARD_BYTES, Size, load_weights, read_sizes, weight_files

# "timm:NAME", or a mapping with `name`, the encoder's settings, and how pictures are fitted.
EncoderSetting = str | dict[str, Any] | None
CachedFeatures = Callable[[Sequence[str]], Features]  # by feature keys
FITTING = ("fit", "max_pixels", "max_tiles", "background")  # of the encoder's ImageSpec; any encoder may be given them


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that makes a model except its weights."""

    tokenizer: str  # "demo", a tokenizer.json or its folder
    encoder: EncoderSetting
    connector: ConnectorConfig
    backbone: BackboneConfig
    tie_embeddings: bool = True  # the head is the embedding, transposed; false: a head of its own
    chat: Chat = "own"  # how conversations are written; "template": by the chat template beside the tokenizer


def build_encoder(setting: EncoderSetting) -> Any:
    """The encoder that a config names, without its weights where it can be had so; None for a text-only model."""
    if setting is None:
        return None
    if isinstance(setting, str):
        return from_name(setting)
    if "name" not in setting:
        raise ValueError(f"encoder is a mapping without `name`: {setting}; write encoder: {{name: timm:NAME, ...}}")
    encoder = from_name(**{key: value for key, value in setting.items() if key not in FITTING})
    if fitting := {key: value for key, value in setting.items() if key in FITTING}:
        _set_spec(encoder, _fitted(encoder.spec, fitting))
    return encoder


def _fitted(spec: ImageSpec, fitting: dict[str, Any]) -> ImageSpec:
    """The encoder's spec with what the config says of fitting pictures."""
    for name in ("max_pixels", "max_tiles"):
        if not isinstance(fitting.get(name, 1), int):
            raise ValueError(f"encoder.{name} must be a whole number, got {fitting[name]!r}")
    colour = fitting.get("background", spec.background)
    if not isinstance(colour, list | tuple) or len(colour) != 3 or not all(isinstance(part, int) for part in colour):
        raise ValueError(f"encoder.background must be three whole numbers such as [255, 255, 255], got {colour!r}")
    if fitting.get("fit", spec.fit) != spec.fit:  # what belongs to the encoder's own fit goes with it
        spec = replace(spec, fit="letterbox", max_pixels=None, multiple_px=None, max_tiles=None)
    try:
        return replace(spec, **{**fitting, "background": tuple(colour)})
    except ValueError as error:
        raise ValueError(f"encoder: {error}") from error


def _set_spec(encoder: Any, spec: ImageSpec) -> None:
    try:
        encoder.spec = spec
    except AttributeError:  # a property
        raise ValueError(
            f"{type(encoder).__name__}.spec cannot be set, so `fit` cannot be chosen in the config; "
            "set `self.spec` in its constructor, or leave fit, max_pixels, max_tiles and background out"
        ) from None


def image_layout(encoder: Any, connector: ConnectorConfig) -> ImageLayout | None:
    """How many slots a picture takes; known from settings alone, handed to the data module."""
    return None if encoder is None else ImageLayout.from_encoder(encoder, connector)


class VisionLanguageModel(nn.Module):
    """A vision encoder in front of a ConceptMoE language backbone.

    Args:
        is_empty: embedding, head and backbone get no memory yet, for one who puts weights in anyway.
    """

    def __init__(self, config: ModelConfig, is_empty: bool = False) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config.tokenizer, config.chat)
        encoder = build_encoder(config.encoder)
        self.layout = image_layout(encoder, config.connector)
        if self.layout is not None and encoder.spec != self.layout.spec:
            _set_spec(encoder, self.layout.spec)  # with the multiple of pixels that the connector asks for
        vocab_size, width = self.tokenizer.vocab_size, config.backbone.width
        place = torch.device("meta") if is_empty else nullcontext()
        with place:
            self.embed = nn.Embedding(vocab_size, width)
            nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.connector = None
        if encoder is not None:
            self.connector = Connector(config.connector, encoder.width, config.backbone.width)
            if hasattr(encoder, "materialise"):
                encoder.materialise()
        self.encoder = encoder
        with place:
            self.backbone = ConceptMoE(config.backbone)
            self.head = None if config.tie_embeddings else nn.Linear(width, vocab_size, bias=False)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=width**-0.5)
        # Plain function, not a module: features of a frozen encoder that were computed before (encoders/feature_cache.py).
        self.cached_features: CachedFeatures | None = None

    def encode_images(self, batch: Batch) -> Features:
        """Features of all crops of the batch, in slot order; from pixels, or from the cache where the batch has none."""
        assert self.encoder is not None
        device = self.embed.weight.device
        fresh = [index for index, image in enumerate(batch.images) if image is not None]
        cached = [index for index, image in enumerate(batch.images) if image is None]
        parts: list[Tensor] = [torch.empty(0)] * len(batch.images)
        grids: list[Int[Tensor, 2]] = [torch.empty(0, dtype=torch.long)] * len(batch.images)
        if fresh:
            encoded = self._encode([batch.images[index] for index in fresh])
            for index, vectors, grid in zip(fresh, encoded.split(), encoded.grids, strict=True):
                parts[index], grids[index] = vectors, grid
        if cached:
            if self.cached_features is None:
                raise ValueError(
                    f"the batch has no pixels for picture {batch.image_keys[cached[0]]} and the model has no feature cache"
                )
            known = self.cached_features([batch.image_keys[index] for index in cached])
            for index, vectors, grid in zip(cached, known.split(), known.grids, strict=True):
                parts[index], grids[index] = vectors.to(device, non_blocking=True), grid
        return Features(vectors=torch.cat(parts), grids=torch.stack(grids))

    def _encode(self, images: Sequence[Any]) -> Features:
        spec = self.encoder.spec
        device = self.embed.weight.device
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(trains):
            return self.encoder.encode([spec.normalise(image.to(device)) for image in images])

    def embed_batch(self, batch: Batch) -> Float[Tensor, "n d"]:
        """Text embeddings with the image vectors in their slots.

        Raises:
            ValueError: the batch has pictures and the model no encoder, or slots and vectors differ in number.
        """
        text = self.embed(batch.ids)
        if self.encoder is None or self.connector is None:
            if batch.num_image_slots:
                raise ValueError(
                    f"the batch has {len(batch.images)} pictures but this model has no encoder; set `encoder` in the config"
                )
            return text
        if batch.images:
            return interleave(text, self.connector(self.encode_images(batch)), batch.is_image, batch.num_image_slots)
        if self.training and torch.is_grad_enabled():
            # Every rank must give a gradient to every trained parameter, or DDP waits for ever: a blank picture times zero.
            return text + 0.0 * self.connector(self._blank_features()).sum().to(text.dtype)
        return text

    def _blank_features(self) -> Features:
        assert self.layout is not None
        crop = self.layout.plan(1, 1).crops[0]  # the smallest there is
        if any(p.requires_grad for p in self.encoder.parameters()):
            return self._encode([torch.zeros(3, crop.height, crop.width, dtype=torch.uint8)])
        merge = self.config.connector.merge
        vectors = self.embed.weight.new_zeros(merge**2, self.encoder.width)
        return Features(vectors=vectors, grids=torch.tensor([[merge, merge]]))

    def forward(self, batch: Batch) -> BackboneOutput:
        """Hidden vectors (n d) of the batch, with the chunks and the unweighted auxiliary losses."""
        documents = Documents.from_lengths(batch.lengths)
        return self.backbone(self.embed_batch(batch), documents, positions=batch.positions, is_image=batch.is_image)

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        """Rows of the head: the embedding's, unless the head is its own."""
        return self.embed.weight if self.head is None else self.head.weight

    def logits(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Next-token logits in float32 (float64 for float64 weights)."""
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = torch.promote_types(self.head_weight.dtype, torch.float32)
            return hidden.to(dtype) @ self.head_weight.to(dtype).T

    def save_pretrained(self, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Write weights (in their dtypes), `config.yaml`, `tokenizer.json` and `SHA256SUMS`, as a whole or not at all.

        Args:
            shard_bytes: weights go into several files where one would be larger.
        """
        from vlm.model_folder import write_model_folder

        weights = self.state_dict()
        sizes = {name: Size(tuple(value.shape), value.dtype) for name, value in weights.items()}
        write_model_folder(
            Path(folder), self.portable_config, self.tokenizer, sizes, lambda name: [weights[name]], shard_bytes
        )

    @property
    def portable_config(self) -> ModelConfig:
        """The config to save: one that needs no file beside the model's own."""
        if self.encoder is None or self.config.encoder is None:
            return self.config
        return replace(self.config, encoder=portable_setting(self.encoder, self.config.encoder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "VisionLanguageModel":
        """A saved model, in evaluation mode, on the CPU, its tensors of the dtypes in which they were saved.

        Raises:
            ValueError: a file of the folder is missing or changed, or is of another model than the config.
        """
        from vlm.model_folder import check_sums, check_tokenizer, check_weights, read_model_config

        folder = Path(folder)
        config = read_model_config(folder)
        files = weight_files(folder)
        stored = read_sizes(files)
        model = cls(config, is_empty=True)
        check_tokenizer(model.tokenizer, stored, folder)
        check_weights(model, stored, files[0] if len(files) == 1 else folder)
        check_sums(folder)
        load_weights(model, stored)
        return model.eval()


def model_config(settings: dict[str, Any]) -> ModelConfig:
    """A ModelConfig from plain mappings, as they stand in a model folder's config.yaml."""
    tie_embeddings = settings.get("tie_embeddings", True)  # folders of earlier versions do not say
    if not isinstance(tie_embeddings, bool):
        raise ValueError(f"tie_embeddings must be true or false, got {tie_embeddings!r}")
    return ModelConfig(
        tokenizer=settings["tokenizer"],
        encoder=settings["encoder"],
        connector=ConnectorConfig(**settings["connector"]),
        backbone=backbone_config(settings["backbone"]),
        tie_embeddings=tie_embeddings,
        chat=settings.get("chat", "own"),
    )
