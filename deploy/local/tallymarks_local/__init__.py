"""Everything on one machine: private PostgreSQL and RabbitMQ servers, and what `make run` does."""
