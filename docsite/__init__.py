"""Makes the pages of docs/reference from the code: `python -m docsite` writes them, a test compares them."""
