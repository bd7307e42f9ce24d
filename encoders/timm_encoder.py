"""Any timm model that gives a feature grid, as a vision encoder.

In: pictures normalised by the model's own mean and std. Out: the last map of a convolutional or pyramid model,
or the patch tokens of a ViT (prefix tokens dropped, final norm applied), row by row. Head and later layers are cut off.
"""

import copy
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.image import ImageSpec
from encoders.fold import fold_batch_norms
from encoders.protocol import Features, encode_by_size, hash_weights
from encoders.weights import FILE_TYPES, PACKAGES, fill_weights, match_by_position, package_file, read_weights

# Without gradients on a CPU, small pieces stay in the cache: tf_efficientnet_lite0 at 128 px, 2 threads, batch norms
# folded, encodes 525 pictures/s in pieces of 16 and 325/s in one of 64.
PIECE_PX = 16 * 128 * 128


class TimmEncoder(nn.Module):
    """A timm model cut down to its feature map. Cheap to construct: no weights exist before `materialise()`."""

    def __init__(self, name: str, size_px: int | None = None, weights: str | None = None, layer: int = -1) -> None:
        """
        Args:
            name: timm's name, `vit_base_patch16_siglip_224` or with a tag, `NAME.webli`.
            size_px: side of the square picture; the model's own if not given.
            weights: nothing for random ones; `hub` for timm's pretrained ones (downloads); `package` for those that a
                package of the extra `[weights]` carries; or a .safetensors, .pt or .pth file.
            layer: which of timm's feature maps: -1 the last (with the final norm, if any), -2 the one before ...
        """
        super().__init__()
        import timm

        if weights == "package" and name not in PACKAGES:
            raise ValueError(
                f"no package is known to carry weights of {name!r}; "
                f"it may be {', '.join(PACKAGES)}. Or use weights: hub"
            )
        if weights not in (None, "hub", "package") and Path(str(weights)).suffix not in FILE_TYPES:
            raise ValueError(f"weights must be hub, package or a {', '.join(FILE_TYPES)} file, got {weights!r}")
        if not timm.is_model(name):
            near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
            raise ValueError(
                f"timm {timm.__version__} has no model {name!r}; "
                f"{'near: ' + ', '.join(near) if near else 'see timm.list_models()'}"
            )
        self.name, self.weights, self.layer = name, weights, layer
        config = timm.get_pretrained_cfg(name)
        assert config is not None
        settings = timm.data.resolve_data_config(pretrained_cfg=config.to_dict(), verbose=False)
        self.spec = ImageSpec(
            size_px=size_px or settings["input_size"][-1],
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        )
        size = self.spec.size_px
        self._options, self.model, (_, self.width, rows, columns) = self._first_that_fits()
        self._grids = {(size, size): (rows, columns)}

    def _first_that_fits(self) -> tuple[dict[str, Any], Any, tuple[int, ...]]:
        """Build on the meta device; ViTs take a free picture size by one option, window models by another.

        Returns:
            The options, the model, and the shape of its feature map.
        """
        size, faults = self.spec.size_px, []
        choices: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"img_size": size}, {})
        # Hiera and SAM 2 have no norm that fits their maps, and refuse.
        for norm, options in itertools.product((self.layer == -1, False), choices):
            self._norm = norm
            try:
                model = self._build("meta", options)
                return options, model, self.map_shape(model, size, size)
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                faults.append(f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__)
        raise ValueError(
            f"timm:{self.name} gives no feature grid for {size} x {size} pixels at layer {self.layer}: {faults[-1]}"
        )

    def _build(self, device: str, options: dict[str, Any], pretrained: bool = False) -> Any:
        import timm

        with torch.device(device):
            model: Any = timm.create_model(self.name, pretrained=pretrained, num_classes=0, **options)
        if not hasattr(model, "forward_intermediates"):
            raise ValueError("this timm model offers no forward_intermediates; a newer timm may")
        (self._index,) = model.prune_intermediate_layers([self.layer], prune_norm=not self._norm, prune_head=True)
        return model

    def _feature_map(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b w rows columns"]:
        (found,) = model.forward_intermediates(
            batch, indices=[self._index], norm=self._norm, output_fmt="NCHW", intermediates_only=True
        )
        return found

    def map_shape(self, model: Any, height: int, width: int) -> tuple[int, ...]:
        """Shape (1, width, rows, columns) of the feature map of one picture, by a run on the meta device: nothing is computed.

        Args:
            model: the timm model, its weights on the meta device.
        """
        with torch.no_grad():
            return tuple(self._feature_map(model.eval(), torch.empty(1, 3, height, width, device="meta")).shape)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of vectors; timm's own arithmetic, without weights."""
        if (height, width) not in self._grids:
            try:
                shape = self.map_shape(self._build("meta", self._options), height, width)
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(f"timm:{self.name} takes no picture of {height} x {width} pixels: {error}") from error
            self._grids[height, width] = (shape[2], shape[3])
        return self._grids[height, width]

    def materialise(self, load_weights: bool = True) -> "TimmEncoder":
        """Make the real weights on the CPU, random or loaded; `requires_grad` and the mode are kept.

        Args:
            load_weights: False if a checkpoint will overwrite them anyway: then nothing is read or downloaded.
        """
        weights = self.weights if load_weights else None
        try:
            model = self._build("cpu", self._options, pretrained=weights == "hub")
        except Exception as error:
            if weights != "hub":
                raise
            raise ValueError(
                f"timm could not get the weights of {self.name}: {str(error).splitlines()[0]}; "
                "check the network, or give weights: package or a file"
            ) from error
        if weights not in (None, "hub"):
            self._load(model, str(weights))
        trainable = {key: parameter.requires_grad for key, parameter in self.model.named_parameters()}
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[key])
        self.model = model.train(self.training)
        return self

    def _load(self, model: nn.Module, weights: str) -> None:
        import timm

        with torch.device("meta"):
            whole = timm.create_model(self.name, **self._options).state_dict()
        if weights == "package":
            state = match_by_position(read_weights(package_file(self.name)), whole)
        else:
            state = read_weights(Path(weights))
        fill_weights(
            model, state, optional=set(whole), origin=weights if weights != "package" else f"the package of {self.name}"
        )

    def weights_key(self) -> str:
        """Changes with anything that changes a feature: name, picture preparation, layer, any weight."""
        return hash_weights(self.model, self.name, self.spec, self.layer)

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Features:
        """Encode pictures of any sizes that the model takes; those of equal size run as one batch."""
        if next(self.parameters()).is_meta:
            raise ValueError(f"timm:{self.name} has no weights yet; call materialise() first")
        return encode_by_size(self, images, self._encode_batch)

    def _encode_batch(self, batch: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b w rows columns"]:
        # Pieces only where they change nothing: in training, a batch norm must see the whole batch.
        if self.training or torch.is_grad_enabled() or batch.device.type != "cpu":
            return self._feature_map(self.model, batch)
        # Channels last is 1.4 times as fast without gradients; with them, torch 2.15 on the CPU corrupts memory in the
        # backward pass of timm's fastvit_t8.
        batch = batch.contiguous(memory_format=torch.channels_last)
        pieces = batch.split(max(1, PIECE_PX // (batch.shape[2] * batch.shape[3])))
        return torch.cat([self._feature_map(self.model, piece) for piece in pieces])

    def folded(self) -> "TimmEncoder":
        """A copy for frozen use with batch norms folded into convolutions: equal up to rounding, and faster."""
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        size = self.spec.size_px
        example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(next(fast.parameters()))
        with torch.no_grad():
            fold_batch_norms(fast.model, lambda: fast.encode([example[0]]).vectors)
        return fast
