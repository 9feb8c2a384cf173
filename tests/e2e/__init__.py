"""The service as its users meet it: real gunicorn, real far ends, real sockets."""
