"""Architectures of models, one module each."""
