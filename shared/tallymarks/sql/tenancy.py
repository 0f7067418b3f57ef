"""Tenants and their API keys."""

BEGIN = """
BEGIN
"""

BEGIN_READING = """
-- A transaction that sees one instant, and can write nothing.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY
"""

BIND_TENANT = """
-- Bind the transaction to one tenant: what row-level security lets through.
SET LOCAL tallymarks.tenant_id TO '{tenant_id}'
"""

COMMIT = """
COMMIT
"""

ROLLBACK = """
ROLLBACK
"""

INSERT_TENANT = """
-- A reversal may take a balance below zero unless the tenant decides otherwise.
INSERT INTO tenants (tenant_id, name, paging_secret, rules_revision, created_at, reversals_may_go_below_zero)
VALUES ($1, $2, $3, 0, $4, true)
"""

INSERT_API_KEY = """
INSERT INTO api_keys (tenant_id, api_key, name, role, secret_sha256, is_enabled, created_at, changed_at)
VALUES ($1, $2, $3, $4, $5, true, $6, $6)
"""

SELECT_CREDENTIAL = """
-- What a request is authenticated with.
SELECT k.secret_sha256, k.role, k.is_enabled, t.paging_secret
FROM api_keys k
JOIN tenants t ON t.tenant_id = k.tenant_id
WHERE k.tenant_id = $1 AND t.tenant_id = $1 AND k.api_key = $2
"""

SELECT_API_KEYS = """
-- A page of keys after the given one.
SELECT api_key, name, role, is_enabled, created_at, changed_at
FROM api_keys
WHERE tenant_id = $1 AND api_key > $2
ORDER BY api_key
LIMIT $3
"""

SELECT_API_KEY = """
SELECT api_key, name, role, is_enabled, created_at, changed_at FROM api_keys WHERE tenant_id = $1 AND api_key = $2
"""

UPDATE_API_KEY = """
UPDATE api_keys SET name = $3, role = $4, is_enabled = $5, changed_at = $6
WHERE tenant_id = $1 AND api_key = $2
RETURNING api_key, name, role, is_enabled, created_at, changed_at
"""

SELECT_TENANT_SETTINGS = """
SELECT reversals_may_go_below_zero FROM tenants WHERE tenant_id = $1
"""

UPDATE_TENANT_SETTINGS = """
UPDATE tenants SET reversals_may_go_below_zero = $2 WHERE tenant_id = $1 RETURNING reversals_may_go_below_zero
"""

SELECT_TENANT_EXISTS = """
SELECT EXISTS (SELECT FROM tenants WHERE tenant_id = $1)
"""

ACT_AS_HOUSEKEEPER = """
-- The role that may see which tenants there are and which have something to remove; until the transaction ends.
SET LOCAL ROLE tallymarks_housekeeper
"""

SELECT_TENANTS = """
-- A page of all tenants, for the operator's checks.
SELECT tenant_id FROM tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2
"""
