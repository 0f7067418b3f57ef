"""Triggers: action events to come."""

INSERT = """
-- Write triggers, each once. Sorted by trigger_id.
INSERT INTO triggers (
    tenant_id, trigger_id, customer_id, due_at, name_space, reference, source_event_id, depth, created_at
)
SELECT
    $1, t.trigger_id, t.customer_id, t.due_at, t.name_space, t.reference, t.source_event_id, t.depth, $9::timestamptz
FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::uuid[], $8::bigint[])
    AS t (trigger_id, customer_id, due_at, name_space, reference, source_event_id, depth)
ORDER BY t.trigger_id
ON CONFLICT (tenant_id, trigger_id) DO NOTHING
"""

SELECT_TENANTS_WITH_DUE = """
-- A page of the tenants that have due triggers; across tenants, run as the housekeeper.
-- One look into the index for each tenant, as for lapsed memberships.
SELECT t.tenant_id
FROM tenants t
CROSS JOIN LATERAL (
    SELECT r.tenant_id
    FROM triggers r
    WHERE r.tenant_id = t.tenant_id AND r.due_at <= $2
    ORDER BY r.due_at
    LIMIT 1
) AS due
WHERE t.tenant_id > $1
ORDER BY t.tenant_id
LIMIT $3
"""

LOCK_DUE = """
-- Take due triggers, oldest first, past those that another replica holds.
SELECT trigger_id, customer_id, due_at, name_space, reference, source_event_id, depth
FROM triggers
WHERE tenant_id = $1 AND due_at <= $2
ORDER BY due_at
LIMIT $3
FOR UPDATE SKIP LOCKED
"""

DELETE_LOCKED = """
DELETE FROM triggers WHERE tenant_id = $1 AND trigger_id = ANY($2::uuid[])
"""
