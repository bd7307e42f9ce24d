import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.coco_objects import COCO_OBJECTS, OBJECT_OF_WORD
from eval.object_scores import chair_scores, named_objects, singular


def test_there_are_80_classes_and_each_names_itself_in_singular_and_plural() -> None:
    assert len(COCO_OBJECTS) == 80
    assert {name: named_objects(f"a {name}") for name in COCO_OBJECTS} == {name: (name,) for name in COCO_OBJECTS}
    regular = [name for name in COCO_OBJECTS if not name.endswith(("s", "x", "ch", "sh", "fe", "person", "broccoli"))]
    assert {name: named_objects(f"two {name}s") for name in regular} == {name: (name,) for name in regular}


def test_every_word_of_the_table_is_a_singular_that_reading_keeps() -> None:
    lost = {word: named_objects(word) for word, name in OBJECT_OF_WORD.items() if named_objects(word) != (name,)}
    assert lost == {}


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two men eat hot dogs.", ("person", "hot dog")),
        ("A baby elephant and its teddy bear", ("elephant", "teddy bear")),
        ("buses, knives and wine glasses on benches", ("bus", "knife", "wine glass", "bench")),
        ("a toilet seat, a seat", ("toilet",)),
        ("A dog's ball; the dogs' balls", ("dog", "sports ball", "dog", "sports ball")),
        ("a passenger jet over a stop-sign", ("airplane", "stop sign")),
        ("people ride a train of thought", ("person", "train")),
        ("nothing of the kind", ()),
        ("", ()),
    ],
)
def test_captions_name_objects(caption: str, objects: tuple[str, ...]) -> None:
    assert named_objects(caption) == objects


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("puppies", "puppy"),
        ("ties", "tie"),
        ("glasses", "glass"),
        ("sheep", "sheep"),
        ("sandwiches", "sandwich"),
        ("bus", "bus"),
        ("skis", "ski"),
        ("geese", "goose"),
        ("potatoes", "potato"),
        ("this", "this"),
    ],
)
def test_plurals(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_chair_counts_mentions_captions_and_what_was_found() -> None:
    found = chair_scores(
        ["a dog and a cat on a couch", "two dogs", "a red thing"],
        [{"dog", "couch"}, {"dog", "person"}, set()],
        [["a puppy"], ["a man and his dog"], ["a kite"]],
    )
    assert found.chair_i == pytest.approx(1 / 4)
    assert found.chair_s == pytest.approx(1 / 3)
    assert found.recall == pytest.approx(3 / 5)
    assert found.length == pytest.approx((8 + 2 + 3) / 3)
    assert found.mentions == 4


def test_what_people_name_is_there() -> None:
    assert chair_scores(["a kite"], [set()]).chair_s == 1.0
    assert chair_scores(["a kite"], [set()], [["flying a kite"]]).chair_s == 0.0


def test_a_label_that_is_no_class_is_an_error() -> None:
    with pytest.raises(ValueError, match="'dragon'"):
        chair_scores(["x"], [{"dragon"}])


@given(st.lists(st.text(st.sampled_from("dogcat s'hot"), max_size=20), min_size=1, max_size=4))
def test_chair_lies_between_0_and_1(captions: list[str]) -> None:
    found = chair_scores(captions, [{"dog"}] * len(captions))
    assert 0 <= found.chair_i <= 1
    assert 0 <= found.chair_s <= 1
    assert 0 <= found.recall <= 1
