"""Prompts: the files are frozen, and slots are filled by plain cutting."""

import hashlib
from pathlib import Path

import pytest

from data.sample import Part, Question
from eval.prompt import FOLDER, fill_prompt, identify, read_prompt, shows_options, slots_of
from eval.task import Task, with_prompt, with_rule
from eval.tasks import TASKS

FROZEN = Path(__file__).parent / "prompts.sha256"
PICTURE = Part(image="0.png")


def frozen() -> dict[str, str]:
    pairs = (line.split("  ") for line in FROZEN.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def question(text: str = "Which?", **fields: object) -> Question:
    return Question(key="k", id="q", content=(PICTURE, Part(text=text)), images={}, **fields)  # type: ignore[arg-type]


def test_no_prompt_file_has_changed_since_it_was_frozen() -> None:
    """A word more or less moves scores by points: a new wording is a new file, and a new line in prompts.sha256."""
    files = {str(path.relative_to(FOLDER)): path for path in FOLDER.rglob("*.txt")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == frozen()


def test_every_prompt_file_can_be_used() -> None:
    for name in frozen():
        assert not read_prompt(name.removesuffix(".txt")).endswith("\n")


def test_every_task_finds_all_its_prompts() -> None:
    for make in TASKS.values():
        task = make()
        for variant in task.prompts:
            assert with_prompt(task, variant).name == task.name


def test_options_are_lettered_lines_and_a_line_without_a_hint_is_left_out() -> None:
    asked = question(choices=("red", "{hint} blue"), answer=0)
    filled = fill_prompt(read_prompt("llava/letter"), asked.content, slots_of(asked))
    text = "Which?\nA. red\nB. {hint} blue\nAnswer with the option's letter from the given choices directly."
    assert filled == (PICTURE, Part(text=text))
    hinted = question(choices=("red", "blue"), answer=0, meta={"hint": "Look at the {options}."})
    first = fill_prompt(read_prompt("llava/letter"), hinted.content, slots_of(hinted))[1].text
    assert first is not None
    assert first.startswith("Look at the {options}.\nWhich?\nA. red\nB. blue\n")


def test_brackets_are_another_slot() -> None:
    asked = question(choices=("red", "blue"), answer=0)
    assert fill_prompt("{question}\n{options_in_brackets}", asked.content, slots_of(asked))[1].text == (
        "Which?\n(A) red\n(B) blue"
    )


def test_what_follows_the_question_follows_its_last_picture() -> None:
    content = (Part(text="Is this"), PICTURE)
    assert fill_prompt("Q: {question}\nSay.", content) == (Part(text="Q: Is this"), PICTURE, Part(text="\nSay."))


def test_a_result_names_the_file_only_if_its_text_was_used() -> None:
    files = {"llava": "llava/letter", "question": "question"}
    used = identify(read_prompt("question"), files)
    assert (used.variant, used.file) == ("question", "question.txt")
    other = identify("{question}!", files)
    assert (other.variant, other.file, len(other.sha256)) == (None, None, 64)


def test_an_unknown_variant_or_file_names_the_known() -> None:
    task = Task(name="t", questions=list, prompts={"llava": "llava/letter"})
    with pytest.raises(ValueError, match=r"task t has no prompt 'official'; its variants: llava"):
        with_prompt(task, "official")
    with pytest.raises(ValueError, match=r"no prompt 'llava/lettre'.*llava/letter"):
        read_prompt("llava/lettre")


def test_questions_without_choices_get_the_open_prompt() -> None:
    task = Task(name="t", questions=list, prompts={"a": "llava/letter"}, open_prompts={"a": "llava/short-answer"})
    assert (task.ask(question(answers=("x",))).content[1].text or "").endswith("using a single word or phrase.")
    assert (task.ask(question(choices=("x", "y"), answer=0)).content[1].text or "").endswith("choices directly.")


def test_rules_that_rank_texts_do_not_show_them_and_the_letter_rule_must() -> None:
    task = Task(name="t", questions=list, prompts={"llava": "llava/letter", "question": "question"})
    assert not shows_options(with_rule(task, "sum").prompt)
    assert shows_options(with_rule(task, "letter").prompt)
    with pytest.raises(ValueError, match="the prompt must show the options"):
        with_rule(Task(name="t", questions=list), "letter")
