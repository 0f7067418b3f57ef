"""Anniversaries: customers whose next one has come."""

SELECT_TENANTS_WITH_DUE = """
-- A page of the tenants of which a customer's anniversary has come; across tenants, run as the housekeeper.
-- One look into the index for each tenant, as for lapsed memberships.
SELECT t.tenant_id
FROM tenants t
CROSS JOIN LATERAL (
    SELECT c.tenant_id
    FROM customers c
    WHERE c.tenant_id = t.tenant_id AND c.next_anniversary_at <= $2
    ORDER BY c.next_anniversary_at
    LIMIT 1
) AS due
WHERE t.tenant_id > $1
ORDER BY t.tenant_id
LIMIT $3
"""

LOCK_DUE = """
-- Take customers whose anniversary has come, oldest first, past those that another replica (or an update) holds.
SELECT customer_id, created_at, next_anniversary_at
FROM customers
WHERE tenant_id = $1 AND next_anniversary_at <= $2
ORDER BY next_anniversary_at
LIMIT $3
FOR NO KEY UPDATE SKIP LOCKED
"""

MOVE_ON = """
-- Write the next anniversary of locked customers.
UPDATE customers c SET next_anniversary_at = new.next_anniversary_at
FROM unnest($2::uuid[], $3::timestamptz[]) AS new (customer_id, next_anniversary_at)
WHERE c.tenant_id = $1 AND c.customer_id = new.customer_id
"""
