"""Where intervals and records go.

``catalog`` is the table of outputs; ``destinations`` opens the outputs of a run. ``sink`` is the
base of all outputs: each has a queue and a thread. ``files``, ``directory``, ``message_queue``
(with ``sysv``) and ``metrics`` are the kinds of sinks. ``recording`` writes traces; it is no sink.

``opening`` opens files, and refuses those that an output must not change; for root, ``links``
refuses links of other users.
"""
