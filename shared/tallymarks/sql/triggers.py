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
