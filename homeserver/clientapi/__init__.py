"""The client-server API: one file per section of the specification, endpoints in its order."""
