"""The operator's pages: templates, static files and two languages. Everything is served from here, no other host is asked."""
