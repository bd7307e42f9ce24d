"""Records to rows: token ids, image slots, positions, and which tokens carry loss.

In: a `Sample`, or the parts of a prompt. Out: a `Row`. The layout is the project's own chat format:
document `<|bos|>` parts `<|end|>`; conversation `<|bos|>`, then for each turn `<|role|>` parts `<|end|>`; a picture is
`<|image|>` once per slot. With a tokenizer whose `chat` is `template`, conversations and prompts are as the pretrained model
had them (template_rows.py); documents stay as they are. Text that spells a special token stays text in both.
"""

from collections.abc import Mapping, Sequence

from data.image import ImageLayout
from data.row import Picture, PictureCrop, Row, RowWriter, Turn, join_rows, token_row
from data.sample import Message, Part, Sample
from data.template_rows import conversation_by_template, opening_by_template, prompt_by_template, turn_by_template
from data.tokenizer import Tokenizer

__all__ = [
    "Picture",
    "PictureCrop",
    "Row",
    "Turn",
    "join_rows",
    "opening_row",
    "prompt_row",
    "sample_row",
    "token_row",
    "turn_row",
]


def sample_row(sample: Sample, tokenizer: Tokenizer, layout: ImageLayout | None, augmentation: int = 0) -> Row:
    """A record to train on. Loss: all text of a document; the assistant's text of a conversation; and its `<|end|>`.

    Raises:
        BadRecord: a picture's header is bad, or the tokenizer's chat template refuses the conversation.
        ValueError: the record has a picture but there is no layout.
    """
    if tokenizer.template is not None and sample.messages is not None:
        return conversation_by_template(sample, sample.messages, tokenizer, tokenizer.template, layout, augmentation)
    writer = RowWriter(sample.id, sample.images, tokenizer, layout, augmentation)
    writer.token(tokenizer.bos)
    if sample.messages is None:
        writer.parts(sample.content or (), loss=True)
        writer.token(tokenizer.end, loss=True)
        return writer.row()
    roles = {"system": tokenizer.system, "user": tokenizer.user, "assistant": tokenizer.assistant}
    for message in sample.messages:
        writer.turn(message.role)
        writer.token(roles[message.role])
        writer.parts(message.parts, loss=message.role == "assistant")
        writer.token(tokenizer.end, loss=message.role == "assistant")
    return writer.row()


def prompt_row(
    content: Sequence[Part],
    images: Mapping[str, bytes],
    tokenizer: Tokenizer,
    layout: ImageLayout | None,
    answer: str | None = None,
) -> Row:
    """One user turn, opened for the assistant. With an answer: its tokens and their end follow and carry the loss.

    Raises:
        BadRecord: a picture is missing or its header is bad, or the tokenizer's chat template refuses the prompt.
        ValueError: there is a picture but no layout.
    """
    if tokenizer.template is not None:
        if answer is None:
            return prompt_by_template(content, images, tokenizer, tokenizer.template, layout)
        messages = (Message("user", tuple(content)), Message("assistant", (Part(text=answer),)))
        sample = Sample("prompt", "prompt", None, messages, images)
        return conversation_by_template(sample, messages, tokenizer, tokenizer.template, layout, 0)
    writer = RowWriter("prompt", images, tokenizer, layout, 0)
    writer.token(tokenizer.bos)
    writer.question(content)
    if answer is not None:
        writer.text(answer, loss=True)
        writer.token(tokenizer.end, loss=True)
    return writer.row()


def opening_row(system: str | None, tokenizer: Tokenizer) -> Row:
    """How a conversation begins: `<|bos|>`, and the system's turn if there is one.

    Raises:
        BadRecord: the tokenizer's chat template refuses a system's turn.
    """
    if tokenizer.template is not None:
        return opening_by_template(system, tokenizer, tokenizer.template)
    writer = RowWriter("conversation", {}, tokenizer, None, 0)
    writer.token(tokenizer.bos)
    if system is not None:
        writer.token(tokenizer.system)
        writer.text(system, loss=False)
        writer.token(tokenizer.end)
    return writer.row()


def turn_row(
    content: Sequence[Part],
    images: Mapping[str, bytes],
    tokenizer: Tokenizer,
    layout: ImageLayout | None,
    time: int,
    before: Sequence[Message],
) -> Row:
    """One further user turn of a conversation, opened for the assistant.

    Args:
        time: the position of its first token, one past the largest before it.
        before: all that was said before, the system's turn too.

    Raises:
        BadRecord: a picture is missing or its header is bad, or the tokenizer's chat template refuses the turn.
        ValueError: there is a picture but no layout.
    """
    if tokenizer.template is not None:
        return turn_by_template(content, images, tokenizer, tokenizer.template, layout, time, before)
    writer = RowWriter("conversation", images, tokenizer, layout, 0, time)
    writer.question(content)
    return writer.row()
