"""Hearth, a federated, self-hostable Matrix homeserver."""
