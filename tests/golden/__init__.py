"""Outputs of other people's code, each beside the script that made it."""
