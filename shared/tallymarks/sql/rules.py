"""Rules and segments, and the revision by which assessors notice a change."""

SELECT_REVISION = """
SELECT rules_revision FROM tenants WHERE tenant_id = $1
"""

BUMP_REVISION = """
-- Last in every transaction that changes a rule or a segment: assessors compare it in each batch.
UPDATE tenants SET rules_revision = rules_revision + 1 WHERE tenant_id = $1
"""

LOCK_TENANT = """
-- One change of rules at a time, so that the bound on their number and the segments that they name hold.
SELECT rules_revision FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE
"""

COUNT_RULES = """
-- Bounded by the number of rules that a tenant may have.
SELECT count(*) FROM rules WHERE tenant_id = $1
"""

INSERT_RULE = """
INSERT INTO rules (tenant_id, rule_id, status, event_type, definition, created_at, changed_at)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $6)
ON CONFLICT (tenant_id, rule_id) DO NOTHING
RETURNING rule_id, tenant_id, definition, created_at, changed_at
"""

UPDATE_RULE = """
UPDATE rules SET status = $3, event_type = $4, definition = $5::jsonb, changed_at = $6
WHERE tenant_id = $1 AND rule_id = $2
RETURNING rule_id, tenant_id, definition, created_at, changed_at
"""

SELECT_RULE = """
SELECT rule_id, tenant_id, definition, created_at, changed_at FROM rules WHERE tenant_id = $1 AND rule_id = $2
"""

SELECT_RULES_PAGE = """
SELECT rule_id, tenant_id, definition, created_at, changed_at
FROM rules
WHERE tenant_id = $1 AND rule_id > $2
ORDER BY rule_id
LIMIT $3
"""

SELECT_ACTIVE_RULES = """
-- Bounded by the number of rules that a tenant may have.
SELECT rule_id, tenant_id, definition, created_at, changed_at FROM rules WHERE tenant_id = $1 AND status = 'active'
"""

INSERT_SEGMENT = """
INSERT INTO segments (
    tenant_id, segment_id, name, display_name, description, status, expiry, created_at, changed_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $8)
ON CONFLICT (tenant_id, segment_id) DO NOTHING
RETURNING segment_id, tenant_id, name, display_name, description, status, expiry, created_at, changed_at
"""

UPDATE_SEGMENT = """
UPDATE segments
SET name = $3, display_name = $4, description = $5, status = $6, expiry = $7::jsonb, changed_at = $8
WHERE tenant_id = $1 AND segment_id = $2
RETURNING segment_id, tenant_id, name, display_name, description, status, expiry, created_at, changed_at
"""

SELECT_SEGMENT = """
SELECT segment_id, tenant_id, name, display_name, description, status, expiry, created_at, changed_at
FROM segments
WHERE tenant_id = $1 AND segment_id = $2
"""

SELECT_SEGMENTS_PAGE = """
SELECT segment_id, tenant_id, name, display_name, description, status, expiry, created_at, changed_at
FROM segments
WHERE tenant_id = $1 AND segment_id > $2
ORDER BY segment_id
LIMIT $3
"""

SELECT_SEGMENTS_NAMED = """
-- Of the given segments those that exist.
SELECT segment_id, tenant_id, name, display_name, description, status, expiry, created_at, changed_at
FROM segments
WHERE tenant_id = $1 AND segment_id = ANY($2::uuid[])
"""
