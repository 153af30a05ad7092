"""Formats: how intervals and other items become bytes or text, and how these are read.

``rendering`` has ``Format``, which each output makes. Intervals become text or structs of the
original (``human_text``, ``stats_file``), CSV or Parquet (``csv``, ``parquet``: both from
``flat_table``), JSON (``json_codec``; ``json_lines`` is its fast form), metrics (``openmetrics``,
``protobuf``), compact bytes (``binary_codec``), Arrow tables of archives (``rows``) or tables of
other libraries (``frames``). ``debug``, ``driver_data`` and ``slow`` render other items;
``device_info`` and ``topology`` are for the devices of a host.

``stats_reader`` reads statistics files. ``validation`` checks decoded intervals. ``templates`` and
``units`` have what several formats need.
"""
