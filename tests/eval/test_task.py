import pytest

from data.sample import Part, Question
from eval.prompt import fill_prompt
from eval.task import Task, fault, find_task, find_tasks, right_answers
from eval.tasks import GROUPS, TASKS

TEXT, PICTURE = Part(text="What is {this}?"), Part(image="0.png")


def question(**fields: object) -> Question:
    return Question(key="k", id="q", content=(TEXT,), images={}, **fields)  # type: ignore[arg-type]


def test_a_prompt_goes_around_the_text_and_leaves_pictures_in_place() -> None:
    content = (PICTURE, TEXT, PICTURE, Part(text="And this?"))
    filled = fill_prompt("Look. {question}\nAnswer {briefly}.", content)
    assert filled == (PICTURE, Part(text="Look. What is {this}?"), PICTURE, Part(text="And this?\nAnswer {briefly}."))


def test_a_prompt_around_a_question_without_text_becomes_a_text() -> None:
    assert fill_prompt("Describe. {question}", (PICTURE,)) == (PICTURE, Part(text="Describe. "))
    assert fill_prompt("{question}", (PICTURE,)) == (PICTURE,)


@pytest.mark.parametrize("name", ["", "/etc", "a//b", "../a", "a/..", "a b", "a/"])
def test_a_task_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is also a folder"):
        Task(name=name, questions=list)


@pytest.mark.parametrize("prompt", ["Answer.", "{question} {question}"])
def test_a_prompt_without_one_slot_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        Task(name="t", questions=list, prompt=prompt)


@pytest.mark.parametrize(
    ("fields", "mode", "words"),
    [
        ({"choices": ("a",), "answer": 0}, "choose", "at least 2 choices"),
        ({"choices": ("a", "b")}, "choose", "needs `answer`"),
        ({"choices": ("a", "b"), "answer": 2}, "choose", "answer is 2, but there are 2 choices"),
        ({"choices": ("a", "b"), "answer": -1}, "generate", "answer is -1"),
        ({"choices": ("a", "a"), "answer": 0}, "choose", "choices repeat"),
        ({"answers": ("a",)}, "choose", "at least 2 choices"),
        ({}, "generate", "needs `answers`"),
    ],
)
def test_a_question_that_cannot_be_scored_says_why(fields: dict[str, object], mode: str, words: str) -> None:
    assert words in str(fault(question(**fields), mode))  # type: ignore[arg-type]


def test_the_right_answer_is_the_choice_or_else_any_of_the_answers() -> None:
    assert right_answers(question(choices=("a", "b"), answer=1)) == ("b",)
    assert right_answers(question(answers=("x", "y"))) == ("x", "y")


def test_every_listed_task_carries_its_name() -> None:
    assert {name: function().name for name, function in TASKS.items()} == {name: name for name in TASKS}


def test_no_task_lies_in_the_folder_of_another() -> None:
    assert not [(one, other) for one in TASKS for other in TASKS if other.startswith(f"{one}/")]


def test_the_group_demo_is_the_five_tasks_of_the_score_table() -> None:
    names = ["demo/unseen-style", "demo/held-out-category", "demo/presence", "demo/counting", "demo/caption"]
    assert [task.name for task in find_tasks("demo")] == names == list(GROUPS["demo"])


def test_a_task_named_twice_is_run_once() -> None:
    found = find_tasks("demo/counting, demo,demo/location")
    assert [task.name for task in found][:2] == ["demo/counting", "demo/unseen-style"]
    assert len(found) == 6


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'demo/count'; did you mean demo/counting.*demo/presence"):
        find_task("demo/count")


def test_a_group_is_no_task() -> None:
    with pytest.raises(ValueError, match="is a group of tasks"):
        find_task("demo")


def test_no_task_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no task named"):
        find_tasks(" , ")
