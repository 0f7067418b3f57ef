"""Looking at dead letters, and sending them back to be assessed."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from tallymarks.broker import Broker, Headers, OutgoingMessage
from tallymarks.messages import (
    EVENT_HEADER,
    REASON_CODE_HEADER,
    REASON_HEADER,
    SCHEMA_VERSION_HEADER,
    TENANT_HEADER,
    read_events,
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be assessed."""

    message: AbstractIncomingMessage

    @property
    def reason_code(self) -> str:
        """The code of the reason; what the broker itself put aside was delivered too often."""
        return str(self.message.headers.get(REASON_CODE_HEADER, "DeliveryLimit"))

    def carries(self, event_id: UUID) -> bool:
        """Tell whether the event is in it."""
        try:
            return any(event.event_id == event_id for event in read_events(self.message.body).events)
        except ValidationError:
            return False

    def described(self) -> dict[str, object]:
        """Give what an operator wants to know."""
        headers = self.message.headers
        return {
            "messageId": self.message.message_id,
            "tenantId": headers.get(TENANT_HEADER),
            "eventId": headers.get(EVENT_HEADER),
            "reasonCode": self.reason_code,
            "reason": headers.get(REASON_HEADER),
            "body": self.message.body.decode(errors="replace"),
        }


async def look(broker: Broker, limit: int) -> AsyncGenerator[DeadLetter, None]:
    """Give the letters, oldest first, at most `limit`; what is not acknowledged goes back when the channel closes."""
    channel = await broker.channel()
    try:
        queue = await channel.get_queue(broker.topology.dead_letters, ensure=False)
        for _ in range(limit):
            message = await queue.get(fail=False)
            if message is None:
                return
            yield DeadLetter(message)
    finally:
        await channel.close()


async def replay(broker: Broker, letter: DeadLetter) -> None:
    """Publish the letter's events again, then remove the letter.

    Raises:
        Unavailable: it was not confirmed; the letter stays.
        pydantic.ValidationError: it carries no events, and never can be assessed.
    """
    content = read_events(letter.message.body)
    headers: Headers = {TENANT_HEADER: str(content.tenant_id), SCHEMA_VERSION_HEADER: content.schema_version}
    topology = broker.topology
    await broker.publish(
        OutgoingMessage(
            exchange=topology.events_exchange,
            routing_key=str(topology.partition(content.tenant_id, content.events[0].customer_id)),
            body=letter.message.body,
            headers=headers,
            # Whatever put it aside gave the message its id: it need not be one of ours.
            message_id=content.events[0].event_id,
        )
    )
    await letter.message.ack()
