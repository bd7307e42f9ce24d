"""Text to token ids and back, and the special tokens that the chat format is made of.

Text that spells a special token stays text: only data/text.py writes special ids.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import tokenizers

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|image|>")
# Our name -> the name in tokenizer.json, for special tokens that a pretrained model has under names of its own.
SPECIAL_NAMES = "special_tokens.json"
# What travels with a tokenizer.json that lies in a folder. The chat template and the settings are kept, not read.
BESIDE = (SPECIAL_NAMES, "chat_template.jinja", "generation_config.json")
DEMO_TOKENIZER = Path(__file__).parent / "assets" / "tokenizer" / "tokenizer.json"


class Tokenizer:
    """A `tokenizer.json` with the project's special tokens, looked up by name.

    Args:
        path: the file, its folder, or `demo` for the one that comes with the package. Beside it may lie
            `special_tokens.json`, with the names that the file has for special tokens.

    Raises:
        ValueError: the file is missing, or lacks a special token.
    """

    def __init__(self, path: str | Path) -> None:
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
        self._load(text, str(file), beside)

    @classmethod
    def from_text(cls, text: str, name: str, beside: Mapping[str, str]) -> "Tokenizer":
        """A tokenizer that is in no file yet.

        Args:
            text: of the tokenizer.json.
            name: for messages.
            beside: texts of the files that travel with it, by name.
        """
        new = cls.__new__(cls)
        new._load(text, name, dict(beside))
        return new

    def _load(self, text: str, name: str, beside: dict[str, str]) -> None:
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

    def __getstate__(self) -> tuple[str, str, dict[str, str]]:
        return self._text, self._name, self._beside

    def __setstate__(self, state: tuple[str, str, dict[str, str]]) -> None:
        self._load(*state)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def chat_template(self) -> str | None:
        """The template that came with a pretrained model; kept for those who want it, not used here."""
        return self._beside.get("chat_template.jinja")

    def token_id(self, token: str) -> int | None:
        """The id of a token of that very name, special or not."""
        return self._tokenizer.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never those of special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens dropped."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def fingerprint(self) -> str:
        return hashlib.blake2b((self._text + self._beside.get(SPECIAL_NAMES, "")).encode(), digest_size=8).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, and what travels with it, into the folder, byte for byte as it was read."""
        for name, text in {"tokenizer.json": self._text, **self._beside}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8", newline="")


def _special_names(text: str, tokenizer: str) -> dict[str, str]:
    """The name in tokenizer.json of each special token."""
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ValueError(f"tokenizer {tokenizer}: {SPECIAL_NAMES} beside it is no JSON ({error})") from None
    wrong = not isinstance(names, dict) or not all(isinstance(own, str) for own in names.values())
    if wrong or not names.keys() <= set(SPECIAL_TOKENS):
        raise ValueError(
            f"tokenizer {tokenizer}: {SPECIAL_NAMES} beside it must map some of {', '.join(SPECIAL_TOKENS)} to names"
        )
    return {token: names.get(token, token) for token in SPECIAL_TOKENS}
