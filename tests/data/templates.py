"""Chat templates of the kinds that pretrained models bring, written for these tests, and tokenizers that know their tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from data.sample import Message
from data.tokenizer import SPECIAL_TOKENS, Chat, Tokenizer

TOKENS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<role>", "</role>", "<eot>", "<turn>", "</turn>", "<|look|>")
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nBe a cat.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GENERATION = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
HEADERS = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<role>' + message['role'] + '</role>\\n\\n' + message['content'] | trim + '<eot>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<role>assistant</role>\\n\\n' }}{%- endif %}
"""
RENAMED = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('there is no system here') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('users and assistants must take turns') }}
    {%- endif %}
    {%- set name = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<turn>' + name + '\\n' + message['content'] | trim + '</turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}
"""
BRACKETS = """\
{%- if messages[0].role == 'system' %}
    {%- set told, said = messages[0].content + '\\n\\n', messages[1:] %}
{%- else %}
    {%- set told, said = '', messages %}
{%- endif %}
{{- bos_token }}
{%- for message in said %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (told if loop.first else '') + message.content + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""
PARTS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}{{- '<|look|><|image|><|look|>' }}{% else %}{{- part.text }}{% endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# Writes the thoughts of the last answer alone, and opens an answer without any.
THINKING = """\
{%- for message in messages %}
    {%- set text = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set thought = text.split('</think>')[0].split('<think>')[-1] if '</think>' in text else '' %}
        {%- set text = text.split('</think>')[-1] %}
        {%- if loop.last %}{%- set text = '<think>\\n' + thought + '\\n</think>\\n\\n' + text %}{%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + text + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# Tells the system's text before the last question, and so moves it when another comes.
MOVING = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' }}
        {%- if messages[0].role == 'system' and loop.index0 >= messages | length - 2 %}
            {{- messages[0].content + '\\n\\n' }}
        {%- endif %}
        {{- message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

TEXTS = [
    "a picture of a cat and a dog",
    "user assistant system model",
    "what is this? [INST] [/INST]",
    "word one two",
] * 9


def bytes_tokenizer() -> tokenizers.Tokenizer:
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    return with_tokens(fast)


def spaces_tokenizer() -> tokenizers.Tokenizer:
    """Of the SentencePiece kind: a text begins with a space, and unknown characters are bytes."""
    known = [f"<0x{byte:02X}>" for byte in range(256)]
    fast = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", *known], show_progress=False)
    fast.train_from_iterator(TEXTS, trainer)
    fields = json.loads(fast.to_str())
    fields["added_tokens"] = []  # bytes are tokens like others
    return with_tokens(tokenizers.Tokenizer.from_str(json.dumps(fields)))


def with_tokens(fast: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    names = [*SPECIAL_TOKENS, *TOKENS]
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return fast


def ours(fast: tokenizers.Tokenizer, template: str, chat: Chat = "template") -> Tokenizer:
    beside = {"chat_template.jinja": template, "chat_tokens.json": json.dumps(NAMED)}
    return Tokenizer.from_text(fast.to_str(), "t", beside, chat)


def save_folder(folder: Path, fast: tokenizers.Tokenizer, template: str) -> Path:
    folder.mkdir(exist_ok=True)
    ours(fast, template, "own").save(folder)
    return folder


def theirs(fast: tokenizers.Tokenizer, template: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, chat_template=template, **NAMED)


def spoken(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages of text alone as transformers takes them."""
    return [
        {"role": message.role, "content": "".join(part.text or "" for part in message.parts)} for message in messages
    ]
