"""The ready scenarios, a module each: its first line is what `drill --list` says."""
