"""Commands: what a user types, from arguments to an exit status."""
