"""Renderers: a ladder as text, SVG, HTML, Mermaid, Markdown and JSON. They know calls, never backends."""
