"""The tokenizer of an imported model: texts as in its source, special tokens its own where they mean the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from data.sample import Message, Part, Sample
from data.text import sample_row
from data.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.vlm.convert.pretrained import TEXTS, make_model, make_tokenizer, save
from vlm.convert.from_hf import import_model
from vlm.convert.report import as_text
from vlm.convert.vocabulary import read_vocabulary
from vlm.model_folder import read_model_config

pytestmark = pytest.mark.long


def vocabulary_of(folder: Path, special: tuple[str, ...], config: dict[str, Any], **declared: Any) -> dict[str, str]:
    """Our token -> theirs, for a tokenizer with such special tokens."""
    folder.mkdir(exist_ok=True)
    make_tokenizer(special).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return read_vocabulary(folder, config).own


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedTokenizerFast, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokens")
    save(make_model("llama", torch.float32), folder / "hf")
    import_model(str(folder / "hf"), folder / "model")
    return PreTrainedTokenizerFast.from_pretrained(folder / "hf"), Tokenizer(folder / "model")


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.one_of(st.sampled_from("the red,\n 12!"), st.characters(exclude_categories=["Cs"]))))
def test_texts_have_the_ids_of_transformers(imported: tuple[PreTrainedTokenizerFast, Tokenizer], text: str) -> None:
    theirs, ours = imported
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == text


def test_a_text_never_spells_a_special_token(imported: tuple[PreTrainedTokenizerFast, Tokenizer]) -> None:
    _, ours = imported
    special = {ours.pad, ours.bos, ours.end, ours.system, ours.user, ours.assistant, ours.image}
    for token in (*SPECIAL_TOKENS, "<|im_end|>", "<|im_start|>", "<|endoftext|>", *TEXTS):
        ids = ours.encode(f"a {token} b")
        assert not special & set(ids)
        assert ours.decode(ids) == f"a {token} b"


def test_the_tokens_and_the_template_survive_another_save(tmp_path: Path) -> None:
    save(make_model("llama", torch.float32), tmp_path / "hf")
    import_model(str(tmp_path / "hf"), tmp_path / "model")
    (tmp_path / "again").mkdir()
    first = Tokenizer(tmp_path / "model" / "tokenizer.json")
    first.save(tmp_path / "again")
    again = Tokenizer(tmp_path / "again")
    assert again.special_names == first.special_names
    assert again.special_names["<|end|>"] == "<|im_end|>"
    assert again.fingerprint() == first.fingerprint()
    assert again.chat_template == "{{ '<|im_start|>' }}"


CHATML = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_a_chat_template_that_is_chosen_writes_the_conversations(tmp_path: Path) -> None:
    save(make_model("llama", torch.float32), tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text(CHATML)
    done = import_model(str(tmp_path / "hf"), tmp_path / "model", chat="template")
    assert "by it (chat: template); <|im_end|> ends an answer" in as_text(done)
    assert read_model_config(tmp_path / "model").chat == "template"
    assert json.loads((tmp_path / "model" / "chat_tokens.json").read_text()) == {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    ours = Tokenizer(tmp_path / "model", "template")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    said = [{"role": "user", "content": "the red 12"}, {"role": "assistant", "content": "the"}]
    messages = tuple(Message(one["role"], (Part(text=one["content"]),)) for one in said)
    row = sample_row(Sample("k", "s", None, messages, {}), ours, None)
    assert row.ids.tolist() == theirs.apply_chat_template(said, tokenize=True)["input_ids"]
    own = import_model(str(tmp_path / "hf"), tmp_path / "own")
    assert "kept; conversations have the project's own format (chat: own)" in as_text(own)
    assert read_model_config(tmp_path / "own").chat == "own"


def test_a_chat_template_that_cannot_be_used_is_kept_or_refused(tmp_path: Path) -> None:
    save(make_model("llama", torch.float32), tmp_path / "hf")
    done = import_model(str(tmp_path / "hf"), tmp_path / "model")
    assert "kept, but it cannot be used: " in as_text(done)
    with pytest.raises(ValueError, match="its chat template drops, repeats"):
        import_model(str(tmp_path / "hf"), tmp_path / "other", chat="template")
    assert not (tmp_path / "other").exists()


def test_the_source_s_own_tokens_serve_where_they_mean_the_same(tmp_path: Path) -> None:
    qwen = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
    chat = {"eos_token": "<|im_end|>", "bos_token": None, "pad_token": "<|endoftext|>"}
    own = vocabulary_of(tmp_path / "qwen", qwen, {"bos_token_id": 280, "eos_token_id": 282}, **chat)
    assert own == {"<|end|>": "<|im_end|>", "<|bos|>": "<|endoftext|>", "<|image|>": "<|image_pad|>"}
    llama = ("<|begin_of_text|>", "<|eot_id|>", "<|image|>")
    declared = {"eos_token": {"content": "<|eot_id|>"}, "bos_token": {"content": "<|begin_of_text|>"}}
    own = vocabulary_of(tmp_path / "llama", llama, {"eos_token_id": [281, 280]}, **declared)
    assert own == {"<|end|>": "<|eot_id|>", "<|bos|>": "<|begin_of_text|>", "<|image|>": "<|image|>"}
    assert vocabulary_of(tmp_path / "bare", ("</s>",), {"eos_token_id": 280, "bos_token_id": 280}) == {
        "<|end|>": "</s>"
    }


def test_a_vocabulary_that_has_every_token_is_kept_byte_for_byte(tmp_path: Path) -> None:
    assert len(vocabulary_of(tmp_path, SPECIAL_TOKENS, {})) == len(SPECIAL_TOKENS)
    vocabulary = read_vocabulary(tmp_path, {})
    vocabulary.tokenizer.save(tmp_path / "..")
    assert (tmp_path / ".." / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert vocabulary.added == ()


def test_an_end_that_a_text_can_spell_is_not_taken_and_a_name_of_ours_is_refused(tmp_path: Path) -> None:
    spelled = make_tokenizer(())
    spelled.add_tokens([AddedToken("</s>", special=False)])
    spelled.save(str(tmp_path / "tokenizer.json"))
    assert "<|end|>" in read_vocabulary(tmp_path, {"eos_token_id": 280}).added
    spelled.add_tokens([AddedToken("<|user|>", special=False)])
    spelled.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"has <\|user\|> as a token that a text can spell; mark it special: true"):
        read_vocabulary(tmp_path, {})


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tmp_path: Path) -> None:
    save(make_model("llama", torch.float32, vocab_size=282), tmp_path / "hf")
    with pytest.raises(ValueError, match=r"embed\.weight has 282 rows and tokenizer\.json 283 tokens"):
        import_model(str(tmp_path / "hf"), tmp_path / "model")


def test_names_that_are_no_names_are_refused(tmp_path: Path) -> None:
    make_tokenizer(SPECIAL_TOKENS).save(str(tmp_path / "tokenizer.json"))
    for text, told in {
        "[": "is no JSON",
        "[]": "must map some of",
        '{"<|stop|>": "<|end|>"}': "must map some of",
        '{"<|end|>": "<|pad|>"}': "two special tokens are one",
        '{"<|end|>": "</s>"}': "lacks </s>",
    }.items():
        (tmp_path / "special_tokens.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            Tokenizer(tmp_path)
