"""Each format, in the layout that its own programs write: what comes in comes out, and what does not fit is named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.sample import Message, Part, parse_question
from data.shards import open_shards


@pytest.fixture
def photos(tmp_path: Path, make: SimpleNamespace) -> Path:
    """Three pictures in a folder and one below it."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name, kind, seed in (
        ("a.jpg", "JPEG", 1),
        ("b.png", "PNG", 2),
        ("c.webp", "WEBP", 3),
        ("deep/a.jpg", "JPEG", 4),
    ):
        (folder / name).write_bytes(make.picture(seed, kind=kind))
    return folder


def image(name: str) -> Part:
    return Part(image=name)


def test_pictures_have_their_captions_beside_them(photos: Path, convert: Any, samples: Any) -> None:
    for name in ("a", "b", "c", "deep/a"):
        (photos / f"{name}.txt").write_text(f"\ufeffa picture of {name}, é\n", encoding="utf-8")
    (photos / "notes.md").write_text("nothing")
    assert convert("pictures", photos)["written"] == 4
    found = samples()
    assert [sample.id for sample in found] == ["a.jpg", "b.png", "c.webp", "deep/a.jpg"]
    assert [sample.key for sample in found] == ["00000000", "00000001", "00000002", "00000003"]
    assert found[3].content == (image("0.jpg"), Part(text="a picture of deep/a, é"))
    assert found[2].images == {"0.webp": (photos / "c.webp").read_bytes()}


def test_a_question_makes_conversations_of_captions(photos: Path, convert: Any, samples: Any) -> None:
    for name in ("a", "b", "c", "deep/a"):
        (photos / f"{name}.txt").write_text(f"picture {name}")
    convert("pictures", photos, ask="What is this?")
    user, assistant = samples()[0].messages
    assert user == Message("user", (image("0.jpg"), Part(text="What is this?")))
    assert assistant == Message("assistant", (Part(text="picture a"),))


def test_a_benchmark_has_the_captions_as_right_answers(photos: Path, tmp_path: Path, convert: Any) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\na.jpg,first\na.jpg,second\n")
    options = {"skip_uncaptioned": True, "captions": table}
    convert("pictures", photos, ask="What is this?", benchmark=True, **options)
    shards = open_shards(tmp_path / "out")
    questions = [parse_question(*shards.read(number)) for number in range(len(shards))]
    assert [(one.id, one.answers) for one in questions] == [("a.jpg", ("first",)), ("a.jpg#2", ("second",))]
    assert questions[0].content == (image("0.jpg"), Part(text="What is this?"))
    with pytest.raises(ValueError, match="say what is asked"):
        convert("pictures", photos, benchmark=True, **options)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_captions_may_stand_in_a_table_several_for_a_picture(
    photos: Path, tmp_path: Path, convert: Any, samples: Any, suffix: str
) -> None:
    table = tmp_path / f"captions.{suffix}"
    rows = [
        ("b.png", 'a "quoted", long\ncaption'),
        ("a.jpg", "first"),
        ("a.jpg", "second"),
        ("./deep/a.jpg", "x"),
        ("c.webp", "y"),
    ]
    if suffix == "jsonl":
        table.write_text("".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows))
    else:
        sign = "," if suffix == "csv" else "\t"
        table.write_text(
            f"file{sign}caption\n"
            + "".join(f'{name}{sign}"{text.replace(chr(34), chr(34) * 2)}"\n' for name, text in rows)
        )
    convert("pictures", photos, captions=table)
    assert [(sample.id, sample.content[1].text) for sample in samples()] == [
        ("b.png", 'a "quoted", long\ncaption'),
        ("a.jpg", "first"),
        ("a.jpg#2", "second"),
        ("./deep/a.jpg", "x"),
        ("c.webp", "y"),
    ]


def test_pictures_without_a_caption_are_an_error_or_counted(photos: Path, convert: Any, tmp_path: Path) -> None:
    for name in ("b", "c"):
        (photos / f"{name}.txt").write_text("a caption")
    with pytest.raises(ValueError, match=r"2 of 4 pictures in .* have no NAME.txt beside them, the first is 'a.jpg'"):
        convert("pictures", photos)
    assert not (tmp_path / "out").exists()
    summary = convert("pictures", photos, skip_uncaptioned=True)
    assert (summary["records"], summary["written"]) == (4, 2)
    assert summary["left_out"] == {"picture without a caption": 2}
    assert summary["faults"] == {}


def test_a_table_that_is_none_is_refused(photos: Path, tmp_path: Path, convert: Any) -> None:
    table = tmp_path / "captions.csv"
    for text, told in {
        "name,caption\n": "needs one column of file, file_name, image, it has name, caption",
        "file,caption\na.jpg,b,c\n": "line 2: needs 2 columns",
        'file,caption\na.jpg,"b\n': "line 1: unexpected end of data",
    }.items():
        table.write_text(text)
        with pytest.raises(ValueError, match=told):
            convert("pictures", photos, captions=table)
    table.write_bytes(b"file,caption\na.jpg,caf\xe9\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        convert("pictures", photos, captions=table)


def test_own_records_keep_every_field_and_their_pictures(
    photos: Path, convert: Any, samples: Any, write_lines: Any, tmp_path: Path
) -> None:
    picture = {"type": "image", "image": "photos/b.png"}
    records = [
        {
            "id": "one",
            "content": [picture, {"type": "text", "text": "a <image> is text"}],
            "source": "mine",
            "meta": {"n": 1},
        },
        {"messages": [{"role": "user", "content": [picture, picture]}, {"role": "assistant", "content": "twice"}]},
        {"id": 7, "content": "only text"},
    ]
    convert("jsonl", write_lines(tmp_path / "mine.jsonl", records))
    one, two, three = samples()
    assert one.content == (image("0.png"), Part(text="a <image> is text"))
    assert two.messages[0] == Message("user", (image("0.png"), image("0.png")))
    assert two.images == {"0.png": (photos / "b.png").read_bytes()}
    assert [one.id, two.id, three.id] == ["one", "00000001", "7"]
    stored = json.loads(open_shards(tmp_path / "out").read(0)[1]["json"])
    assert (stored["source"], stored["meta"]) == ("mine", {"n": 1})


def test_questions_come_through_and_are_checked_as_such(
    photos: Path, convert: Any, write_lines: Any, tmp_path: Path, faults: Any
) -> None:
    question = {"content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}]}
    records = [
        {"id": "q1", **question, "choices": ["cat", "dog"], "answer": 1},
        {"id": "q2", **question, "choices": ["cat", "dog"], "answer": 2},
        {"id": "q3", **question, "answers": ["cat"]},
    ]
    convert("jsonl", write_lines(tmp_path / "q.jsonl", records), images=photos)
    shards = open_shards(tmp_path / "out")
    assert [parse_question(*shards.read(i)).truth for i in range(2)] == ["dog", "cat"]
    assert "has 2 choices, so answer must be" in faults()[0]["message"]


LLAVA = [
    {
        "id": "000000033471",
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "A bus."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
    },
    {
        "id": 2,
        "image": ["b.png", "deep/a.jpg"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Is <image> like\n<image>\n?"},
            {"from": "gpt", "value": "no"},
        ],
    },
    {"id": "text", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi\n"}]},
]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_llava_has_its_pictures_where_the_marks_stand(
    photos: Path, convert: Any, samples: Any, write_lines: Any, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"mix.{suffix}"
    if suffix == "json":
        file.write_text(json.dumps(LLAVA, indent=2))
    else:
        write_lines(file, LLAVA)
    convert("llava", file, images=photos)
    one, two, three = samples()
    assert [one.id, two.id, three.id] == ["000000033471", "2", "text"]
    assert one.messages[0] == Message("user", (image("0.jpg"), Part(text="What is this?")))
    assert one.messages[3] == Message("assistant", (Part(text="Yes."),))
    assert two.messages[:2] == (
        Message("system", (Part(text="Be brief."),)),
        Message("user", (Part(text="Is "), image("0.png"), Part(text=" like"), image("1.jpg"), Part(text="?"))),
    )
    assert two.images["1.jpg"] == (photos / "deep/a.jpg").read_bytes()
    assert three.messages[1] == Message("assistant", (Part(text="Hi\n"),))
    assert three.images == {}


def test_llava_counts_marks_and_knows_its_speakers(
    photos: Path, convert: Any, faults: Any, write_lines: Any, tmp_path: Path
) -> None:
    def asked(value: str, speaker: str = "human", **fields: Any) -> dict[str, Any]:
        return {"conversations": [{"from": speaker, "value": value}, {"from": "gpt", "value": "x"}], **fields}

    records = [
        asked("<image> and <image>", image="a.jpg"),
        asked("none", image="a.jpg"),
        asked("<image>"),
        asked("x", speaker="bing"),
        asked("fine"),
    ]
    assert convert("llava", write_lines(tmp_path / "x.jsonl", records), images=photos)["written"] == 1
    assert [fault["reason"] for fault in faults()] == [*["marks and pictures differ"] * 3, "unknown role"]
    assert faults()[0]["message"].startswith("has 2 marks <image> and 1 pictures")
    assert faults()[3]["where"] == "x.jsonl line 4"


def test_messages_take_their_pictures_in_order_by_index_or_inside(
    photos: Path, convert: Any, samples: Any, write_lines: Any, tmp_path: Path
) -> None:
    def said(*parts: Any, images: Any = ()) -> dict[str, Any]:
        turns = [
            {"role": "user", "content": list(parts)},
            {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
        ]
        return {"messages": turns, "images": list(images)}

    mark, words = {"type": "image"}, {"type": "text", "text": "a <image>"}
    records = [
        said(mark, words, mark, images=["b.png", {"bytes": None, "path": "a.jpg"}]),
        said(mark | {"index": 1, "text": None}, words, mark | {"index": 0}, images=["b.png", "a.jpg"]),
        said(mark | {"image": "c.webp"}, words),
        {"id": "plain", "messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "y"}]},
    ]
    convert("hf-messages", write_lines(tmp_path / "m.jsonl", records), images=photos)
    one, two, three, four = samples()
    assert one.messages[0].parts == (image("0.png"), Part(text="a <image>"), image("1.jpg"))
    assert two.messages[0].parts == (image("1.jpg"), Part(text="a <image>"), image("0.png"))
    assert three.messages[0].parts == (image("0.webp"), Part(text="a <image>"))
    assert (four.id, four.messages[0]) == ("plain", Message("system", (Part(text="s"),)))


def test_messages_of_tools_and_pictures_that_do_not_fit_are_faults(
    photos: Path, convert: Any, faults: Any, write_lines: Any, tmp_path: Path
) -> None:
    answer = {"role": "assistant", "content": "x"}
    records = [
        {"messages": [{"role": "tool", "content": "42"}, answer]},
        {"messages": [answer | {"tool_calls": [{"name": "f"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, answer], "images": []},
        {"messages": [answer], "images": ["a.jpg"]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}, answer]},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "https://example.org/a.jpg"}]}, answer]},
        {"messages": [{"role": "user", "content": "no answer"}]},
        {"messages": [answer]},
    ]
    convert("hf-messages", write_lines(tmp_path / "m.jsonl", records), images=photos)
    assert [fault["reason"] for fault in faults()] == [
        *["turn of a tool"] * 2,
        *["marks and pictures differ"] * 2,
        "unknown part",
        "picture by address",
        "bad record",
    ]


def coco(photos: Path) -> Path:
    file = photos.parent / "captions_val2017.json"
    pictures = [{"id": 9, "file_name": "b.png", "width": 24, "height": 16}, {"id": 4, "file_name": "a.jpg"}]
    annotations = [
        {"id": 12, "image_id": 9, "caption": "second of b \n"},
        {"id": 11, "image_id": 4, "caption": "of a"},
        {"id": 2, "image_id": 9, "caption": "first of b"},
    ]
    file.write_text(json.dumps({"info": {}, "licenses": [], "images": pictures, "annotations": annotations}))
    return file


def test_coco_has_a_record_for_each_caption(photos: Path, convert: Any, samples: Any) -> None:
    convert("coco", coco(photos), images=photos)
    assert [(sample.id, sample.content[1].text) for sample in samples()] == [
        ("12", "second of b"),
        ("11", "of a"),
        ("2", "first of b"),
    ]
    assert samples()[0].images == {"0.png": (photos / "b.png").read_bytes()}


def test_coco_may_have_the_captions_of_a_picture_together(photos: Path, convert: Any, samples: Any) -> None:
    convert("coco", coco(photos), images=photos, together=True)
    assert [(sample.id, sample.content[1].text) for sample in samples()] == [
        ("9", "first of b\nsecond of b"),
        ("4", "of a"),
    ]


def test_captions_of_no_picture_and_pictures_of_no_caption_are_told_in_coco(
    photos: Path, convert: Any, faults: Any
) -> None:
    file = coco(photos)
    found = json.loads(file.read_text())
    found["annotations"].append({"id": 13, "image_id": 99, "caption": "lost"})
    found["images"].append({"id": 5, "file_name": "c.webp"})
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"1 of 3 pictures have no caption, the first is 'c.webp'"):
        convert("coco", file, images=photos)
    summary = convert("coco", file, images=photos, skip_uncaptioned=True, together=True)
    assert (summary["records"], summary["written"], sum(summary["left_out"].values())) == (4, 2, 1)
    assert faults()[0]["message"] == "has image_id 99, which no picture has"


def test_texts_are_lines_or_files(tmp_path: Path, convert: Any, samples: Any, write_lines: Any) -> None:
    lines = [{"text": "one\n", "id": "<urn:uuid:1>", "url": "u", "source": "web"}, {"text": "two"}]
    convert("text", write_lines(tmp_path / "t.jsonl", lines))
    assert [(sample.id, sample.content) for sample in samples()] == [
        ("<urn:uuid:1>", (Part(text="one\n"),)),
        ("00000001", (Part(text="two"),)),
    ]
    (tmp_path / "books" / "b").mkdir(parents=True)
    (tmp_path / "books" / "z.txt").write_text("zed")
    (tmp_path / "books" / "b" / "a.txt").write_text("ay")
    convert("text", tmp_path / "books", out=tmp_path / "out2")
    assert [(sample.id, sample.content) for sample in samples(tmp_path / "out2")] == [
        ("b/a.txt", (Part(text="ay"),)),
        ("z.txt", (Part(text="zed"),)),
    ]


@pytest.mark.parametrize(
    ("name", "record", "found"),
    [
        ("jsonl", LLAVA[0], "llava"),
        ("llava", {"messages": [], "images": []}, "hf-messages"),
        ("llava", {"content": "x"}, "jsonl"),
        ("hf-messages", {"content": "x"}, "jsonl"),
        ("jsonl", {"text": "x"}, "text"),
        ("text", {"conversations": []}, "llava"),
    ],
)
def test_a_wrong_format_is_told_by_what_was_found(
    tmp_path: Path, convert: Any, write_lines: Any, name: str, record: Any, found: str
) -> None:
    file = write_lines(tmp_path / "data.jsonl", [record] * 3)
    with pytest.raises(
        ValueError, match=rf"--from {name}: data.jsonl line 1: has n.* looks like --from {found}$"
    ) as told:
        convert(name, file)
    assert next(iter(record)) in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_list_a_folder_or_tars_in_the_place_of_another_format_are_told(
    photos: Path, tmp_path: Path, convert: Any, make: SimpleNamespace
) -> None:
    (tmp_path / "mix.json").write_text(json.dumps(LLAVA))
    with pytest.raises(
        ValueError, match=r"needs the lists images and annotations, it has a list; .* looks like --from llava"
    ):
        convert("coco", tmp_path / "mix.json")
    with pytest.raises(ValueError, match=r"has neither \"content\".*looks like --from llava"):
        convert("jsonl", tmp_path / "mix.json")
    with pytest.raises(ValueError, match=r"looks like --from coco"):
        convert("llava", coco(photos))
    with pytest.raises(ValueError, match=r"takes one folder, got .*mix.json; .* looks like --from llava"):
        convert("pictures", tmp_path / "mix.json")
    with pytest.raises(ValueError, match=r"no file there ends in .json; .* looks like --from pictures"):
        convert("coco", photos)
    tars = make.write_records(tmp_path / "tars", [make.picture_record(1)])
    with pytest.raises(ValueError, match=r"has no pictures; .* need no conversion"):
        convert("pictures", Path(tars))
    for name, told in {
        "img2dataset": "are read as they are",
        "csv": "unknown format 'csv'; known formats: pictures, jsonl",
    }.items():
        with pytest.raises(ValueError, match=told):
            convert(name, photos)


def test_a_setting_that_means_nothing_to_a_format_is_refused(photos: Path, convert: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--together means nothing to --from pictures; it is for coco"):
        convert("pictures", photos, together=True)
    with pytest.raises(ValueError, match="--images means nothing to --from pictures"):
        convert("pictures", photos, images=photos)
