"""The report as people read it: tables, plots, Markdown, HTML."""
