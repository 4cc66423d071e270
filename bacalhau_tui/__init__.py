"""The terminal user interface and the one-shot commands."""
