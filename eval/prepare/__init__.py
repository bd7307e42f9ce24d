"""From a benchmark's official release, as people download it, to our shards.

In: a folder with the release. Out: FOLDER/TASK/ with shards, a manifest, and `prepared.json` that says what went in.
A converter is a file of this package, named after the first part of its tasks' names ("mmmu-pro/vision": mmmu_pro.py), with

    COUNTS = {"vision": 1730}  # questions of the published split, where it is known: another number is said
    NEEDS = "what the folder must hold, in words for people"
    def read(release: Release, part: str) -> Iterator[Item]: ...

where `part` is the rest of the task's name ("vision", or "" for a task without one). See eval/prepare/write.py for an Item.
"""
