"""How events were assessed: written with their effect, and removed after their time."""

INSERT = """
-- Each event is assessed once; but where a caller's event has taken the id of a points event, that one's is kept.
INSERT INTO assessments (tenant_id, event_id, recorded_at, explanation)
SELECT $1, a.event_id, $4::timestamptz, a.explanation
FROM unnest($2::uuid[], $3::bytea[]) AS a (event_id, explanation)
ORDER BY a.event_id
ON CONFLICT (tenant_id, event_id) DO NOTHING
"""

SELECT = """
-- What was kept of one event's assessment.
SELECT explanation FROM assessments WHERE tenant_id = $1 AND event_id = $2
"""

SELECT_TENANTS_WITH_OLD = """
-- The housekeeper's: a page of the tenants with assessments older than $2.
SELECT t.tenant_id
FROM tenants t
WHERE
    t.tenant_id > $1
    AND EXISTS (SELECT FROM assessments a WHERE a.tenant_id = t.tenant_id AND a.recorded_at < $2)
ORDER BY t.tenant_id
LIMIT $3
"""

LOCK_OLD = """
-- A lot of old assessments that nobody else is removing.
SELECT event_id
FROM assessments
WHERE tenant_id = $1 AND recorded_at < $2
ORDER BY recorded_at
LIMIT $3
FOR UPDATE SKIP LOCKED
"""

DELETE = """
DELETE FROM assessments WHERE tenant_id = $1 AND event_id = ANY($2::uuid[])
"""
