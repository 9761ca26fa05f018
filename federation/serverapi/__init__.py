"""The endpoints that other servers call."""
