"""What the pictures of one record are to the model, each encoded by itself."""

import torch
from torch import Tensor

from data.image import prepare_crops
from vlm.leak_check.records import Record
from vlm.model import VisionLanguageModel


def picture_vectors(model: VisionLanguageModel, record: Record) -> Tensor:
    """The vectors of a record's pictures, from the stored bytes, crop by crop."""
    assert model.layout is not None
    assert model.connector is not None
    assert model.encoder is not None
    spec, like = model.layout.spec, model.embed.weight
    with torch.no_grad():
        crops = [
            crop for picture in record.row.pictures for crop in prepare_crops(picture.data, spec, picture.augmentation)
        ]
        features = [model.encoder.encode([spec.normalise(crop.to(like.device)).to(like)]) for crop in crops]
        return torch.cat([model.connector(one) for one in features])
