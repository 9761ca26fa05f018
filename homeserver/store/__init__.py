"""The only SQL: tables, migrations, and plain functions that take a transaction.

A store function takes a `sqlalchemy.Connection` first, runs in a database thread and returns attrs rows. One statement
serves n rows. Locks are taken in one order everywhere: room heads ascending by room id, the log head last.
"""
