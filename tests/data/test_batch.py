import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batch import Batch, collate
from data.image import ImageLayout
from data.sample import BadRecord, Part, Sample
from data.text import Row, sample_row
from data.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def rows(tokenizer: Tokenizer, make: SimpleNamespace) -> list[Row]:
    layout, images = ImageLayout(make.spec, (2, 3)), {"0.png": make.picture(0), "1.png": make.picture(1)}
    contents = ["a cat", "<0>", "<0> a picture of", "see <1> and <0>", "x" * 40]
    rows = []
    for number, content in enumerate(contents):
        marks = {"<0>": Part(image="0.png"), "<1>": Part(image="1.png")}
        parts = tuple(marks.get(word) or Part(text=word) for word in content.split())
        rows.append(sample_row(Sample("k", f"s{number}", parts, None, images), tokenizer, layout))
    return rows


def labels_by_loop(rows: list[Row]) -> list[int]:
    labels: list[int] = []
    for row in rows:
        following = zip(row.ids[1:], row.loss[1:], strict=True)
        labels += [int(token) if loss else -100 for token, loss in following] + [-100]
    return labels


@given(picks=st.lists(st.integers(0, 4), min_size=1, max_size=8), num_cached=st.integers(0, 2))
def test_any_mix_of_rows_makes_a_sound_batch(
    rows: list[Row], make: SimpleNamespace, picks: list[int], num_cached: int
) -> None:
    mix = [rows[i] for i in picks]
    keys = sorted({picture.feature_key for row in rows for picture in row.pictures})
    batch = collate(mix, make.spec, cached=set(keys[:num_cached]), cursor=7)
    batch.check()
    assert batch.labels.tolist() == labels_by_loop(mix)
    assert batch.lengths == tuple(len(row) for row in mix)
    assert batch.num_image_slots == 6 * len(batch.images) == int(batch.is_image.sum())
    assert [image is None for image in batch.images] == [key in keys[:num_cached] for key in batch.image_keys]
    assert batch.sample_ids == tuple(f"s{i}" for i in picks)
    assert batch.cursor == 7


def test_labels_never_cross_documents(rows: list[Row], make: SimpleNamespace) -> None:
    batch = collate(rows, make.spec)
    last = np.cumsum(batch.lengths) - 1
    assert batch.labels[last].tolist() == [-100] * len(rows)
    assert batch.num_answered == sum(int(row.loss.sum()) for row in rows)


def test_text_alone_needs_no_spec(rows: list[Row]) -> None:
    batch = collate([rows[0], rows[4]], None)
    batch.check()
    assert batch.images == ()
    assert batch.num_image_slots == 0


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("ids", "labels", "positions", "is_image")
    ) and all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_a_batch_survives_moving_and_pickling(rows: list[Row], make: SimpleNamespace) -> None:
    batch = collate(rows, make.spec, cached={rows[1].pictures[0].feature_key})
    for copy in (batch.to("cpu"), pickle.loads(pickle.dumps(batch)), batch.to(torch.device("cpu"), non_blocking=True)):
        assert same(batch, copy)
        for name in ("lengths", "image_keys", "slots_per_image", "sample_ids", "cursor", "num_image_slots", "wait_s"):
            assert getattr(copy, name) == getattr(batch, name)
    assert batch.to("meta").ids.is_meta


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": (3,)}, "do not make up"),
        ({"sample_ids": ()}, "sample ids"),
        ({"slots_per_image": (6, 6, 6, 5)}, "cut or lost"),
        ({"num_image_slots": 0}, "cut or lost"),
        ({"image_keys": ()}, "differ in number"),
        ({"num_answered": 1}, "labels are set"),
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(
    rows: list[Row], make: SimpleNamespace, change: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(collate(rows, make.spec), **change).check()


def test_a_label_over_the_edge_of_a_document_is_refused(rows: list[Row], make: SimpleNamespace) -> None:
    batch = collate(rows, make.spec)
    labels = torch.full_like(batch.labels, -100)
    labels[batch.lengths[0] - 1] = batch.ids[batch.lengths[0]]
    with pytest.raises(ValueError, match="another document"):
        replace(batch, labels=labels, num_answered=1).check()


def test_a_picture_that_cannot_be_decoded_names_its_sample(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    sample = Sample("k", "the-one", (Part(image="0.png"),), None, {"0.png": make.picture(0)[:60]})
    row = sample_row(sample, tokenizer, ImageLayout(make.spec, (2, 3)))
    with pytest.raises(BadRecord, match="the-one"):
        collate([row], make.spec)
    collate([row], make.spec, cached={row.pictures[0].feature_key}).check()


def test_pictures_without_a_spec_and_batches_without_rows_are_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="no ImageSpec"):
        collate(rows, None)
    with pytest.raises(ValueError, match="at least one row"):
        collate([], None)
