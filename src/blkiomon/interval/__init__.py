"""The interval: an immutable value, and ``Monitor``, which makes intervals of a stream."""
