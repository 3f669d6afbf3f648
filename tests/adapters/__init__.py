"""Pipelines in other frameworks, and their classifiers in ours, against JAX's own numbers."""
