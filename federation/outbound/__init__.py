"""Sending to other servers: the log's rows to the servers that they concern, in transactions.

    distributor.py    follows the log and says whom each row concerns
    destination.py    what one server has not got yet
    backlog.py        the same on disk, for servers that don't keep up
    sender.py         whose turn it is; a turn is one transaction
    transactions.py   what a transaction carries

Spec: server-server-api#transactions
"""
