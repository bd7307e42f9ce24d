"""What `vlm data doctor` and `vlm data show` print and draw."""
