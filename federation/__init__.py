"""Other servers: finding them, their keys, receiving and sending events, joining rooms there, filling in history.

Nothing is here yet. It will implement the Protocols in homeserver.rooms.ports, follow the log with a position for each
destination, and serve /_matrix/federation; only homeserver.main will import it.
"""
