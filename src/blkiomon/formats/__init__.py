"""Formats: an interval as bytes or text, and back."""
