"""Complete runs, shipped with the package; `--config demo.yaml` is looked up here after the current folder."""
