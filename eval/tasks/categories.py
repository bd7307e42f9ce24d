"""The six kinds of ability by which reports sort the benchmarks.

The columns are those of table 5 of the ConceptMoE paper (arXiv 2601.21420). The paper names none of its benchmarks ("open-source
and proprietary"), so which benchmark stands in which column is our choice, and a row of ours is no reproduction of one of
theirs. docs/benchmarks-list.md says why each stands where it does. `Task.category` is one of the names below, or None.
"""

CATEGORIES = {
    "location": "where in the picture something is",
    "reasoning": "knowledge and several steps of thought over a picture",
    "description": "what is there, and nothing that is not",
    "question answering": "short answers about photographs",
    "chart and text": "text, documents, charts and tables in pictures",
    "comprehensive": "many abilities side by side",
}
