"""What admins do over HTTP: users, rooms, reports, server notices; the API under /_synapse/admin that their tools know.

Nothing is here yet but shared-secret registration's path, which homeserver.clientapi serves.
"""
