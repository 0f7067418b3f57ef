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
INSERT INTO rules (
    tenant_id, rule_id, status, event_type, definition, version, effective_from, effective_to, created_at, changed_at
)
VALUES ($1, $2, $3, $4, $5::jsonb, 1, NULL, NULL, $6, $6)
ON CONFLICT (tenant_id, rule_id) DO NOTHING
RETURNING rule_id, tenant_id, status, definition, version, effective_from, effective_to, created_at, changed_at
"""

UPDATE_RULE = """
UPDATE rules
SET
    status = $3, event_type = $4, definition = $5::jsonb, version = $6, effective_from = $7, effective_to = $8,
    changed_at = $9
WHERE tenant_id = $1 AND rule_id = $2
RETURNING rule_id, tenant_id, status, definition, version, effective_from, effective_to, created_at, changed_at
"""

SELECT_RULE = """
SELECT rule_id, tenant_id, status, definition, version, effective_from, effective_to, created_at, changed_at
FROM rules
WHERE tenant_id = $1 AND rule_id = $2
"""

SELECT_RULES_PAGE = """
SELECT rule_id, tenant_id, status, definition, version, effective_from, effective_to, created_at, changed_at
FROM rules
WHERE tenant_id = $1 AND rule_id > $2
ORDER BY rule_id
LIMIT $3
"""

INSERT_RULE_VERSION = """
INSERT INTO rule_versions (tenant_id, rule_id, version, definition, effective_from, effective_to, created_at)
VALUES ($1, $2, $3, $4::jsonb, $5, NULL, $6)
"""

END_RULE_VERSIONS = """
-- From an instant on the versions there are look at no more events; one that would begin later never begins.
UPDATE rule_versions SET effective_to = greatest(effective_from, $3)
WHERE tenant_id = $1 AND rule_id = $2 AND (effective_to IS NULL OR effective_to > $3)
"""

COUNT_ACTIVE_RULE_VERSIONS = """
-- Bounded by the number of versions that the active rules of a tenant may have.
SELECT count(*)
FROM rule_versions AS v
INNER JOIN rules AS r ON v.tenant_id = r.tenant_id AND v.rule_id = r.rule_id
WHERE v.tenant_id = $1 AND r.tenant_id = $1 AND r.status = 'active'
"""

SELECT_RULE_VERSIONS_PAGE = """
SELECT rule_id, tenant_id, version, definition, effective_from, effective_to, created_at
FROM rule_versions
WHERE tenant_id = $1 AND rule_id = $2 AND version > $3
ORDER BY version
LIMIT $4
"""

SELECT_ACTIVE_RULE_VERSIONS = """
-- Bounded likewise. All of them: an event may be older than the newest.
SELECT
    r.rule_id, r.tenant_id, r.status, v.definition, v.version, v.effective_from, v.effective_to, r.created_at,
    r.changed_at
FROM rules AS r
INNER JOIN rule_versions AS v ON r.tenant_id = v.tenant_id AND r.rule_id = v.rule_id
WHERE r.tenant_id = $1 AND v.tenant_id = $1 AND r.status = 'active'
"""

SELECT_RULES_IN_TEST = """
-- Bounded by the number of rules that a tenant may have.
SELECT rule_id, tenant_id, status, definition, version, effective_from, effective_to, created_at, changed_at
FROM rules
WHERE tenant_id = $1 AND status = 'test'
"""

SELECT_RULE_VERSIONS_NAMED = """
-- The given versions of rules ($2, $3: side by side), as explanations name them.
SELECT
    r.rule_id, r.tenant_id, r.status, v.definition, v.version, v.effective_from, v.effective_to, r.created_at,
    r.changed_at
FROM unnest($2::uuid[], $3::bigint[]) AS named (rule_id, version)
INNER JOIN rules AS r ON r.tenant_id = $1 AND r.rule_id = named.rule_id
INNER JOIN rule_versions AS v
    ON v.tenant_id = $1 AND v.tenant_id = r.tenant_id AND v.rule_id = named.rule_id AND v.version = named.version
WHERE r.tenant_id = $1 AND v.tenant_id = $1
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
