"""The check of an encoder, and the probes beyond it: a sound one passes, each fault is named."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from data.image import ImageSpec
from encoders.check import check_encoder
from encoders.patch_encoder import PatchEncoder
from encoders.probes import Examination, examine_encoder
from encoders.protocol import Features


def test_the_template_passes_the_check() -> None:
    check_encoder(PatchEncoder())


class Wrong(PatchEncoder):
    """A sound encoder with one fault, applied to its features."""

    def __init__(self, fault: Callable[["Wrong", Sequence[Tensor], Features], object]) -> None:
        super().__init__(size_px=32, patch_px=16, width=8)
        self.fault = fault

    def encode(self, images: Sequence[Tensor]) -> Features:
        return self.fault(self, images, super().encode(images))  # type: ignore[return-value]


def sees_others(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    return Features(features.vectors - features.vectors.mean(0), features.grids)


def changes_input(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    for image in images:
        image.zero_()
    return features


def extra_token(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    with_token = [torch.cat([part[:1], part]) for part in features.split()]
    return Features(torch.cat(with_token) if with_token else features.vectors, features.grids)


def counts_others(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    return features if len(images) != 1 else Features(features.vectors[1:], features.grids)


def random_noise(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    return Features(features.vectors + torch.randn_like(features.vectors), features.grids)


def fails_on_none(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    return features if images else Features(torch.zeros(0, 1), features.grids)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda e, i, f: Features(f.vectors, f.grids + 1), "but grid\\(32, 32\\) says \\(2, 2\\) each"),
        (lambda e, i, f: Features(f.vectors[1:], f.grids), "are class or register tokens still in it"),
        (extra_token, "1 too many for each picture; are class or register tokens still in it"),
        (lambda e, i, f: Features(f.vectors[:, 1:], f.grids), "needed \\(12, 8\\)"),
        (lambda e, i, f: Features(f.vectors * float("nan"), f.grids), "not all finite"),
        (lambda e, i, f: Features(f.vectors * 0, f.grids), "does it use its input"),
        (lambda e, i, f: Features(f.vectors.flip(0), f.grids), "is their order changed"),
        (sees_others, "do pictures see each other"),
        (changes_input, "changed its input"),
        (random_noise, "is there randomness"),
        (counts_others, "the number must depend on the picture's size only"),
        (fails_on_none, "a batch may hold no picture"),
        (lambda e, i, f: 1 / 0, "encode failed on 3 pictures of 32 x 32: division by zero"),
    ],
)
def test_a_wrong_encoder_is_refused_with_its_fault_named(fault: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_encoder(Wrong(fault))


def test_the_check_leaves_the_mode_as_it_was() -> None:
    encoder = PatchEncoder()
    check_encoder(encoder.train())
    assert encoder.training


@pytest.fixture(scope="module")
def sound() -> Examination:
    return examine_encoder(PatchEncoder(size_px=32, patch_px=16, width=8), lambda: PatchEncoder(32, 16, 8))


def found(examination: Examination, probe: str) -> tuple[str, str]:
    (finding,) = (finding for finding in examination.findings if finding.probe == probe)
    return finding.state, finding.text


def test_the_template_passes_every_probe(sound: Examination) -> None:
    assert {finding.probe: finding.state for finding in sound.findings} == dict.fromkeys(
        [
            *("grid", "prefix tokens", "width", "numbers", "repeatable", "input", "no picture"),
            *("preparation", "order", "sizes", "autocast", "bf16 weights", "state", "gradients"),
        ],
        "ok",
    )


def test_the_figures_are_those_of_one_linear_map(sound: Examination) -> None:
    weights, bias, patches = 3 * 16 * 16 * 8, 8, 4
    assert (sound.parameters, sound.trainable) == (weights + bias, weights + bias)
    assert sound.flops == 2 * weights * patches
    # The backward pass of a convolution needs its input; the weights are there anyway.
    assert sound.stored_bytes == 3 * 32 * 32 * 4
    assert (sound.size_px, sound.grid, sound.width) == (32, (2, 2), 8)


def test_sizes_that_an_encoder_takes_are_told(sound: Examination) -> None:
    assert found(sound, "sizes") == ("ok", "takes 16 x 16, 32 x 48, 64 x 64")


class OneSize(PatchEncoder):
    """Refuses all sizes but its own."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if (height, width) != (self.spec.size_px, self.spec.size_px):
            raise ValueError("another size")
        return super().grid(height, width)


def test_a_fixed_size_is_a_note_and_no_fault() -> None:
    examination = examine_encoder(OneSize(size_px=32))
    assert found(examination, "sizes") == ("note", "only 32 x 32; it refuses 16 x 16, 32 x 48, 64 x 64")
    assert examination.faults == []


def test_a_frozen_encoder_is_a_note_and_no_fault() -> None:
    examination = examine_encoder(PatchEncoder(size_px=32).requires_grad_(False))
    assert found(examination, "gradients") == ("note", "frozen: no parameter learns; the pictures get a gradient")
    assert (examination.faults, examination.trainable) == ([], 0)


class DeadParameter(PatchEncoder):
    def __init__(self) -> None:
        super().__init__(size_px=32)
        self.spare = nn.Parameter(torch.zeros(3))


class StartsAtZero(PatchEncoder):
    def __init__(self) -> None:
        super().__init__(size_px=32)
        self.gate = nn.Parameter(torch.zeros(()))
        self.branch = nn.Linear(self.width, self.width)

    def encode(self, images: Sequence[Tensor]) -> Features:
        features = super().encode(images)
        return Features(features.vectors + self.gate * self.branch(features.vectors), features.grids)


class Hidden(PatchEncoder):
    """Needs a tensor that its state does not hold."""

    def __init__(self) -> None:
        super().__init__(size_px=32)
        self.scale = [torch.rand(1) + 0.5]

    def encode(self, images: Sequence[Tensor]) -> Features:
        features = super().encode(images)
        return Features(features.vectors * self.scale[0].to(features.vectors), features.grids)


class OneDtype(PatchEncoder):
    def encode(self, images: Sequence[Tensor]) -> Features:
        features = super().encode(images)
        return Features(features.vectors.float(), features.grids)


class TellsAnySize(PatchEncoder):
    def encode(self, images: Sequence[Tensor]) -> Features:
        if any(image.shape != (3, self.spec.size_px, self.spec.size_px) for image in images):
            raise RuntimeError("positions do not fit")
        return super().encode(images)


class Overflows(PatchEncoder):
    """Sums in whatever precision there is."""

    def encode(self, images: Sequence[Tensor]) -> Features:
        features = super().encode(images)
        return Features((features.vectors + 1000) - 1000, features.grids)


class InPlace(PatchEncoder):
    """Changes what its backward pass needs."""

    def encode(self, images: Sequence[Tensor]) -> Features:
        features = super().encode(images)
        vectors = features.vectors.exp()
        square = vectors * vectors
        vectors += 1
        return Features(square, features.grids)


def prepared(mean: float, std: float) -> PatchEncoder:
    encoder = PatchEncoder(size_px=32)
    encoder.spec = ImageSpec(size_px=32, mean=(mean,) * 3, std=(std,) * 3)
    return encoder


def transposes(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    grids = features.grids.tolist()
    parts = [
        part.view(*grid, -1).transpose(0, 1).flatten(0, 1) for part, grid in zip(features.split(), grids, strict=True)
    ]
    return Features(torch.cat(parts) if parts else features.vectors, features.grids)


def detaches(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    return Features(features.vectors.detach(), features.grids)


def explodes_in_training(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    return Features(features.vectors / (0.0 if encoder.training else 1.0), features.grids)


def fails_in_training(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
    assert not encoder.training, "only for evaluation"
    return features


@pytest.mark.parametrize(
    ("make", "probe", "message"),
    [
        (lambda: prepared(123.7, 58.4), "preparation", "divide those of values up to 255 by 255"),
        (lambda: prepared(0.5, 0.002), "preparation", "divided by 255 twice"),
        (lambda: Wrong(transposes), "order", "vectors must run row by row"),
        (TellsAnySize, "sizes", "failed on 2 pictures of 32 x 32 and 64 x 64: positions do not fit"),
        (Overflows, "autocast, bf16 weights", "keep norms and positions in float32"),
        (OneDtype, "bf16 weights", "gave torch.float32 with weights and pictures in bf16"),
        (Hidden, "state", "a checkpoint would lose it: register it"),
        (DeadParameter, "gradients", r"1 parameters of DeadParameter get no gradient (spare)"),
        (InPlace, "gradients", "does encode work in place"),
        (lambda: Wrong(detaches), "gradients", "is there a no_grad or a detach in it"),
        (lambda: Wrong(explodes_in_training), "gradients", "not finite in training mode, though not in eval()"),
        (lambda: Wrong(fails_in_training), "gradients", "in training mode Wrong.encode failed on 2 pictures"),
    ],
)
def test_a_fault_beyond_the_check_is_found_by_its_probe(
    make: Callable[[], nn.Module], probe: str, message: str
) -> None:
    examination = examine_encoder(make(), make)
    assert ", ".join(fault.probe for fault in examination.faults) == probe
    assert message in examination.faults[0].text


def test_layers_that_start_at_zero_are_a_note() -> None:
    state, text = found(examine_encoder(StartsAtZero(), StartsAtZero), "gradients")
    assert state == "note"
    assert text.startswith("2 of 5 parameters get zero (branch.weight, branch.bias)")


def test_after_a_fault_of_the_check_no_later_probe_is_run() -> None:
    examination = examine_encoder(Wrong(random_noise))
    assert [finding.probe for finding in examination.findings] == [
        *("grid", "prefix tokens", "width", "numbers", "repeatable")
    ]
    assert examination.faults[0].text.endswith("is there randomness (dropout) left in eval()?")


def test_an_encoder_that_fails_at_once_is_described_all_the_same() -> None:
    def fails(encoder: Wrong, images: Sequence[Tensor], features: Features) -> Features:
        raise RuntimeError("no kernel")

    examination = examine_encoder(Wrong(fails))
    assert found(examination, "encode") == (
        "failed",
        "Wrong.encode failed on 3 pictures of 32 x 32: no kernel",
    )
    assert (examination.grid, examination.flops) == (None, None)


class Normed(PatchEncoder):
    """Counts in training, so that its buffers change."""

    def __init__(self) -> None:
        super().__init__(size_px=32)
        self.project = nn.Sequential(nn.Conv2d(3, self.width, 16, stride=16), nn.BatchNorm2d(self.width))  # type: ignore[assignment]


def test_an_examination_leaves_no_trace() -> None:
    encoder = Normed().train()
    encoder.project[1].eval()  # type: ignore[index]
    for parameter in encoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [part.training for part in encoder.modules()]
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert examine_encoder(encoder, Normed).faults == []
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(bool((parameter.grad == 1).all()) for parameter in encoder.parameters() if parameter.grad is not None)
    assert [part.training for part in encoder.modules()] == modes
