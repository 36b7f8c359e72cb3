"""The report as people read it: tables, plots, Markdown, HTML, and the folder that holds them."""
