"""This server as a guest: entering and leaving rooms through servers that are in them, and asking those servers."""
