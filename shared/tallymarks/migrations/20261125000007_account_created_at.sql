-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '600s';

-- Since when the account's customer has been one, which never changes: whoever locks accounts reads this one table by its
-- one index. Joined to customers, a planner without statistics (a database just restored, or filled) compared each
-- account of a batch with every customer of the tenant.
ALTER TABLE accounts ADD COLUMN customer_created_at timestamptz;

UPDATE accounts a
SET customer_created_at = c.created_at
FROM customers c
WHERE a.tenant_id = c.tenant_id AND a.customer_id = c.customer_id;

-- The table is locked already, and has just been written from end to end.
-- squawk-ignore adding-not-nullable-field
ALTER TABLE accounts ALTER COLUMN customer_created_at SET NOT NULL;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-column
ALTER TABLE accounts DROP COLUMN customer_created_at;
