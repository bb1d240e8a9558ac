"""Pages for a browser: the report of a model, and the search page with its server."""
