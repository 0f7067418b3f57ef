"""What the services of the loyalty engine share: the domain, the ledger, the broker, the database."""
