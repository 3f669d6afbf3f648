"""Measurements of time, memory and quality, side by side with other people's code."""
