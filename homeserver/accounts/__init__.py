"""Who people are: accounts, logins, devices, tokens, profiles, account data.

Nothing here knows HTTP; the endpoints stand in homeserver.clientapi. What this package needs from higher ones
(leaving rooms, changing member events) it names in ports.py.
"""
