"""Customers and their account rows."""

INSERT_MISSING = """
-- Create bare customers for ids that are not known yet. $2 sorted; $4 is the first anniversary of customers of $3.
INSERT INTO customers (
    tenant_id, customer_id, optin_sms, optin_email, accept_terms, attributes, search_text, created_at, changed_at,
    next_anniversary_at
)
SELECT $1, new.customer_id, false, false, false, '[]', '', $3::timestamptz, $3::timestamptz, $4::timestamptz
FROM unnest($2::uuid[]) AS new (customer_id)
WHERE NOT EXISTS (
    SELECT FROM customers known WHERE known.tenant_id = $1 AND known.customer_id = new.customer_id
)
ORDER BY new.customer_id
ON CONFLICT (tenant_id, customer_id) DO NOTHING
RETURNING customer_id
"""

INSERT_ACCOUNTS = """
-- Open the accounts of customers that this transaction has just created, at $3.
INSERT INTO accounts (
    tenant_id, customer_id, customer_created_at, balance, is_locked, action_count, action_value, order_count,
    order_value, transaction_count, transaction_value, points_count, points_value, points_earned, redemption_count,
    anniversary_count
)
SELECT $1, new.customer_id, $3::timestamptz, 0, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
FROM unnest($2::uuid[]) AS new (customer_id)
"""

REGISTER = """
-- Write a registration over the bare row that INSERT_MISSING has made sure of; no row where it was registered before.
UPDATE customers
SET
    first_name = $3, last_name = $4, display_name = $5, email_address = $6, email_address_folded = $7,
    mobile_number = $8,
    optin_sms = $9, optin_email = $10, accept_terms = $11, attributes = $12::jsonb, date_of_birth = $13,
    contact_phone = $14, external_reference = $15, external_status = $16, search_text = $17, changed_at = $18,
    registered_at = $18
WHERE tenant_id = $1 AND customer_id = $2 AND registered_at IS NULL
RETURNING created_at
"""

SELECT_CUSTOMER = """
SELECT
    c.customer_id, c.tenant_id, c.first_name, c.last_name, c.display_name, c.email_address, a.is_locked,
    c.mobile_number, c.optin_sms, c.optin_email, c.accept_terms, c.attributes, c.date_of_birth, c.created_at,
    c.changed_at,
    c.contact_phone, c.external_reference, c.external_status
FROM customers c
JOIN accounts a ON a.tenant_id = c.tenant_id AND a.customer_id = c.customer_id
WHERE c.tenant_id = $1 AND a.tenant_id = $1 AND c.customer_id = $2
"""

LOCK_CUSTOMER = """
-- Held while an update is applied to what was read.
SELECT customer_id FROM customers WHERE tenant_id = $1 AND customer_id = $2 FOR NO KEY UPDATE
"""

UPDATE_CUSTOMER = """
-- An update registers a customer too: a registration after it would overwrite what was said.
UPDATE customers
SET
    first_name = $3, last_name = $4, display_name = $5, email_address = $6, email_address_folded = $7,
    mobile_number = $8,
    optin_sms = $9, optin_email = $10, accept_terms = $11, attributes = $12::jsonb, date_of_birth = $13,
    contact_phone = $14, external_reference = $15, external_status = $16, search_text = $17, changed_at = $18,
    registered_at = coalesce(registered_at, $18)
WHERE tenant_id = $1 AND customer_id = $2
"""

UPDATE_ACCOUNT_LOCK = """
-- Waits for whoever moves points of this account: after the commit no redemption that saw it open is under way.
UPDATE accounts SET is_locked = $3 WHERE tenant_id = $1 AND customer_id = $2
"""

SELECT_BALANCES = """
SELECT customer_id, balance, coalesce(balance_changed_at, customer_created_at) AS changed_at
FROM accounts
WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[])
"""

SELECT_CUSTOMER_CREATED_AT = """
SELECT created_at FROM customers WHERE tenant_id = $1 AND customer_id = $2
"""

SELECT_PAGE = """
-- A page of all customers.
SELECT
    customer_id, tenant_id, first_name, last_name, display_name, email_address, created_at, changed_at, contact_phone,
    external_reference, external_status
FROM customers
WHERE tenant_id = $1 AND customer_id > $2
ORDER BY customer_id
LIMIT $3
"""

SEARCH_NEARBY = """
-- The ids of customers with the pattern ($4, escaped) among the next $5 in the order of ids: a common pattern fills its
-- page from these, at a cost that does not depend on how many customers there are.
SELECT nearby.customer_id
FROM (
    SELECT customer_id, search_text
    FROM customers
    WHERE tenant_id = $1 AND customer_id > $2
    ORDER BY customer_id
    LIMIT $5
) AS nearby
WHERE nearby.search_text LIKE $4
ORDER BY nearby.customer_id
LIMIT $3
"""

ACT_AS_SEARCHER = """
-- The role that may use the search indexes (the migration says why); until ACT_AS_SERVICE or the end.
SELECT set_config('role', 'tallymarks_searcher', true)
"""

ACT_AS_SERVICE = """
SELECT set_config('role', 'tallymarks_service', true)
"""

SEARCH_IDS_BY_TRIGRAMS = """
-- The ids of all customers with a rare pattern (SEARCH_NEARBY did not fill the page), by the trigram index.
-- Materialized, or the planner would rather walk all customers in the order of ids than sort the few that it finds.
WITH found AS MATERIALIZED (
    SELECT customer_id FROM customers WHERE tenant_id = $1 AND search_text LIKE $4
)
SELECT customer_id FROM found WHERE customer_id > $2 ORDER BY customer_id LIMIT $3
"""

SEARCH_IDS_BY_PIECES = """
-- The same for a keyword without a trigram, by its pieces ($5): one or two characters, or little but punctuation.
WITH found AS MATERIALIZED (
    SELECT customer_id
    FROM customers
    WHERE tenant_id = $1 AND search_pieces(search_text) @> $5::text[] AND search_text LIKE $4
)
SELECT customer_id FROM found WHERE customer_id > $2 ORDER BY customer_id LIMIT $3
"""

SELECT_FOUND = """
-- The customers of a page of found ids.
SELECT
    customer_id, tenant_id, first_name, last_name, display_name, email_address, created_at, changed_at, contact_phone,
    external_reference, external_status
FROM customers
WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[])
ORDER BY customer_id
"""
