"""Defenses that purify an image before an unchanged classifier, and honest attacks on them."""

__version__ = "0.1.0.dev0"
