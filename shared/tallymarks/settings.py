"""The settings of every service: environment variables named TALLYMARKS_*, and nothing else."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may set; bounds that nobody should need to change are in `limits`."""

    model_config = SettingsConfigDict(
        env_prefix="TALLYMARKS_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")]
    """PostgreSQL, such as postgresql://user:password@host/name; its login must be a member of tallymarks_service."""
    amqp_url: Annotated[str, Field(pattern=r"^(amqps?://|$)")] = ""
    """RabbitMQ, such as amqp://user:password@host/; every service needs it, `migrate` does not."""
    host: str = "127.0.0.1"
    """The address that the service listens on."""
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """The port it listens on; by default 8080 for the api, 8081 for the assessor, 8082 for segment-expiry,
    8083 for the calendar."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """JSON lines, or readable lines; auto is readable on a terminal."""
    partitions: Annotated[int, Field(ge=1, le=256)] = 1
    """Queues that events are spread over by customer; the same for every service."""
    topology_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "tallymarks"
    """What the names of the exchanges and queues begin with, so that installations can share a broker."""
    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    """Connections to PostgreSQL that one process holds at the most."""
    confirm_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long a request waits for the broker's confirm before it answers 503."""
    rate_limit_per_second: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests that one API key may make in a second of each api process; unlimited unless set."""
    explanations: bool = True
    """Whether assessors keep how each event was assessed: a row for each event."""
    explanation_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    """How long segment-expiry leaves them."""
