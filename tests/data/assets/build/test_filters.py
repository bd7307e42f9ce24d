"""What the builder keeps, drops and calls things."""

import pytest

from data.assets.build.clipart import clean_description, clean_title, is_public_domain, split_of
from data.assets.build.emoji import family_of, subcategory_words
from data.assets.build.glosses import clean_gloss
from data.assets.build.questions import deal
from data.assets.build.words import UNFIT, is_english

LEXICON = frozenset(["cat", "sleep", "draw", "red", "house", "tree", "big", "sun", "water", "glass", "ice"])


@pytest.mark.parametrize("label", ["farmer", "man farmer", "woman farmer", "Woman Farmer: dark skin tone"])
def test_a_family_does_not_say_who(label: str) -> None:
    assert family_of(label) == "farmer"


def test_each_flag_is_a_family() -> None:
    assert family_of("flag: Chile") != family_of("flag: Peru")


def test_people_as_such_are_one_family() -> None:
    assert {family_of(label) for label in ("man", "woman", "person", "boy", "girl")} == {"person"}


@pytest.mark.parametrize(
    ("key", "words"),
    [("animal-mammal", "mammal"), ("face-sleepy", "sleepy face"), ("hotel", "hotel"), ("food-asian", "asian food")],
)
def test_subcategories_read_as_words(key: str, words: str) -> None:
    assert subcategory_words(key) == words


@pytest.mark.parametrize(
    ("title", "clean"),
    [("Candy_22", "candy"), ("Baseball Bat", "baseball bat"), ("rubber_duck2", "rubber duck"), ("saw (tool)", "saw")],
)
def test_titles_lose_numbers_and_brackets(title: str, clean: str) -> None:
    assert clean_title(title) == clean


@pytest.mark.parametrize(
    "title", ["Part of the Flat Icon Collection", "Lemon SVG theme", "write to me@there.org", "gun"]
)
def test_titles_that_name_no_picture_are_unfit(title: str) -> None:
    assert UNFIT.search(title)


def test_foreign_titles_are_not_english() -> None:
    assert is_english("a red house", LEXICON)
    assert is_english("sleeping cats", LEXICON)
    assert not is_english("una casa roja", LEXICON)
    assert not is_english("the of and", LEXICON)


def test_descriptions_are_one_sentence_about_the_picture() -> None:
    assert clean_description("a glass of ice water. Enjoy!", "glass", LEXICON) == "A glass of ice water."
    assert clean_description("I draw a red house here", "house", LEXICON) == ""
    assert clean_description("una casa roja con dos arboles", "house", LEXICON) == ""


def test_only_the_public_domain_is_taken() -> None:
    assert is_public_domain('<cc:license rdf:resource="http://web.resource.org/cc/PublicDomain"/>')
    assert not is_public_domain('<cc:license rdf:resource="http://web.resource.org/cc/PublicDomain"/> GPL')
    assert not is_public_domain("<svg/>")


def test_titles_of_one_head_word_stay_on_one_side() -> None:
    assert split_of("big red house") == split_of("house")


def test_glosses_lose_examples_and_remarks() -> None:
    assert clean_gloss('(botany) a big plant ; "the tree fell"') == "a big plant"
    assert clean_gloss("odd | line with ` signs") == ""


def test_blocks_are_dealt_from_different_families() -> None:
    members = [{"key": f"{family}{i}", "family": family} for family in "abcdef" for i in range(3)]
    blocks, rest = deal(members, "test")
    assert 4 * len(blocks) + len(rest) == 18
    assert len(rest) <= 3
    assert all(len({concept["family"] for concept in block}) == 4 for block in blocks)
