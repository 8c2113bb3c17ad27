"""Formatting of what the analysis found: text, HTML, JSON. No arithmetic."""
