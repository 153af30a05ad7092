"""Where intervals and records go.

``catalog`` is the table of outputs; ``destinations`` opens those that a run has. ``sink`` has the
queue and the thread that all share. ``files``, ``directory``, ``message_queue`` and ``metrics`` are
the kinds of sinks. ``opening`` and ``links`` decide which files root may write to.
"""
