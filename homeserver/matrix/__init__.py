"""The Matrix specification as pure functions: no reactor, no database, no clock, no globals."""
