"""The pages in a real browser, against real gunicorn, behind nginx too. make test-browser runs them."""
