"""Signing keys: our own, those of other servers, and answering for others as a notary."""
