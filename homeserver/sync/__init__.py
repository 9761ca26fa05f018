"""GET /sync and its older relatives: what is new to a client, spliced from bytes that are encoded once."""
