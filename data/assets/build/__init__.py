"""The maintainer's builder of the committed pieces; see `data/assets/README.md`. Users never run it."""
