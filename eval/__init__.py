"""Programs that measure the defenses: `python -m eval`."""
