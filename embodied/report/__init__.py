"""What reports are made of: numbers as text, Markdown, and HTML pages that open from disk."""
