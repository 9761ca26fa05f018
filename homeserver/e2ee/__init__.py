"""End-to-end encryption as far as a server sees it: keys of devices and users, messages to devices, key backups."""
