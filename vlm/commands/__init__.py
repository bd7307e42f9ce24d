"""One file for each `vlm` command, imported only when it is called."""
