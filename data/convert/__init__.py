"""Other people's data to shards: one file for each format of a source, and what they share."""
