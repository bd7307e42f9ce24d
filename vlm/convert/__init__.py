"""Models from elsewhere into model folders of ours, and what a model folder is. Read from_hf.py first."""
