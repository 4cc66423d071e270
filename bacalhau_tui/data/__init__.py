"""Client-side views without Textual."""
