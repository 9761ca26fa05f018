"""For who comes from Synapse: import of its configuration and database, its admin API, its modules.

Nothing is here yet. It will stand above the domain services and write through them; only homeserver.main will import it.
"""
