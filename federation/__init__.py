"""Other servers: finding them, their keys, receiving and sending events, joining rooms there, filling in history.

It implements the Protocols in homeserver.rooms.ports, follows the log with a position for each destination, and serves
/_matrix/federation and /_matrix/key; only homeserver.main imports it.
"""
