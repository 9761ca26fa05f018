"""Other servers: discovery, keys, receiving and sending events, joining. Not here yet; rooms/ports.py has the seams."""
