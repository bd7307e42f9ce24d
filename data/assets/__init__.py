"""The demo's data: committed pieces of real pictures and text, and the code that expands them into shards."""
