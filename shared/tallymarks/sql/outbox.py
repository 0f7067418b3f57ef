"""The outbox: what has to reach the broker. A small table that all tenants share."""

INSERT = """
INSERT INTO outbox (outbox_id, tenant_id, exchange, routing_key, headers, body, created_at)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7)
"""

TAKE = """
-- Oldest first, past what another relay holds; the locks last until what was published is deleted.
SELECT outbox_id, tenant_id, exchange, routing_key, headers, body
FROM outbox
ORDER BY outbox_id
LIMIT $1
FOR UPDATE SKIP LOCKED
"""

DELETE = """
DELETE FROM outbox WHERE outbox_id = ANY($1::uuid[])
"""
