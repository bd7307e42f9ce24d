import re

from vlm.data_report.tokens import COLOURED, DRAWN, WRITTEN, Piece, draw_pieces

PIECES = [
    Piece("<|bos|>", 1, False, is_special=True),
    Piece("0.png", 9, False, is_picture=True),
    Piece("1 <", 1, False),
    Piece(" 2\x1b", 1, False),
    Piece("yes", 1, True),
    Piece(" it", 1, True),
    Piece("<|end|>", 1, True, is_special=True),
]


def test_loss_is_marked_around_its_tokens_and_pictures_are_one_group() -> None:
    assert draw_pieces(PIECES, WRITTEN) == "<|bos|>(0.png: 9 slots)1 <| 2\\x1b[yes| it<|end|>]"


def test_on_a_terminal_all_that_carries_loss_is_bold_to_its_end() -> None:
    text = draw_pieces(PIECES, COLOURED)
    assert text.endswith("\x1b[1;32myes| it<|end|>\x1b[0m")
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == "<|bos|>(0.png: 9 slots)1 <| 2\\x1byes| it<|end|>"


def test_on_a_page_every_text_is_escaped() -> None:
    text = draw_pieces(PIECES, DRAWN)
    assert "1 &lt;" in text
    assert '<b class="loss">yes<span class="cut">|</span> it<span class="special">&lt;|end|&gt;</span></b>' in text
