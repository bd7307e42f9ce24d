"""A row: one record as tokens, and how it is written token by token and picture by picture.

In: ids, texts and stored pictures. Out: a `Row`. What stands around them is not decided here: text.py has the project's
own format, template_rows.py that of a chat template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from data.image import ImageLayout, picture_key
from data.sample import BadRecord, Part
from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Picture:
    """A stored picture, and which altered copy of it is meant (0: the picture itself)."""

    data: bytes
    key: str
    augmentation: int
    slots_per_crop: tuple[int, ...]  # slots of each crop that the encoder sees of it
    name: str = ""  # in its record; empty where it comes from elsewhere

    @property
    def feature_key(self) -> str:
        return f"{self.key}-{self.augmentation}"

    @property
    def crops(self) -> "tuple[PictureCrop, ...]":
        """What the encoder sees of it, one after another."""
        return tuple(PictureCrop(self, place) for place in range(len(self.slots_per_crop)))


@dataclass(frozen=True)
class PictureCrop:
    """One of a picture's crops; most pictures have one."""

    picture: Picture
    place: int  # among the crops of its picture

    @property
    def feature_key(self) -> str:
        return f"{self.picture.feature_key}.{self.place}" if self.place else self.picture.feature_key


@dataclass(frozen=True)
class Turn:
    """Where a message of a conversation lies in its row."""

    role: str  # "system", "user" or "assistant"
    start: int  # its first token
    body: int  # its first token behind the mark of its role


@dataclass(frozen=True)
class Row:
    """One document or conversation as tokens."""

    ids: Int64[np.ndarray, " n"]
    loss: Bool[np.ndarray, " n"]  # True where the token is a target
    is_image: Bool[np.ndarray, " n"]
    positions: Int64[np.ndarray, "n 3"]  # time, row, column
    pictures: tuple[Picture, ...]  # in the order of their slots
    sample_id: str
    turns: tuple[Turn, ...] = ()  # of a conversation to train on

    def __len__(self) -> int:
        return len(self.ids)


def token_row(ids: Sequence[int], time: int) -> Row:
    """Tokens without pictures, the first at position `time`."""
    count = np.arange(time, time + len(ids), dtype=np.int64)
    none = np.zeros(len(ids), dtype=np.bool_)
    return Row(np.array(ids, dtype=np.int64), none, none, count[:, None].repeat(3, axis=1), (), "conversation")


def join_rows(rows: Sequence[Row]) -> Row:
    """Rows one after another as one; it has the first one's name. Their positions stay as they are."""
    return Row(
        np.concatenate([row.ids for row in rows]),
        np.concatenate([row.loss for row in rows]),
        np.concatenate([row.is_image for row in rows]),
        np.concatenate([row.positions for row in rows]),
        tuple(picture for row in rows for picture in row.pictures),
        rows[0].sample_id,
    )


class RowWriter:
    """Appends tokens and pictures; time runs on by one per token, and by the longer side of each canvas of a picture."""

    def __init__(
        self,
        sample_id: str,
        images: Mapping[str, bytes],
        tokenizer: Tokenizer,
        layout: ImageLayout | None,
        augmentation: int,
        time: int = 0,
    ) -> None:
        self.sample_id, self._images, self._tokenizer = sample_id, images, tokenizer
        self._layout, self._augmentation = layout, augmentation
        self._time = time
        self._ids: list[int] = []
        self._loss: list[bool] = []
        self._is_image: list[bool] = []
        self._positions: list[Int64[np.ndarray, "n 3"]] = []
        self._pictures: list[Picture] = []
        self._turns: list[Turn] = []
        self._since_picture = 0  # tokens whose positions are still to be counted

    def turn(self, role: str, mark: int = 1) -> None:
        """A message begins, with a mark of so many tokens."""
        self._turns.append(Turn(role, len(self._ids), len(self._ids) + mark))

    def token(self, number: int, loss: bool = False) -> None:
        self.tokens([number], [loss])

    def tokens(self, ids: Sequence[int], loss: Sequence[bool]) -> None:
        """Tokens that are no picture's."""
        self._ids += ids
        self._loss += loss
        self._is_image += [False] * len(ids)
        self._since_picture += len(ids)

    def text(self, text: str, loss: bool) -> None:
        ids = self._tokenizer.encode(text)
        self.tokens(ids, [loss] * len(ids))

    def parts(self, parts: Sequence[Part], loss: bool) -> None:
        for part in parts:
            if part.text is not None:
                self.text(part.text, loss)
            elif part.image is not None:
                self.picture(part.image)

    def question(self, content: Sequence[Part]) -> None:
        """A user's turn, and the mark after which the assistant speaks."""
        self.token(self._tokenizer.user)
        self.parts(content, loss=False)
        self.token(self._tokenizer.end)
        self.token(self._tokenizer.assistant)

    def row(self) -> Row:
        self._count()
        return Row(
            np.array(self._ids, dtype=np.int64),
            np.array(self._loss, dtype=np.bool_),
            np.array(self._is_image, dtype=np.bool_),
            np.concatenate(self._positions),
            tuple(self._pictures),
            self.sample_id,
            tuple(self._turns),
        )

    def picture(self, name: str) -> None:
        """The slots of one of the record's pictures.

        Raises:
            BadRecord: it is missing, or its header is bad.
            ValueError: there is no layout.
        """
        layout = self._layout
        if layout is None:
            raise ValueError(
                f"record {self.sample_id!r} has the picture {name!r}, but the model has no image encoder; "
                f"set an encoder, or leave out the sources with pictures"
            )
        data = self._images.get(name)
        if data is None:
            raise BadRecord(f"record {self.sample_id!r} names the picture {name!r} but does not have it")
        try:
            plan = layout.plan_stored(data)
        except BadRecord as error:
            raise BadRecord(f"record {self.sample_id!r}, {name}: {error}", error.reason) from None
        self._count()
        self._ids += [self._tokenizer.image] * plan.slots
        self._loss += [False] * plan.slots
        self._is_image += [True] * plan.slots
        self._positions.append(self._time + plan.positions)
        self._time += plan.duration
        self._pictures.append(Picture(data, picture_key(data), self._augmentation, plan.slots_per_crop, name))

    def _count(self) -> None:
        """The positions of the tokens since the last picture, in one go."""
        count = np.arange(self._time, self._time + self._since_picture)
        self._positions.append(count[:, None].repeat(3, axis=1))
        self._time += self._since_picture
        self._since_picture = 0
