"""Put image vectors into their slots among the text.

In: token embeddings (n d), image vectors (t d). Out: one sequence (n d). Data decided where the slots are; this only fills them.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def interleave(
    text: Float[Tensor, "n d"], image: Float[Tensor, "t d"], is_image: Bool[Tensor, " n"], num_slots: int
) -> Float[Tensor, "n d"]:
    """Place image vectors in their slots, in reading order.

    Args:
        text: token embeddings; those under a slot are placeholders and are discarded.
        image: projected features, pictures in the order in which their slots appear.
        is_image: True where an image vector belongs.
        num_slots: how many of those there are, counted on the CPU (counting here would wait for the GPU).

    Raises:
        ValueError: the slots and the image vectors differ in number.
    """
    if num_slots != image.shape[0]:
        raise ValueError(
            f"the batch has {num_slots} image slots but the encoder and connector gave {image.shape[0]} vectors; "
            "does the data use the ImageLayout of this encoder and connector?"
        )
    if num_slots == 0:
        return text
    # Not masked_scatter: its backward counts the mask, and the host would wait for the device.
    slots = torch.nonzero_static(is_image, size=num_slots).squeeze(1)
    return text.index_copy(0, slots, image.to(text.dtype))
