"""Recorded events."""

INSERT_EVENTS = """
-- Claim events: the rows that come back are new, all others have taken effect before. $2 sorted by event_id; of two
-- with one id the first is taken.
INSERT INTO events (
    tenant_id, event_id, customer_id, event_type, name_space, reference, created_at, recorded_at, assessed_at, body
)
SELECT
    $1, e.event_id, e.customer_id, e.event_type, e.name_space, e.reference, e.created_at, $3::timestamptz,
    $3::timestamptz, e.body
FROM unnest($2::new_event[])
    WITH ORDINALITY AS e (event_id, customer_id, event_type, name_space, reference, created_at, body, place)
ORDER BY e.place
ON CONFLICT (tenant_id, event_id) DO NOTHING
RETURNING event_id
"""

INSERT_REDEMPTION = """
-- Claim a redemption; it is debited in this transaction and assessed later.
INSERT INTO events (
    tenant_id, event_id, customer_id, event_type, name_space, reference, created_at, recorded_at, assessed_at, body
)
VALUES ($1, $2, $3, 'redemption', $4, $5, $6, $7, NULL, $8::jsonb)
ON CONFLICT (tenant_id, event_id) DO NOTHING
RETURNING event_id
"""

LOCK_REDEMPTIONS = """
-- Of debited redemptions those not assessed yet, locked in key order: another assessor may have the same message.
SELECT event_id FROM events
WHERE tenant_id = $1 AND event_id = ANY($2::uuid[]) AND event_type = 'redemption' AND assessed_at IS NULL
ORDER BY event_id
FOR NO KEY UPDATE
"""

MARK_ASSESSED = """
UPDATE events SET assessed_at = $3 WHERE tenant_id = $1 AND event_id = ANY($2::uuid[])
"""

SELECT_RECORDED = """
-- Of the given ids those that are taken, and by what was created when. Each is looked up by itself: a plan lives as
-- long as its connection, and one for all ids at once, made while the table was small, would go on reading all of it.
SELECT taken.event_id, taken.created_at
FROM unnest($2::uuid[]) AS new (event_id)
CROSS JOIN LATERAL (
    SELECT e.event_id, e.created_at FROM events e WHERE e.tenant_id = $1 AND e.event_id = new.event_id LIMIT 1
) AS taken
"""

SELECT_EVENT = """
SELECT event_type, customer_id, body FROM events WHERE tenant_id = $1 AND event_id = $2
"""

COUNT_IN_WINDOWS = """
-- How many assessed events of one customer, type and nameSpace lie in each window, without those of this transaction
-- ($2); more than a window's count_max are not counted, so that no answer costs more than the question.
SELECT asked.place, counted.events
FROM unnest($3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::bigint[])
    AS asked (place, customer_id, event_type, name_space, after, until, count_max)
CROSS JOIN LATERAL (
    SELECT count(*) AS events
    FROM (
        SELECT e.event_id
        FROM events e
        WHERE
            e.tenant_id = $1 AND e.customer_id = asked.customer_id AND e.event_type = asked.event_type
            AND e.name_space IS NOT DISTINCT FROM asked.name_space
            AND e.created_at > asked.after AND e.created_at <= asked.until AND e.assessed_at IS NOT NULL
            AND e.event_id <> ALL($2::uuid[])
        LIMIT asked.count_max
    ) AS found
) AS counted
"""

SELECT_ASSESSED = """
-- An event, with what it followed from where it is a points event that did.
SELECT
    event_id, tenant_id, customer_id, event_type, created_at, assessed_at,
    (body ->> 'sourceEventId')::uuid AS source_event_id
FROM events
WHERE tenant_id = $1 AND event_id = $2
"""

SEARCH_OF_CUSTOMER = """
-- A page of one customer's events, newest first.
SELECT
    event_id, tenant_id, customer_id, created_at, event_type, name_space, reference
FROM events
WHERE
    tenant_id = $1 AND customer_id = $2
    AND ($3::text IS NULL OR event_type = $3)
    AND ($4::text IS NULL OR name_space ILIKE $4 OR reference ILIKE $4)
    AND created_at >= $5 AND (created_at, event_id) < ($6, $7)
ORDER BY created_at DESC, event_id DESC
LIMIT $8
"""

SEARCH_OF_EVENT = """
-- A page of one event's events ($2), newest first; of any customer where $9 is null.
SELECT
    event_id, tenant_id, customer_id, created_at, event_type, name_space, reference
FROM events
WHERE
    tenant_id = $1 AND event_id = $2 AND ($9::uuid IS NULL OR customer_id = $9)
    AND ($3::text IS NULL OR event_type = $3)
    AND ($4::text IS NULL OR name_space ILIKE $4 OR reference ILIKE $4)
    AND created_at >= $5 AND (created_at, event_id) < ($6, $7)
ORDER BY created_at DESC, event_id DESC
LIMIT $8
"""

SEARCH_ALL = """
-- A page of all customers' events, newest first; $2 is null.
SELECT
    event_id, tenant_id, customer_id, created_at, event_type, name_space, reference
FROM events
WHERE
    tenant_id = $1 AND $2::uuid IS NULL
    AND ($3::text IS NULL OR event_type = $3)
    AND ($4::text IS NULL OR name_space ILIKE $4 OR reference ILIKE $4)
    AND created_at >= $5 AND (created_at, event_id) < ($6, $7)
ORDER BY created_at DESC, event_id DESC
LIMIT $8
"""
