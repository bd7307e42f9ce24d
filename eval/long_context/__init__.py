"""Questions over long contexts, made here from the demo's glosses, names and pictures, byte for byte the same each time."""
