"""What is made from ``--help``: the man page and the completions of three shells. `make manual`."""
