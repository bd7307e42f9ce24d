"""Text to token ids and back, and the special tokens that the chat format is made of.

Text that spells a special token stays text: only data/text.py and data/template_rows.py write special ids.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import tokenizers

from data.chat_template import ChatTemplate
from data.template_sandbox import TemplateFault

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|image|>")
# Our name -> the name in tokenizer.json, for special tokens that a pretrained model has under names of its own.
SPECIAL_NAMES = "special_tokens.json"
TEMPLATE = "chat_template.jinja"
# The tokens that a template knows by the names that a pretrained model has for them, such as bos_token.
TEMPLATE_TOKENS = "chat_tokens.json"
TEMPLATE_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
# What travels with a tokenizer.json that lies in a folder. The settings of generation are kept, not read.
BESIDE = (SPECIAL_NAMES, TEMPLATE, TEMPLATE_TOKENS, "generation_config.json")
Chat = Literal["own", "template"]
DEMO_TOKENIZER = Path(__file__).parent / "assets" / "tokenizer" / "tokenizer.json"


class Tokenizer:
    """A `tokenizer.json` with the project's special tokens, looked up by name.

    Args:
        path: the file, its folder, or `demo` for the one that comes with the package. Beside it may lie
            `special_tokens.json`, with the names that the file has for special tokens.
        chat: `own`: conversations have the project's format. `template`: that of the chat template which lies beside the file.

    Attributes:
        special: every special token of the file with its id, the project's and others.
        stop: the token that ends what the assistant says.
        template: None where the format is the project's own.

    Raises:
        ValueError: the file is missing, or lacks a special token; or its chat template is to be used and cannot.
    """

    def __init__(self, path: str | Path, chat: Chat = "own") -> None:
        path = DEMO_TOKENIZER if str(path) == "demo" else Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            text = file.read_bytes().decode("utf-8")
            found = (file.with_name(name) for name in BESIDE)
            beside = {one.name: one.read_bytes().decode("utf-8") for one in found if one.is_file()}
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"tokenizer {file}: cannot be read ({error}); give a tokenizer.json or its folder"
            ) from None
        self._load(text, str(file), beside, chat)

    @classmethod
    def from_text(cls, text: str, name: str, beside: Mapping[str, str], chat: Chat = "own") -> "Tokenizer":
        """A tokenizer that is in no file yet.

        Args:
            text: of the tokenizer.json.
            name: for messages.
            beside: texts of the files that travel with it, by name.
        """
        new = cls.__new__(cls)
        new._load(text, name, dict(beside), chat)
        return new

    def _load(self, text: str, name: str, beside: dict[str, str], chat: Chat) -> None:
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the Rust side raises nothing narrower
            raise ValueError(f"tokenizer {name}: {error}; is it a tokenizer.json of the tokenizers library?") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        names = _special_names(beside.get(SPECIAL_NAMES, "{}"), name)
        known = {token: tokenizer.token_to_id(own) for token, own in names.items()}
        ids = [number for number in known.values() if number is not None]
        if missing := [names[token] for token, number in known.items() if number is None]:
            raise ValueError(f"tokenizer {name}: lacks {', '.join(missing)}; add them as special tokens")
        if len(set(ids)) < len(ids):
            raise ValueError(f"tokenizer {name}: two special tokens are one in {SPECIAL_NAMES}; each needs its own")
        self.pad, self.bos, self.end, self.system, self.user, self.assistant, self.image = ids
        self.special_names = names
        self._text, self._name, self._tokenizer, self._beside = text, name, tokenizer, beside
        for token in names.values():
            if set(self.encode(token)) & set(ids):
                raise ValueError(f"tokenizer {name}: takes {token} in a text for the token; mark it special: true")
        if chat not in get_args(Chat):
            raise ValueError(f"unknown chat {chat!r} of a tokenizer; known: {', '.join(get_args(Chat))}")
        added = tokenizer.get_added_tokens_decoder()
        self.special = {token.content: number for number, token in added.items() if token.special}
        self.chat, self.template, self.stop = chat, None, self.end
        if chat == "template":
            self.template = self._read_template()
            self.stop = self.template.stop

    def _read_template(self) -> ChatTemplate:
        source = self._beside.get(TEMPLATE)
        if source is None:
            raise ValueError(f"tokenizer {self._name}: has no {TEMPLATE} beside it, so use chat: own")
        self._marking = tokenizers.Tokenizer.from_str(self._text)  # takes special tokens in a text for tokens
        self._marking.no_padding()
        self._marking.no_truncation()
        self._special_names_by_id = {number: name for name, number in self.special.items()}
        named = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
        tokens = {name: self.special_names[token] for name, token in named.items()}
        if TEMPLATE_TOKENS in self._beside:
            tokens = _names(self._beside[TEMPLATE_TOKENS], self._name, TEMPLATE_TOKENS, TEMPLATE_NAMES)
        try:
            return ChatTemplate(source, tokens, self.special, self.special_names["<|image|>"])
        except TemplateFault as fault:
            raise ValueError(f"tokenizer {self._name}: its chat template {fault}; use chat: own") from None

    def with_chat(self, chat: Chat) -> "Tokenizer":
        """The same tokenizer with conversations written so.

        Raises:
            ValueError: as when it is read.
        """
        return Tokenizer.from_text(self._text, self._name, self._beside, chat)

    def __getstate__(self) -> tuple[str, str, dict[str, str], Chat]:
        return self._text, self._name, self._beside, self.chat

    def __setstate__(self, state: tuple[str, str, dict[str, str], Chat]) -> None:
        self._load(*state)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def chat_template(self) -> str | None:
        """The template that came with a pretrained model, used or not."""
        return self._beside.get(TEMPLATE)

    def token_id(self, token: str) -> int | None:
        """The id of a token of that very name, special or not."""
        return self._tokenizer.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never those of special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_between(self, left: str, text: str, right: str) -> list[tuple[int, int, int]]:
        """A text between two special tokens, as it is encoded there; for a tokenizer with a chat template.

        Args:
            left: the special token before it; empty at the beginning.
            right: the one behind it; empty at the end.

        Returns:
            For each token its id and where in the text it stands. Text that spells a special token stays text.
        """
        # With its neighbours: some tokens swallow space beside them, and some tokenizers begin a text with a space.
        whole = left + text + right
        encoded = self._marking.encode(whole, add_special_tokens=False)
        first, last = (1 if left else 0), len(encoded.ids) - (1 if right else 0)
        offset = len(left)
        # By what they stand for: what is unknown may become a special token too.
        found = [
            name
            for number, (start, end) in zip(encoded.ids, encoded.offsets, strict=True)
            if (name := self._special_names_by_id.get(number)) is not None and name in whole[start:end]
        ]
        if found != [token for token in (left, right) if token]:
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
            first, last, offset = 0, len(encoded.ids), 0
        spans = encoded.offsets[first:last]
        return [
            (number, start - offset, end - offset)
            for number, (start, end) in zip(encoded.ids[first:last], spans, strict=True)
        ]

    def answer_ids(self, text: str) -> list[int]:
        """What the assistant says, as it is learned behind a prompt: the ids of a text and the one that ends it."""
        if self.template is None:
            return [*self.encode(text), self.stop]
        template = self.template
        # A prompt ends with this text behind its last special token, and the answer may go on in the midst of it.
        prompt = self.encode_between(template.last, template.header, "")
        whole = self.encode_between(
            template.last, template.header + template.lead + text + template.trail, template.stop_token
        )
        if [token[0] for token in whole[: len(prompt)]] == [token[0] for token in prompt]:
            return [*(token[0] for token in whole[len(prompt) :]), self.stop]
        answer = self.encode_between("", template.lead + text + template.trail, template.stop_token)
        return [*(token[0] for token in answer), self.stop]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens dropped."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def fingerprint(self, with_chat: bool = True) -> str:
        """Changes with the ids of any text.

        Args:
            with_chat: also with how conversations are written, for a tokenizer with a chat template.
        """
        parts = [self._text, self._beside.get(SPECIAL_NAMES, "")]
        if with_chat and self.template is not None:
            parts += ["\0template\0", self._beside[TEMPLATE], self._beside.get(TEMPLATE_TOKENS, "")]
        return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, and what travels with it, into the folder, byte for byte as it was read."""
        for name, text in {"tokenizer.json": self._text, **self._beside}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8", newline="")


def _special_names(text: str, tokenizer: str) -> dict[str, str]:
    """The name in tokenizer.json of each special token."""
    names = _names(text, tokenizer, SPECIAL_NAMES, SPECIAL_TOKENS)
    return {token: names.get(token, token) for token in SPECIAL_TOKENS}


def _names(text: str, tokenizer: str, file: str, known: tuple[str, ...]) -> dict[str, str]:
    """The names that a file beside a tokenizer has for some tokens."""
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ValueError(f"tokenizer {tokenizer}: {file} beside it is no JSON ({error})") from None
    wrong = not isinstance(names, dict) or not all(isinstance(own, str) for own in names.values())
    if wrong or not names.keys() <= set(known):
        raise ValueError(f"tokenizer {tokenizer}: {file} beside it must map some of {', '.join(known)} to names")
    return names
