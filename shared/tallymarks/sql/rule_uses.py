"""How often rules with limits have been used; a customer's own uses are read and written under the account lock."""

SELECT_OF_CUSTOMERS = """
-- What customers have used of rules, in the periods ($4: their beginnings) that matter to a batch.
SELECT customer_id, rule_id, period, period_from, uses
FROM customer_rule_uses
WHERE
    tenant_id = $1 AND customer_id = ANY($2::uuid[]) AND rule_id = ANY($3::uuid[])
    AND period_from = ANY($4::timestamptz[])
"""

UPSERT_OF_CUSTOMERS = """
-- Sorted by key.
INSERT INTO customer_rule_uses (tenant_id, customer_id, rule_id, period, period_from, uses)
SELECT $1, u.customer_id, u.rule_id, u.period, u.period_from, u.uses
FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[])
    AS u (customer_id, rule_id, period, period_from, uses)
ORDER BY u.customer_id, u.rule_id, u.period, u.period_from
ON CONFLICT (tenant_id, customer_id, rule_id, period, period_from) DO UPDATE SET uses = excluded.uses
"""

INSERT_MISSING = """
-- A row for each rule that has a limit on what all customers use together. $2 sorted.
INSERT INTO rule_uses (tenant_id, rule_id, uses, points)
SELECT $1, new.rule_id, 0, 0
FROM unnest($2::uuid[]) AS new (rule_id)
ORDER BY new.rule_id
ON CONFLICT (tenant_id, rule_id) DO NOTHING
"""

LOCK = """
-- Until the transaction ends nobody else uses these rules: such a limit is exact, its rule one at a time. $2 sorted.
SELECT rule_id, uses, points
FROM rule_uses
WHERE tenant_id = $1 AND rule_id = ANY($2::uuid[])
ORDER BY rule_id
FOR NO KEY UPDATE
"""

SELECT = """
-- The same without the lock, for who only asks what would be.
SELECT rule_id, uses, points FROM rule_uses WHERE tenant_id = $1 AND rule_id = ANY($2::uuid[])
"""

UPDATE = """
UPDATE rule_uses r SET uses = new.uses, points = new.points
FROM unnest($2::uuid[], $3::bigint[], $4::numeric[]) AS new (rule_id, uses, points)
WHERE r.tenant_id = $1 AND r.rule_id = new.rule_id
"""
