"""The engine: trace records in, one snapshot of figures for each interval out."""
