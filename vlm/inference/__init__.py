"""Use a trained model: generate, answer benchmarks, show its concepts, report on a run."""
