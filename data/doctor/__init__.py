"""What is in shards, and what is wrong with them: every record is read, every fault is named, nothing is changed."""
