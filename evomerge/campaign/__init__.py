"""Campaign: all that must be stated before a search may start, read, checked and estimated."""
