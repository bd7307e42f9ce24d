"""Our questions for other people's harnesses. Each format is a file; nothing of a harness is imported to write one."""
