"""This repository's studies: pages of values, measured by `rainjax.evaluation`."""
