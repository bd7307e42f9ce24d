"""Where the project meets other people's programs: what they ask for, in terms of ours."""
