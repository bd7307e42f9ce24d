import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image import decode
from data.sample import BadRecord, Part
from data.text import prompt_row, sample_row
from vlm.inference.sampling import Sampling
from vlm.interop.harness_requests import picture_bytes, prompt_of_messages, prompt_of_text, sampling_of
from vlm.model import VisionLanguageModel

RED, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))


def layout(text: str, pictures: int) -> list[str]:
    prompt = prompt_of_text("q", text, [RED, BLUE, RED][:pictures])
    return [part.text if part.text is not None else f"[{part.image}]" for part in prompt.messages[0].parts]


@pytest.mark.parametrize(
    ("text", "pictures", "expected"),
    [
        ("What?", 0, ["What?"]),
        ("What?", 2, ["[0.png]", "[1.png]", "What?"]),
        ("", 1, ["[0.png]"]),
        ("Is <image> like <image>?", 2, ["Is ", "[0.png]", " like ", "[1.png]", "?"]),
        ("Is <image> like <image>?", 1, ["[0.png]", "Is <image> like <image>?"]),  # not one mark for each
        ("<image 2> or <image 1>, <image 2>", 2, ["[1.png]", " or ", "[0.png]", ", ", "[1.png]"]),
        ("<image 3>", 2, ["[0.png]", "[1.png]", "<image 3>"]),
        ("What is <image>?", 0, ["What is <image>?"]),
    ],
)
def test_marks_that_stand_for_all_pictures_say_where_they_go(text: str, pictures: int, expected: list[str]) -> None:
    assert layout(text, pictures) == expected


def test_an_untouched_picture_is_read_from_its_file(picture: Path) -> None:
    with Image.open(picture) as image:
        assert picture_bytes(image) == picture.read_bytes()
    assert picture_bytes(str(picture)) == picture.read_bytes()


def test_a_picture_that_was_changed_after_it_was_opened_is_not_read_from_its_file(picture: Path) -> None:
    image = Image.open(picture)
    image.paste((255, 0, 0), (0, 0, 8, 8))
    assert picture_bytes(image) != picture.read_bytes()
    assert decode(picture_bytes(image)).getpixel((20, 4))[0] == 255  # turned upright: the corner moved


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I;16"])
def test_a_picture_in_memory_has_the_pixels_of_the_stored_one(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    image = (
        Image.fromarray(values).convert(mode) if mode != "I;16" else Image.fromarray(values[..., 0].astype("u2") * 257)
    )
    kind = "JPEG" if mode == "CMYK" else "PNG"
    file = io.BytesIO()
    image.save(file, kind)
    loaded = Image.open(io.BytesIO(file.getvalue()))
    loaded.load()
    one, two = decode(file.getvalue()), decode(picture_bytes(loaded))
    assert one.mode == two.mode
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_a_turned_picture_in_memory_stays_upright(picture: Path) -> None:
    image = Image.open(picture)
    image.load()
    np.testing.assert_array_equal(np.asarray(decode(picture_bytes(image))), np.asarray(decode(picture.read_bytes())))


@pytest.mark.parametrize("thing", ["film.mp4", 7, b"bytes", {"type": "image"}])
def test_what_is_no_picture_is_refused_with_the_name_of_the_request(thing: object) -> None:
    with pytest.raises(ValueError, match=r"task/test/3: got .* in place of a picture"):
        prompt_of_text("task/test/3", "What?", [[thing]])


def test_one_message_is_read_as_a_question_of_ours(model: VisionLanguageModel) -> None:
    content = [{"type": "image", "url": RED}, {"type": "text", "text": "What?"}, {"type": "image", "url": BLUE}]
    prompt = prompt_of_messages("q", [{"role": "user", "content": content}])
    parts = (Part(image="0.png"), Part(text="What?"), Part(image="1.png"))
    expected = prompt_row(parts, prompt.images, model.tokenizer, model.layout)
    got = prompt.row(model)
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.positions, expected.positions)


def test_earlier_messages_are_read_as_in_training(model: VisionLanguageModel) -> None:
    from data.sample import Message, Sample

    told = [("system", "Be brief."), ("user", "What?"), ("assistant", "A dog."), ("user", "Where?")]
    prompt = prompt_of_messages("q", [{"role": role, "content": text} for role, text in told])
    answered = Sample("q", "q", None, tuple(Message(r, (Part(text=t),)) for r, t in (*told, ("assistant", "x"))), {})
    whole = sample_row(answered, model.tokenizer, model.layout)
    got = prompt.row(model)
    np.testing.assert_array_equal(got.ids, whole.ids[: len(got)])
    np.testing.assert_array_equal(got.positions, whole.positions[: len(got)])
    assert got.ids[-1] == model.tokenizer.assistant


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "last message must be the user's, got none"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "must be the user's, got assistant",
        ),
        ([{"role": "tool", "content": "a"}], "role 'tool'"),
        ([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}], "holds 'video'"),
    ],
)
def test_messages_that_are_none_of_ours_are_refused(messages: list[dict[str, object]], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        prompt_of_messages("q", messages)


def test_a_cut_picture_names_its_request(model: VisionLanguageModel, picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:20])
    with pytest.raises(BadRecord, match="task/test/3"):
        prompt_of_text("task/test/3", "What?", [str(picture)]).row(model)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Sampling(max_new_tokens=1024)),
        (
            {"max_new_tokens": 16, "until": ["\n\n", ""], "do_sample": False},
            Sampling(max_new_tokens=16, stop=("\n\n",)),
        ),
        ({"max_gen_toks": 8, "until": "###"}, Sampling(max_new_tokens=8, stop=("###",))),
        ({"max_new_tokens": 4, "temperature": 0, "top_p": 1.0, "num_beams": 1}, Sampling(max_new_tokens=4)),
        ({"max_new_tokens": 4, "temperature": 0.7, "do_sample": False, "top_k": 5}, Sampling(max_new_tokens=4)),
        (
            {"max_new_tokens": 4, "do_sample": True, "top_p": 0.9, "seed": 3},
            Sampling(max_new_tokens=4, temperature=1.0, top_p=0.9, seed=3),
        ),
        ({"max_new_tokens": 4, "temperature": None, "top_p": None, "num_beams": None}, Sampling(max_new_tokens=4)),
    ],
)
def test_generation_settings_are_ours_under_other_names(settings: dict[str, object], expected: Sampling) -> None:
    assert sampling_of(settings) == (expected, ())


def test_settings_that_mean_nothing_here_are_named() -> None:
    assert sampling_of({"max_new_tokens": 4, "image_aspect_ratio": "pad", "top_z": 3})[1] == ("top_z",)


@pytest.mark.parametrize(("name", "value"), [("num_beams", 5), ("max_new_tokens", 0)])
def test_settings_that_we_do_not_have_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"task/test/3: .*{name}"):
        sampling_of({name: value}, "task/test/3")
