"""The interval: an immutable value, and what makes one of a stream."""
