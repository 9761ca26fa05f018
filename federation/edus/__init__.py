"""EDUs, a file for each kind: how ours go out and how others' are taken in.

How durable each is:

    m.direct_to_device                          each message, until it is delivered
    m.device_list_update, m.signing_key_update  the newest of each user, from which the other server sees what it missed
    m.receipt                                   while this process lives, the newest of each user, room and thread
    m.typing, m.presence                        for a minute

Spec: server-server-api#edus
"""
