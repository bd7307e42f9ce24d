"""MME: MME_Benchmark_release_version with a folder a task, or the parquet files of lmms-lab/MME.

Each picture has two questions, one to be answered yes and one no; they share a group. "Please answer yes or no." at their end is
cut off here and comes back with the prompt `official`.
"""

from collections.abc import Iterator
from pathlib import Path

from eval.group_scores import MME_COGNITION, MME_PERCEPTION
from eval.prepare.release import Release, columns, read_parquet, stored_picture
from eval.prepare.write import Item

TASKS = (*MME_PERCEPTION, *MME_COGNITION)
NEEDS = (
    "a folder for each of the 14 tasks (existence/, OCR/, ...) of MME_Benchmark_release_version, with pictures and .txt files "
    "together, or in images/ and questions_answers_YN/; or data/test-*.parquet of lmms-lab/MME"
)
COUNTS = {"": 2374}
_INSTRUCTION = "Please answer yes or no."


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions, task by task in the order of the paper."""
    inside = [f"{base}existence/{kind}*.txt" for base in ("", "*/", "*/*/") for kind in ("", "questions_answers_YN/")]
    found = release.find(*inside, "data/test-*.parquet", "test-*.parquet")
    if found[0].suffix == ".parquet":
        yield from _of_parquet(found)
        return
    base = next(parent for parent in found[0].parents if parent.name == "existence").parent
    for task in TASKS:
        files = sorted((base / task).glob("questions_answers_YN/*.txt")) or sorted((base / task).glob("*.txt"))
        if not files:
            raise release.wrong(f"has no questions of the task {task} in {base / task}")
        for path in files:
            yield from _of_page(release, task, path)


def _of_page(release: Release, task: str, path: Path) -> Iterator[Item]:
    folder = path.parent.parent / "images" if path.parent.name == "questions_answers_YN" else path.parent
    places = [folder / f"{path.stem}{ending}" for ending in (".jpg", ".png", ".jpeg")]
    picture = release.picture(next((place for place in places if place.is_file()), places[0]))
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(lines) != 2 or not all(line.count("\t") == 1 for line in lines):
        raise ValueError(f"{path}: two lines of question, tab and answer were expected, got {len(lines)} lines")
    for place, line in enumerate(lines):
        text, answer = line.split("\t")
        yield _item(task, path.stem, place, picture, text, answer, str(path))


def _of_parquet(files: list[Path]) -> Iterator[Item]:
    seen: dict[tuple[str, str], int] = {}
    for path in files:
        for row in read_parquet(path):
            name, text, answer, task, image = columns(
                row, "question_id", "question", "answer", "category", "image", where=str(path)
            )
            place = seen.setdefault((task, name), 0)
            seen[task, name] += 1
            picture = stored_picture(image, f"{path}: {name}")
            yield _item(task, Path(name).stem, place, picture, text, answer, str(path))


def _item(task: str, page: str, place: int, picture: bytes, text: str, answer: str, where: str) -> Item:
    right = answer.strip().lower()
    if task not in TASKS or right not in ("yes", "no"):
        raise ValueError(
            f"{where}: a question of task {task!r} has the answer {answer!r}; it must be Yes or No, of {', '.join(TASKS)}"
        )
    return Item(
        id=f"{task}/{page}/{place}",
        content=(picture, text.strip().removesuffix(_INSTRUCTION).rstrip()),
        answers=(right,),
        category=task,
        group=f"{task}/{page}",
    )
