"""Segment memberships; every read leaves out those that have lapsed by $now, removed or not."""

SELECT_OF_CUSTOMERS = """
-- The current memberships of the customers of a batch.
SELECT customer_id, segment_id, expiry_date_time
FROM segment_memberships
WHERE
    tenant_id = $1 AND customer_id = ANY($2::uuid[])
    AND (expiry_date_time IS NULL OR expiry_date_time > $3)
"""

REMOVE_LAPSED_OF_CUSTOMERS = """
-- Remove what has lapsed among the memberships that are about to be written: joining again then starts anew.
DELETE FROM segment_memberships m
USING unnest($2::uuid[], $3::uuid[]) AS pair (customer_id, segment_id)
WHERE
    m.tenant_id = $1 AND m.customer_id = pair.customer_id AND m.segment_id = pair.segment_id
    AND m.expiry_date_time <= $4
RETURNING m.customer_id, m.segment_id, m.created_at, m.expiry_date_time
"""

UPSERT = """
-- Join, or move the lapse of a current member; under the account lock. Sorted by customer and segment.
INSERT INTO segment_memberships AS m (
    tenant_id, customer_id, segment_id, created_at, changed_at, source_event_id, expiry_date_time
)
SELECT $1, new.customer_id, new.segment_id, $6::timestamptz, $6::timestamptz, new.source_event_id, new.expiry_date_time
FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[])
    AS new (customer_id, segment_id, source_event_id, expiry_date_time)
ORDER BY new.customer_id, new.segment_id
ON CONFLICT (tenant_id, customer_id, segment_id) DO UPDATE
SET changed_at = excluded.changed_at, expiry_date_time = excluded.expiry_date_time
"""

DELETE = """
-- Leave; under the account lock. Gives back those that were current members.
DELETE FROM segment_memberships m
USING unnest($2::uuid[], $3::uuid[]) AS pair (customer_id, segment_id)
WHERE
    m.tenant_id = $1 AND m.customer_id = pair.customer_id AND m.segment_id = pair.segment_id
    AND (m.expiry_date_time IS NULL OR m.expiry_date_time > $4)
RETURNING m.customer_id, m.segment_id
"""

SELECT_PAGE = """
-- A page of a customer's current memberships.
SELECT
    m.segment_id, m.tenant_id, s.name, s.description, s.display_name, m.created_at, m.changed_at, m.source_event_id,
    m.expiry_date_time
FROM segment_memberships m
JOIN segments s ON s.tenant_id = m.tenant_id AND s.segment_id = m.segment_id
WHERE
    m.tenant_id = $1 AND s.tenant_id = $1 AND m.customer_id = $2 AND m.segment_id > $3
    AND (m.expiry_date_time IS NULL OR m.expiry_date_time > $5)
ORDER BY m.segment_id
LIMIT $4
"""

SELECT_ONE = """
SELECT
    m.segment_id, m.tenant_id, s.name, s.description, s.display_name, m.created_at, m.changed_at, m.source_event_id,
    m.expiry_date_time
FROM segment_memberships m
JOIN segments s ON s.tenant_id = m.tenant_id AND s.segment_id = m.segment_id
WHERE m.tenant_id = $1 AND s.tenant_id = $1 AND m.customer_id = $2 AND m.segment_id = $3
"""

SELECT_TENANTS_WITH_LAPSED = """
-- A page of the tenants that have lapsed memberships; the one statement across tenants, run as the housekeeper.
-- One look into the index for each tenant: with EXISTS the planner would rather read all memberships at every poll.
SELECT t.tenant_id
FROM tenants t
CROSS JOIN LATERAL (
    SELECT m.tenant_id
    FROM segment_memberships m
    WHERE m.tenant_id = t.tenant_id AND m.expiry_date_time <= $2
    ORDER BY m.expiry_date_time
    LIMIT 1
) AS lapsed
WHERE t.tenant_id > $1
ORDER BY t.tenant_id
LIMIT $3
"""

LOCK_LAPSED = """
-- Take lapsed memberships, oldest first, past those that another replica (or a customer joining again) holds.
SELECT customer_id, segment_id, created_at, expiry_date_time
FROM segment_memberships
WHERE tenant_id = $1 AND expiry_date_time <= $2
ORDER BY expiry_date_time
LIMIT $3
FOR UPDATE SKIP LOCKED
"""

DELETE_LOCKED = """
DELETE FROM segment_memberships m
USING unnest($2::uuid[], $3::uuid[]) AS pair (customer_id, segment_id)
WHERE m.tenant_id = $1 AND m.customer_id = pair.customer_id AND m.segment_id = pair.segment_id
"""

INSERT_LAPSES = """
-- Record removals.
INSERT INTO segment_lapses (tenant_id, customer_id, segment_id, joined_at, lapsed_at, recorded_at)
SELECT $1, gone.customer_id, gone.segment_id, gone.joined_at, gone.lapsed_at, $6::timestamptz
FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::timestamptz[])
    AS gone (customer_id, segment_id, joined_at, lapsed_at)
"""
