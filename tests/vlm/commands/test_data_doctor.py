"""`vlm data doctor` and `vlm data show`, as a user calls them."""

import html.parser
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data.image import check_header
from data.shards import write_shard

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
Record = tuple[str, dict[str, bytes]]

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1) http://evil.example/x.png",
    "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe",
    "&lt;b&gt; &amp; ]]> <!-- ",
]


class Page(html.parser.HTMLParser):
    """What a browser would see: tags, with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def require_harmless(text: str) -> Page:
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "iframe", "object", "embed", "link", "form", "base", "a"}
    )
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("src") or "data:image/webp;").startswith("data:image/webp;base64,") or tag != "img"
        assert not {"href", "srcset", "action", "data"} & attributes.keys()
    assert not re.search(r"url\(|@import", text)
    assert "\x1b" not in text
    assert "\u202e" not in text
    return page


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    records: list[Record] = []
    for number, text in enumerate(HOSTILE):
        content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": text}]
        records.append(
            (f"r{number}<b>", {"json": json.dumps({"id": text, "content": content}).encode(), "0.png": file.getvalue()})
        )
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        records.append((f"c{number}", {"json": json.dumps({"messages": turns}).encode()}))
    records.append(("bad<script>", {"json": b'{"content": "<script>alert(2)</script>", "content": 1}'}))
    write_shard(tmp_path / "<i>host.tar", records)
    return tmp_path / "<i>host.tar"


def test_a_clean_set_passes_and_the_last_line_is_the_summary(vlm: Vlm, shards: Path) -> None:
    code, out, err = vlm("data", "doctor", str(shards), "--workers", "1")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("120 records in 1 shard,")
    assert "as the manifest's SHA-256 says" in out.splitlines()[0]
    assert re.search(r"conversation +80 +66\.7%", out)
    assert re.search(r"text only +40 +33\.3%", out)
    assert out.splitlines()[-1].startswith("passed: 120 records in 1 shard; no faults; 112 warnings (")
    assert max(map(len, out.splitlines())) < 400


def test_a_fault_is_named_and_the_exit_code_says_so(
    vlm: Vlm, tmp_path: Path, shards: Path, bad_records: list[Record]
) -> None:
    write_shard(tmp_path / "bad.tar", bad_records)
    os.truncate(shards / "a.tar", 4000)
    code, out, err = vlm("data", "doctor", str(tmp_path / "bad.tar"), str(shards), "--workers", "2")
    assert code == 2
    assert err.count("\n") == 1
    assert re.match(r"vlm: error: 4 faults in .*: ", err)
    for words in ("'0900'", "'0901'", "above the limit of 64 megapixels", "is cut short", "has 4,000 bytes"):
        assert words in out
    assert out.splitlines()[-1].startswith("failed: ")


def test_json_has_everything(vlm: Vlm, tmp_path: Path, bad_records: list[Record], shards: Path) -> None:
    write_shard(shards / "b.tar", bad_records)
    (shards / "dataset.json").unlink()
    code, out, _ = vlm("data", "doctor", str(shards), "--json", "--workers", "1", "--row-tokens", "64")
    found = json.loads(out)
    assert (code, found["passed"], found["num_records"], found["num_bad"]) == (2, False, 122, 2)
    assert {one["key"] for one in found["faults"]["named"]} == {"0900", "0901"}
    assert sum(found["spreads"]["characters"]["histogram"]["counts"]) == 120
    assert found["packing"]["row_tokens"] == 64


def test_tokens_are_those_that_a_run_of_the_config_sees(vlm: Vlm, config: Path, shards: Path) -> None:
    from data.image import ImageLayout
    from data.sample import parse_sample
    from data.shards import open_shards
    from data.text import sample_row
    from data.tokenizer import Tokenizer
    from encoders.patch_encoder import PatchEncoder
    from vlm.connector import ConnectorConfig

    layout = ImageLayout.from_encoder(PatchEncoder(size_px=32, patch_px=16, width=12), ConnectorConfig())
    opened, tokenizer = open_shards(shards), Tokenizer("demo")
    rows = [sample_row(parse_sample(*opened.read(number)), tokenizer, layout) for number in range(120)]
    _, out, _ = vlm("data", "doctor", str(shards), "--config", str(config), "--json", "--workers", "1")
    found = json.loads(out)
    assert found["spreads"]["tokens with slots"]["total"] == sum(map(len, rows))
    assert (found["settings"]["row_tokens"], found["settings"]["slots"]) == (128, 4)
    _, out, _ = vlm("data", "doctor", str(shards), "--encoder", "encoders.patch_encoder.PatchEncoder", "--json")
    assert json.loads(out)["settings"]["slots"] != 4


def test_the_page_of_hostile_records_runs_and_fetches_nothing(vlm: Vlm, hostile: Path, tmp_path: Path) -> None:
    code, out, err = vlm("data", "doctor", str(hostile), "--html", str(tmp_path / "page.html"))
    assert code == 2
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    text = (tmp_path / "page.html").read_text()
    page = require_harmless(text)
    shown = " ".join(page.texts)
    for words in HOSTILE[:4]:
        assert words in shown  # they are there to read, and nothing more
    assert "bad<script>" in shown
    assert sum(tag == "img" for tag, _ in page.tags) == len(HOSTILE)
    assert len(text) < 200_000


def test_the_page_is_the_same_for_the_same_seed_and_small(vlm: Vlm, shards: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert vlm("data", "doctor", str(shards), "--html", str(tmp_path / name), "--seed", seed)[0] == 0
    pages = [(tmp_path / name).read_text() for name in "abc"]
    assert pages[0] == pages[1] != pages[2]
    assert pages[0].count('<article class="card record">') == 24
    assert "prefers-color-scheme: dark" in pages[0]
    assert 'name="viewport"' in pages[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.tar"], "no such file"),
        (["{a}", "--workers", "0"], "num_workers must be at least 1"),
        (["{a}", "--limit", "0"], "limit must be at least 1"),
        (["{a}", "--row-tokens", "1"], "row_tokens must be at least 2"),
        (["{a}", "--tokenizer", "none"], "tokenizer"),
        (["{a}", "--encoder", "tim:x"], "unknown encoder source"),
        (["{a}", "--html", "/proc/none/page.html"], "cannot write"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(vlm: Vlm, shards: Path, arguments: list[str], words: str) -> None:
    code, out, err = vlm("data", "doctor", *(one.format(a=shards / "a.tar") for one in arguments))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


def test_a_record_is_shown_with_its_tokens(vlm: Vlm, shards: Path) -> None:
    tar = str(shards / "a.tar")
    code, out, err = vlm("data", "show", tar, "0003", "--encoder", "encoders.patch_encoder.PatchEncoder")
    assert (code, err) == (0, "")
    assert "record 3, key '0003'" in out
    assert re.search(r"0\.png +\d+ bytes  PNG, 32 x 32", out)
    assert "user:\n  (0.png: PNG, 32 x 32)\n  What colour is this?\nassistant:\n  black" in out
    assert out.splitlines()[-1].startswith("<|bos|><|user|>(0.png: ")
    assert out.splitlines()[-1].endswith("<|end|>]")
    counts = re.search(r"(\d+) tokens, (\d+) of them slots of pictures; (\d+) with loss", out)
    assert counts is not None
    told = json.loads(vlm("data", "show", tar, "3", "--encoder", "encoders.patch_encoder.PatchEncoder", "--json")[1])
    assert told["key"] == "0003"  # by its number
    assert [told["tokens"][name] for name in ("count", "slots", "answered")] == [int(one) for one in counts.groups()]
    pieces = told["tokens"]["pieces"]
    assert sum(piece["num_tokens"] for piece in pieces) == told["tokens"]["count"]
    assert "".join(piece["text"] for piece in pieces if piece["has_loss"]) == "black<|end|>"
    assert [piece["num_tokens"] for piece in pieces if piece["is_picture"]] == [told["tokens"]["slots"]]


def test_characters_of_several_tokens_stay_whole(vlm: Vlm, tmp_path: Path) -> None:
    words = "漢字 🙂 ünï \ufffd [x] <|end|>"
    write_shard(tmp_path / "a.tar", [("a", {"json": json.dumps({"content": words}).encode()})])
    told = json.loads(vlm("data", "show", str(tmp_path / "a.tar"), "a", "--tokenizer", "demo", "--json")[1])
    assert "".join(piece["text"] for piece in told["tokens"]["pieces"] if not piece["is_special"]) == words
    assert sum(piece["num_tokens"] for piece in told["tokens"]["pieces"]) == told["tokens"]["count"]


def test_a_key_that_is_not_there_names_those_that_are_near(vlm: Vlm, shards: Path) -> None:
    code, out, err = vlm("data", "show", str(shards), "01O3")
    assert (code, out) == (2, "")
    assert "'0103'" in err
    assert "a number from 0 to 119" in err
    assert vlm("data", "show", str(shards), "999")[0] == 2


def test_hostile_text_reaches_no_terminal_and_no_page(vlm: Vlm, hostile: Path, tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        page = tmp_path / "record.html"
        code, out, err = vlm(
            "data",
            "show",
            str(hostile),
            f"r{number}<b>",
            "--html",
            str(page),
            "--encoder",
            "encoders.patch_encoder.PatchEncoder",
        )
        assert (code, err) == (0, "")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)
        shown = require_harmless(page.read_text())
        assert text.isprintable() is (text in " ".join(shown.texts))


def test_a_bad_record_is_shown_as_it_is_stored(vlm: Vlm, hostile: Path, tmp_path: Path) -> None:
    code, out, err = vlm("data", "show", str(hostile), "bad<script>")
    assert code == 2
    assert '{"content": "<script>alert(2)</script>", "content": 1}' in out
    assert "the key 'content' twice" in err
    code, _, err = vlm("data", "show", str(hostile), "bad<script>", "--html", str(tmp_path / "x.html"))
    assert (code, (tmp_path / "x.html").exists()) == (2, False)


def test_a_record_of_a_cut_shard_can_be_shown(vlm: Vlm, shards: Path) -> None:
    os.truncate(shards / "a.tar", 40_000)
    code, out, _ = vlm("data", "show", str(shards / "a.tar"), "nearly")
    assert code == 2
    code, out, _ = vlm("data", "show", str(shards / "a.tar"), "0004")
    assert code == 0
    assert "key '0004'" in out


def test_pictures_are_saved_as_they_are_stored_and_never_over_others(vlm: Vlm, tmp_path: Path, shards: Path) -> None:
    from data.shards import open_shards

    folder = tmp_path / "saved"
    assert vlm("data", "show", str(shards / "a.tar"), "0003", "--save", str(folder))[0] == 0
    (path,) = folder.iterdir()
    assert path.name == "0003.0.png"
    assert path.read_bytes() == open_shards(shards).read(3)[1]["0.png"]
    assert check_header(path.read_bytes()) == (32, 32)
    code, _, err = vlm("data", "show", str(shards / "a.tar"), "0003", "--save", str(folder))
    assert code == 2
    assert "is there already" in err
    write_shard(tmp_path / "deep.tar", [("some/.deep/key", {"png": path.read_bytes(), "txt": b"words"})])
    assert vlm("data", "show", str(tmp_path / "deep.tar"), "0", "--save", str(folder / "more"))[0] == 0
    assert [one.name for one in (folder / "more").iterdir()] == ["some_.deep_key.png"]
