"""Bits per byte of held-out text: how well a model predicts it, whatever its tokenizer.

A text stands as a document of its own, as in training (begin, text, end). Counted are the log-probabilities of all its tokens and
of its end, over the bytes of its UTF-8; the begin is given. A text above `PIECE_BYTES` is cut at blanks, and each piece is such
a document: so context reaches no further back, and each end counts. The score is the share of the 8 bits of a byte that the model saves, so
that more is better and bytes drawn at random are 0; `bits_per_byte` is the figure to report.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.sample import BadRecord, Question, Sample, parse_sample
from data.shards import open_shards
from eval.headline import Headline
from eval.outcome import Outcome
from eval.task import Task, own_group
from eval.tasks.shards import task_name_of
from eval.truth import Truth

PIECE_BYTES = 4096
_BITS = 8.0  # of a byte


def held_out_glosses() -> Task:
    """Bits per byte of the demo's held-out glosses (WordNet). Score: share of 8 bits saved; see `bits_per_byte`."""

    def read() -> Sequence[Question]:
        from data.assets.expand import demo_folder  # expands the committed pieces on first use

        return read_texts(demo_folder() / "val" / "text")

    return _text("text/demo", read)


def text_task(source: str | Path, name: str | None = None) -> Task:
    """Bits per byte of any text.

    Args:
        source: a .txt, or a folder of them, each a text; a .jsonl with {"text": ...} a line; or shards whose records are text alone.
        name: of the task and of its folder; "text/<file name>" if not given.
    """
    return _text(name if name is not None else task_name_of(source, "text"), lambda: read_texts(source))


def read_texts(source: str | Path) -> list[Question]:
    """Texts as questions without words, whose answer is the text; blank ones are left out.

    Raises:
        ValueError: nothing to rate, or something that is no text; names it.
    """
    questions = []
    for number, (name, text) in enumerate(_texts(Path(source), str(source))):
        for place, piece in enumerate(_pieces(text)):
            digest = hashlib.sha256(piece.encode()).hexdigest()[:12]  # answers are kept by id: another text, another id
            key = f"{number:06d}.{place}-{digest}"
            questions.append(Question(key=key, id=key, content=(), images={}, answers=(piece,), group=name))
    if not questions:
        raise ValueError(f"{source} holds no text to rate")
    return questions


def _texts(path: Path, source: str) -> Iterator[tuple[str, str]]:
    """Name and text of each."""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.suffix == ".txt" else []
    for file in files:
        if not file.is_file():
            raise ValueError(f"no file {file}")
        try:
            yield file.name, file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read as UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        from eval.prepare.release import read_json_lines

        if not path.is_file():
            raise ValueError(f"no file {path}")
        for number, row in enumerate(read_json_lines(path), start=1):
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise ValueError(f'{path}: text {number} is not of the form {{"text": "..."}}')
            yield f"line {number}", row["text"]
    elif not files:
        shards = open_shards(source)
        for place in range(len(shards)):
            key, members = shards.read(place)
            yield key, _text_of(key, parse_sample(key, members), source)


def _text_of(key: str, sample: Sample, source: str) -> str:
    if sample.content is None or sample.images:
        raise BadRecord(
            f"{source}: record {key!r} has turns or pictures; bits per byte are of documents that are text alone"
        )
    return "".join(part.text or "" for part in sample.content)


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most `PIECE_BYTES`, cut after a blank where there is one, else between characters."""
    data = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace").encode()
    while len(data) > PIECE_BYTES:
        blank = max(data.rfind(sign, 1, PIECE_BYTES) for sign in (b" ", b"\n"))
        cut = blank + 1 if blank > 0 else PIECE_BYTES
        while data[cut] & 0xC0 == 0x80:  # inside a character
            cut -= 1
        if data[:cut].strip():
            yield data[:cut].decode()
        data = data[cut:]
    if data.strip():
        yield data.decode()


def _text(name: str, read: Any) -> Task:
    return Task(
        name=name,
        questions=read,
        mode="rate",
        extract=bits_per_byte,
        metric=_share_saved,
        guesses=_at_random,
        headline=Headline("share of 8 bits per byte saved", _sums, _saved),
        summary=_figures,
        group_by=own_group,
    )


def bits_per_byte(logprob: str, truth: Truth) -> str:
    """From a sum of natural log-probabilities, as text."""
    return repr(-float(logprob) / math.log(2) / _bytes(truth))


def _share_saved(answer: str, truth: Truth) -> float:
    return min(1.0, max(0.0, 1 - float(answer) / _BITS))


def _at_random(truth: Truth) -> tuple[str, ...]:
    return (repr(_BITS),)


def _bytes(truth: Truth) -> int:
    return len(truth.answers[0].encode())


def _sums(found: Sequence[Outcome]) -> dict[str, list[float]]:
    """By text: bits and bytes."""
    rows: dict[str, list[float]] = {}
    for one in found:
        row = rows.setdefault(one.group, [0.0, 0.0])
        row[0] += float(one.answer or _BITS) * _bytes(one.truth)
        row[1] += _bytes(one.truth)
    return rows


def _saved(total: Any) -> float:
    return min(1.0, max(0.0, 1 - float(total[0] / total[1]) / _BITS))


def _figures(found: Sequence[Outcome]) -> dict[str, Any]:
    rows = _sums(found).values()
    size = sum(row[1] for row in rows)
    return {
        "bits_per_byte": sum(row[0] for row in rows) / size,
        "bytes": int(size),
        "texts": len(rows),
        "pieces": len(found),
    }
