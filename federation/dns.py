"""SRV records, through the name servers of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from federation.discovery import LookupFailed, SrvRecord

# Seconds before each question is asked again; a slow name server costs no more than their sum.
PATIENCE_S: Final = (1, 3, 6)
MAX_RECORDS: Final = 16


class SrvLookup:
    """Asks with the resolv.conf of the machine, which is read again when it changes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._resolver: Any = None

    async def __call__(self, name: str) -> Sequence[SrvRecord]:
        """Raises: LookupFailed."""
        # PERF(4 MiB of idle memory): not all servers look anything up.
        from twisted.names import client, dns
        from twisted.names.error import AuthoritativeDomainError, DNSNameError, DNSQueryRefusedError

        if self._resolver is None:
            resolver: Any = client.Resolver
            self._resolver = resolver(resolv="/etc/resolv.conf", reactor=self._reactor)
        try:
            answers, _, _ = await self._resolver.lookupService(name, timeout=PATIENCE_S)
        except (DNSNameError, AuthoritativeDomainError):
            return []
        except DNSQueryRefusedError:
            raise LookupFailed(f"the name server refuses to look up {name}") from None
        except Exception as error:  # twisted.names has no common base: time-outs, broken packets, socket errors
            raise LookupFailed(f"no answer for {name}: {type(error).__name__}") from None
        return [_record(answer) for answer in answers if answer.type == dns.SRV][:MAX_RECORDS]


def _record(answer: Any) -> SrvRecord:
    payload = answer.payload
    target = bytes(payload.target.name).decode("latin-1").rstrip(".")
    return SrvRecord(payload.priority, payload.weight, payload.port, target, answer.ttl)
