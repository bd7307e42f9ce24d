"""Shards with real damage: each fault is found, and named by shard and key."""

import io
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.doctor.examine import Options, examine
from data.doctor.findings import Findings
from data.image import ImageLayout
from data.sample import parse_sample
from data.shards import open_shards, write_manifest, write_shard
from data.text import sample_row
from data.tokenizer import Tokenizer

Record = tuple[str, dict[str, bytes]]
Examine = Callable[..., Findings]


@pytest.fixture
def look(tokenizer: Tokenizer) -> Examine:
    def run(*sources: str | Path, **options: object) -> Findings:
        return examine(sources, Options(tokenizer=tokenizer, **options))

    return run


def named(found: Findings, kind: str = "faults") -> set[tuple[str, str | None, str]]:
    flaws = getattr(found, kind)
    return {(Path(one.shard).name, one.key, one.reason) for reason in flaws.named.values() for one in reason}


def captioned(key: str, picture: bytes, text: str = "a small thing") -> Record:
    return key, {"png": picture, "txt": text.encode()}


def test_a_clean_shard_has_no_fault_and_the_figures_of_a_slow_count(
    look: Examine, shard: Callable[..., Path], tokenizer: Tokenizer, layout: ImageLayout
) -> None:
    path = shard(count=40)
    found = look(path, layout=layout)
    assert (found.faults.total, found.warnings.total) == (0, 0)
    assert (found.num_records, found.num_bad, found.kinds) == (40, 0, {"caption": 40})
    samples = [parse_sample(*record) for record in map(open_shards(path).read, range(40))]
    rows = [sample_row(sample, tokenizer, layout) for sample in samples]
    lengths = np.array([len(row) for row in rows])
    tokens = found.spreads["tokens with slots"]
    assert (tokens.total, tokens.least, tokens.most) == (lengths.sum(), lengths.min(), lengths.max())
    assert found.spreads["text tokens"].total == sum(int((~row.is_image).sum()) for row in rows)
    assert found.answered_share == pytest.approx(sum(int(row.loss.sum()) for row in rows) / lengths.sum())
    assert found.spreads["characters"].total == sum(len(part.text or "") for s in samples for part in s.content or ())
    assert (found.spreads["width"].mean, found.spreads["height"].mean) == (24, 16)
    assert found.spreads["width / height"].p50 == 1.5
    assert found.formats == {"PNG": 40}
    assert found.num_decoded == 40
    assert found.bytes_of["pictures"] == sum(len(data) for sample in samples for data in sample.images.values())


def test_workers_and_one_process_find_the_same(
    look: Examine, shard: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.doctor.check.RECORDS_PER_PART", 9)
    for number in range(3):
        shard(f"{number}.tar", count=70, first=number * 60)  # the last 10 of each come again
    folder = shard("0.tar", count=70).parent
    alone, shared = look(folder, num_shown=5), look(folder, num_shown=5, num_workers=3)
    assert alone.as_dict() == shared.as_dict()
    assert alone.samples == shared.samples
    assert len(alone.samples) == 5
    assert alone.duplicates.records == 20
    assert alone.warnings.counts == {"same id": 20, "duplicate record": 20}


def pictures(make: SimpleNamespace) -> dict[str, tuple[bytes, str]]:
    """Pictures that no encoder could be shown, and what is wrong with each."""
    good = make.picture(1)
    bomb = good.replace(struct.pack(">II", 24, 16), struct.pack(">II", 20_000, 20_000), 1)
    return {
        "empty": (b"", "corrupt picture"),
        "garbage": (b"no picture at all", "corrupt picture"),
        "header": (good[:20], "corrupt picture"),
        "bomb": (bomb, "picture too large"),
        "half": (good[: len(good) * 2 // 3], "corrupt picture"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "corrupt picture"),
    }


def texts() -> dict[str, tuple[dict[str, bytes], str]]:
    def content(*parts: object) -> bytes:
        return json.dumps({"content": list(parts)}).encode()

    return {
        "nan": ({"json": b'{"content": "x", "score": NaN}'}, "bad JSON"),
        "twice": ({"json": b'{"content": "x", "content": "y"}'}, "bad JSON"),
        "list": ({"json": b"[1, 2]"}, "bad JSON"),
        "deep": ({"json": b"[" * 100_000}, "bad JSON"),
        "utf8": ({"json": b'{"content": "\xff"}'}, "bad JSON"),
        "surrogate": ({"json": b'{"content": "\\ud800"}'}, "bad JSON"),
        "text": ({"txt": b"\xff\xfe"}, "bad text"),
        "nothing": ({"json": b'{"content": []}'}, "bad record"),
        "both": ({"json": b'{"content": "x", "messages": []}'}, "bad record"),
        "role": ({"json": b'{"messages": [{"role": "robot", "content": "x"}]}'}, "bad record"),
        "lost": ({"json": content({"type": "image", "image": "0.png"})}, "missing member"),
        "spare": ({"json": content({"type": "text", "text": "x"}), "0.png": b"x"}, "unused member"),
        "silent": ({"0.png": b"x"}, "missing member"),
    }


def test_every_bad_record_is_named_by_its_key_and_the_others_are_counted(
    look: Examine, tmp_path: Path, make: SimpleNamespace
) -> None:
    bad = {key: (captioned(key, data)[1], reason) for key, (data, reason) in pictures(make).items()} | texts()
    records: list[Record] = [captioned(f"good{number}", make.picture(number), f"thing {number}") for number in range(9)]
    records[4:4] = [(key, members) for key, (members, _) in bad.items()]
    write_shard(tmp_path / "a.tar", records)
    found = look(tmp_path / "a.tar")
    assert named(found) == {("a.tar", key, reason) for key, (_, reason) in bad.items()}
    assert (found.num_records, found.num_bad) == (9 + len(bad), len(bad))
    assert found.kinds == {"caption": 9}
    assert all(repr(one.key) in one.message for flaws in found.faults.named.values() for one in flaws)


def test_a_picture_that_only_decoding_finds_bad_needs_decode_where_the_sample_missed_it(
    look: Examine, tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make.picture(0)
    records = [captioned(f"{number:04}", good, f"thing {number}") for number in range(50)]
    records[30] = captioned("0030", good[:-30])
    write_shard(tmp_path / "a.tar", records)
    assert named(look(tmp_path / "a.tar", decodes_all=True)) == {("a.tar", "0030", "corrupt picture")}
    monkeypatch.setattr("data.doctor.examine.DECODED", 3)
    found = look(tmp_path / "a.tar")
    assert found.faults.total == 0
    assert found.num_decoded == 3
    assert found.settings["decoded"] == "sample"


def test_one_bad_shard_is_named_and_the_others_are_examined(look: Examine, shard: Callable[..., Path]) -> None:
    for number in range(4):
        shard(f"{number}.tar", first=number * 20)
    folder = shard("0.tar").parent
    os.truncate(folder / "1.tar", (folder / "1.tar").stat().st_size // 2)
    (folder / "2.tar").write_bytes(b"<html>404</html>" * 100)
    found = look(folder)
    assert [(shard, reason) for shard, _, reason in sorted(named(found))] == [
        ("1.tar", "cut short"),
        ("2.tar", "not a tar"),
    ]
    assert 40 < found.num_records < 60


def test_records_that_a_shard_fault_broke_are_not_blamed_again(
    look: Examine, tmp_path: Path, tar: SimpleNamespace, make: SimpleNamespace
) -> None:
    picture = make.picture(0)
    mixed = [("a.png", picture), ("b.png", picture), ("a.txt", b"one thing"), ("b.txt", b"two things")]
    path = tar.write(tmp_path / "a.tar", [*mixed, ("c.png", picture), ("c.txt", b"three things")])
    found = look(path)
    assert named(found) == {("a.tar", "a", "key again"), ("a.tar", "b", "key again")}
    assert found.kinds == {"caption": 1}


@pytest.fixture
def manifest(shard: Callable[..., Path]) -> Callable[[Callable[[dict], object]], Path]:
    """Writes two shards with their manifest, then changes the manifest."""

    def write(change: Callable[[dict], object]) -> Path:
        shard("0.tar")
        folder = shard("1.tar", first=100).parent
        write_manifest(folder)
        told = json.loads((folder / "dataset.json").read_text())
        change(told)
        (folder / "dataset.json").write_text(json.dumps(told))
        return folder

    return write


def test_a_true_manifest_is_checked_to_the_last_byte(look: Examine, manifest: Callable[..., Path]) -> None:
    folder = manifest(lambda told: None)
    assert [one["sha256"] for one in look(folder).shards] == ["same", "same"]
    data = bytearray((folder / "1.tar").read_bytes())
    data[600] ^= 1  # inside a member's data: the tar itself is sound
    (folder / "1.tar").write_bytes(data)
    assert ("1.tar", None, "unlike the manifest") in named(look(folder / "dataset.json"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda told: told["shards"][1].update(bytes=5), ("1.tar", None, "unlike the manifest")),
        (lambda told: told["shards"][1].update(samples=19), ("1.tar", None, "unlike the manifest")),
        (lambda told: told["shards"][1].update(sha256="0" * 64), ("1.tar", None, "unlike the manifest")),
        (lambda told: told["shards"][1].update(path="lost.tar"), ("lost.tar", None, "cannot be read")),
        (lambda told: told["shards"][1].update(path="../1.tar"), ("dataset.json", None, "bad manifest")),
        (lambda told: told["shards"][1].update(bytes="many"), ("dataset.json", None, "bad manifest")),
        (lambda told: told["shards"].append(told["shards"][0]), ("dataset.json", None, "wrong manifest")),
        (lambda told: told.update(samples=7), ("dataset.json", None, "wrong manifest")),
        (lambda told: told.pop("shards"), ("dataset.json", None, "bad manifest")),
    ],
)
def test_a_manifest_that_is_not_true_is_a_fault(
    look: Examine, manifest: Callable[..., Path], change: Callable[[dict], object], fault: tuple[str, None, str]
) -> None:
    found = look(manifest(change))
    assert fault in named(found)
    assert found.num_records >= 20  # what can be read is examined all the same


def test_a_tar_that_the_manifest_does_not_name_is_a_warning(look: Examine, manifest: Callable[..., Path]) -> None:
    found = look(manifest(lambda told: told["shards"].pop() and told.pop("samples")))
    assert (found.faults.total, found.num_records) == (0, 20)
    assert named(found, "warnings") == {("1.tar", None, "not in the manifest")}


def test_what_is_suspicious_is_warned_of_by_key(look: Examine, tmp_path: Path, make: SimpleNamespace) -> None:
    picture = make.picture
    records = [captioned(f"good{number}", picture(number), f"thing {number}") for number in range(60)]
    records += [captioned(f"same{number}", picture(100 + number), "stock photo") for number in range(12)]
    records += [
        captioned("copy", picture(3), "thing 3"),
        captioned("dots", picture(4), " ... "),
        captioned("tiny", picture(5, size=(200, 1)), "a line"),
        captioned("long", picture(6), "word " * 200),
        ("img", {"01.jpg": picture(7), "txt": b"two pictures under one key", "02.txt": b"x"}),
        ("other", {**captioned("other", picture(8), "with more")[1], "npy": b"x" * 10, "pkl": b"x"}),
        ("named", {"json": b'{"id": "good7", "content": "an id of another"}'}),
    ]
    write_shard(tmp_path / "a.tar", records)
    write_shard(tmp_path / "b.tar", [])
    found = look(tmp_path, row_tokens=150)
    assert found.faults.total == 0
    assert named(found, "warnings") == {
        ("a.tar", "copy", "duplicate record"),
        ("a.tar", "dots", "near-empty caption"),
        ("a.tar", "tiny", "tiny picture"),
        ("a.tar", "long", "longer than a row"),
        ("a.tar", "img", "names with several dots"),
        ("a.tar", "same0", "frequent caption"),
        ("a.tar", "named", "same id"),
        ("b.tar", None, "no records"),
    }
    assert found.captions[0].text == "stock photo"
    assert (found.captions[0].count, found.captions[1].count) == (12, 2)
    assert found.ignored == {".npy": 1, ".pkl": 1, ".txt": 1}
    assert found.packing is not None
    assert found.packing.too_long == 1
    assert found.duplicates.shared_pictures == 5  # of numbers 3, 4, 6, 7 and 8


def test_kinds_are_told_apart_and_questions_by_their_fields(
    look: Examine, tmp_path: Path, make: SimpleNamespace
) -> None:
    image, text = {"type": "image", "image": "0.png"}, {"type": "text", "text": "which?"}
    kinds: dict[str, Sequence[object] | dict[str, object]] = {
        "caption": {"content": [image, text]},
        "interleaved": {"content": [text, image, text]},
        "conversation": {
            "messages": [{"role": "user", "content": [image, text]}, {"role": "assistant", "content": "a"}]
        },
        "text only": {"content": 'just words about "answers"'},
        "question": {"content": [image, text], "choices": ["a", "b"], "answer": 1},
    }
    write_shard(
        tmp_path / "a.tar",
        [
            (
                str(number),
                {"json": json.dumps(fields).encode()} | ({"0.png": make.picture(number)} if "text" not in kind else {}),
            )
            for number, (kind, fields) in enumerate(kinds.items())
        ],
    )
    assert look(tmp_path / "a.tar").kinds == dict.fromkeys(kinds, 1)
    forced = look(tmp_path / "a.tar", as_questions=True)
    assert forced.kinds == {"question": 1}
    assert forced.faults.total == 4


def test_two_questions_of_one_id_are_a_fault(look: Examine, tmp_path: Path) -> None:
    question = json.dumps({"id": "q", "content": "which?", "answers": ["a"]}).encode()
    write_shard(tmp_path / "a.tar", [("1", {"json": question}), ("2", {"json": question.replace(b"which", b"what")})])
    assert named(look(tmp_path / "a.tar")) == {("a.tar", "2", "same id")}


def test_a_limit_reads_the_first_records_and_says_so(look: Examine, shard: Callable[..., Path]) -> None:
    for number in range(3):
        shard(f"{number}.tar", count=20, first=number * 20)
    found = look(shard("0.tar").parent, limit=25)
    assert (found.num_records, found.settings["limit"]) == (25, 25)
    assert (len(found.shards), found.num_shards) == (2, 3)


def test_a_folder_pattern_or_glob_names_the_same_shards(look: Examine, shard: Callable[..., Path]) -> None:
    folder = shard("0.tar").parent
    shard("1.tar", first=20)
    for source in (folder, folder / "{0..1}.tar", folder / "*.tar"):
        assert look(source).num_records == 40
    twice = look(folder, folder / "1.tar")
    assert (twice.num_records, named(twice, "warnings")) == (40, {("1.tar", None, "named twice")})


@pytest.mark.parametrize("source", ["none.tar", "empty", "none/*.tar", "http://host/a.tar", "pipe:cat a.tar"])
def test_a_source_that_is_not_there_is_an_error(look: Examine, tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no such|holds no|no file matches|only local"):
        look(source if ":" in source else tmp_path / source)


def test_a_pipe_that_is_called_a_tar_is_a_fault_and_no_hang(look: Examine, shard: Callable[..., Path]) -> None:
    folder = shard("0.tar").parent
    os.mkfifo(folder / "1.tar")
    found = look(folder)
    assert (named(found), found.num_records) == ({("1.tar", None, "cannot be read")}, 20)


def test_figures_take_a_bounded_number_of_bytes_a_record() -> None:
    from data.doctor.tally import BYTES_A_PICTURE, BYTES_A_RECORD

    assert BYTES_A_RECORD + BYTES_A_PICTURE <= 80  # 0.8 GB for ten million records


@pytest.mark.long
def test_webp_and_jpeg_are_measured_upright(look: Examine, tmp_path: Path) -> None:
    def stored(form: str, **options: object) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (40, 20), "red").save(file, form, **options)
        return file.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    write_shard(
        tmp_path / "a.tar",
        [
            ("a", {"jpg": stored("JPEG", exif=turned), "txt": b"turned"}),
            ("b", {"webp": stored("WEBP"), "txt": b"flat"}),
        ],
    )
    found = look(tmp_path / "a.tar")
    assert found.formats == {"JPEG": 1, "WebP": 1}
    assert (found.spreads["width"].least, found.spreads["width"].most) == (20, 40)
