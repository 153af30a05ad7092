"""Formats: functions from an interval to bytes or text, and decoders for JSON and binary."""
