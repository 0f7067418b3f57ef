"""Accounts under lock, transactions, and the proof that they agree."""

LOCK_ACCOUNTS = """
-- The account lock: rows in key order, so that two batches wait for each other and never deadlock. $2 sorted.
SELECT
    customer_id, balance, is_locked, customer_created_at,
    action_count, action_value, order_count, order_value, transaction_count, transaction_value,
    points_count, points_value, points_earned, redemption_count, anniversary_count
FROM accounts
WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[])
ORDER BY customer_id
FOR UPDATE
"""

LOCK_BATCH = """
-- What a batch begins with, in one round trip: the account lock as above ($2 sorted), the revision of the rules, and in
-- the first row those of the ids $3 that events have taken, each looked up by itself as in `events.SELECT_RECORDED`. A
-- tenant has one row at least, which is of no account where none of the customers is known.
SELECT
    t.rules_revision,
    CASE
        WHEN row_number() OVER () = 1
            THEN ARRAY(
                SELECT new.event_id
                FROM unnest($3::uuid[]) AS new (event_id)
                WHERE (SELECT true FROM events e WHERE e.tenant_id = $1 AND e.event_id = new.event_id)
            )
    END AS taken_event_ids,
    locked.*
FROM tenants t
LEFT JOIN (
    SELECT
        customer_id, balance, is_locked, customer_created_at,
        action_count, action_value, order_count, order_value, transaction_count, transaction_value,
        points_count, points_value, points_earned, redemption_count, anniversary_count
    FROM accounts
    WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[])
    ORDER BY customer_id
    FOR UPDATE
) AS locked ON true
WHERE t.tenant_id = $1
"""

SELECT_ACCOUNTS = """
-- The same without the lock, for who only asks what would be.
SELECT
    customer_id, balance, is_locked, customer_created_at,
    action_count, action_value, order_count, order_value, transaction_count, transaction_value,
    points_count, points_value, points_earned, redemption_count, anniversary_count
FROM accounts
WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[])
"""

INSERT_TRANSACTIONS = """
INSERT INTO transactions (
    tenant_id, transaction_id, customer_id, event_id, event_type, assessment_rule_id, created_at, recorded_at,
    check_sum, name_space, description, amount, external_reference, assessment_rule_version, fulfilment_index
)
SELECT
    $1, t.transaction_id, t.customer_id, t.event_id, t.event_type, t.assessment_rule_id, t.created_at, $3::timestamptz,
    t.check_sum, t.name_space, t.description, t.amount, t.external_reference, t.assessment_rule_version,
    t.fulfilment_index
FROM unnest($2::new_transaction[]) AS t
"""

UPDATE_BALANCES = """
-- Write the balances of locked accounts whose totals stay as they are.
UPDATE accounts a SET balance = new.balance, balance_changed_at = $4
FROM unnest($2::uuid[], $3::bigint[]) AS new (customer_id, balance)
WHERE a.tenant_id = $1 AND a.customer_id = new.customer_id
"""

UPDATE_ACCOUNTS = """
-- Write the balances and totals of locked accounts; `is_moved` tells whether points were.
UPDATE accounts a
SET
    balance = new.balance,
    balance_changed_at = CASE WHEN new.is_moved THEN $3 ELSE a.balance_changed_at END,
    action_count = new.action_count, action_value = new.action_value::numeric,
    order_count = new.order_count, order_value = new.order_value::numeric,
    transaction_count = new.transaction_count, transaction_value = new.transaction_value::numeric,
    points_count = new.points_count, points_value = new.points_value::numeric,
    points_earned = new.points_earned::numeric,
    redemption_count = new.redemption_count, anniversary_count = new.anniversary_count
FROM unnest($2::assessed_account[]) AS new
WHERE a.tenant_id = $1 AND a.customer_id = new.customer_id
"""

SEARCH_OF_CUSTOMER = """
-- A page of one customer's transactions, newest first.
SELECT
    transaction_id, customer_id, tenant_id, event_id, assessment_rule_id, created_at, check_sum, name_space,
    description, amount, external_reference, assessment_rule_version
FROM transactions
WHERE
    tenant_id = $1 AND customer_id = $2
    AND ($3::text IS NULL OR event_type = $3)
    AND ($4::text IS NULL OR name_space ILIKE $4 OR external_reference ILIKE $4)
    AND created_at >= $5 AND (created_at, transaction_id) < ($6, $7)
ORDER BY created_at DESC, transaction_id DESC
LIMIT $8
"""

SEARCH_OF_EVENT = """
-- A page of one event's transactions ($2), newest first; of any customer where $9 is null.
SELECT
    transaction_id, customer_id, tenant_id, event_id, assessment_rule_id, created_at, check_sum, name_space,
    description, amount, external_reference, assessment_rule_version
FROM transactions
WHERE
    tenant_id = $1 AND event_id = $2 AND ($9::uuid IS NULL OR customer_id = $9)
    AND ($3::text IS NULL OR event_type = $3)
    AND ($4::text IS NULL OR name_space ILIKE $4 OR external_reference ILIKE $4)
    AND created_at >= $5 AND (created_at, transaction_id) < ($6, $7)
ORDER BY created_at DESC, transaction_id DESC
LIMIT $8
"""

SEARCH_ALL = """
-- A page of all customers' transactions, newest first; $2 is null.
SELECT
    transaction_id, customer_id, tenant_id, event_id, assessment_rule_id, created_at, check_sum, name_space,
    description, amount, external_reference, assessment_rule_version
FROM transactions
WHERE
    tenant_id = $1 AND $2::uuid IS NULL
    AND ($3::text IS NULL OR event_type = $3)
    AND ($4::text IS NULL OR name_space ILIKE $4 OR external_reference ILIKE $4)
    AND created_at >= $5 AND (created_at, transaction_id) < ($6, $7)
ORDER BY created_at DESC, transaction_id DESC
LIMIT $8
"""

SELECT_TO_VERIFY = """
-- A page of transactions in the order of their ids, with all that their check sums are over.
SELECT
    transaction_id, customer_id, event_id, event_type, assessment_rule_id, created_at, check_sum, name_space,
    description, amount, external_reference, fulfilment_index
FROM transactions
WHERE tenant_id = $1 AND transaction_id > $2
ORDER BY transaction_id
LIMIT $3
"""

SELECT_DIFFERING_BALANCES = """
-- Invariant 2: the customers whose balance is not the sum of their transactions; no row is the proof.
SELECT
    coalesce(a.customer_id, t.customer_id) AS customer_id,
    coalesce(a.balance, 0) AS balance,
    coalesce(t.amount, 0) AS amount
FROM (SELECT customer_id, balance FROM accounts WHERE tenant_id = $1) AS a
FULL JOIN (
    SELECT customer_id, sum(amount) AS amount FROM transactions WHERE tenant_id = $1 GROUP BY customer_id
) AS t ON t.customer_id = a.customer_id
WHERE coalesce(a.balance, 0) <> coalesce(t.amount, 0)
ORDER BY 1
LIMIT $2
"""
