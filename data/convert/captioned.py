"""What becomes of a picture and its captions: a document, or, where the user asks something, a conversation or a question."""

from collections.abc import Sequence

from data.convert.record import Draft
from data.convert.settings import Settings


def captioned(settings: Settings, identity: str, picture: str, captions: Sequence[str]) -> Draft:
    """The record of a picture.

    Args:
        picture: its name below the item's root.
        captions: at least one; of a question each is a right answer, else they are lines of one text.
    """
    image = {"type": "image", "image": 0}
    text = "\n".join(captions)
    if settings.ask is None:
        return Draft(identity, {"content": [image, {"type": "text", "text": text}]}, (picture,))
    asked = [image, {"type": "text", "text": settings.ask}]
    if settings.benchmark:
        return Draft(identity, {"content": asked, "answers": list(captions)}, (picture,))
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]
    return Draft(identity, {"messages": messages}, (picture,))
