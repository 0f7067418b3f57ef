-- migrate:up

SET LOCAL lock_timeout = '10s';
-- Every customer is written once.
SET LOCAL statement_timeout = '15min';

-- When the customer's next anniversary is: the event of each is published once, in the transaction that moves this on.
ALTER TABLE customers ADD COLUMN next_anniversary_at timestamptz;

-- The anniversaries of the years before there was a calendar are not made up for. In UTC whatever the session's zone;
-- a year from 29 February is 28 February here as in the application.
UPDATE customers
SET next_anniversary_at = (
    SELECT min(candidate.at)
    FROM generate_series(0, 1) AS later
    CROSS JOIN LATERAL (
        SELECT greatest(
            extract(YEAR FROM now() AT TIME ZONE 'UTC') - extract(YEAR FROM created_at AT TIME ZONE 'UTC'), 1
        )::int + later AS years
    ) AS nth
    CROSS JOIN LATERAL (
        SELECT (created_at AT TIME ZONE 'UTC' + make_interval(years => nth.years)) AT TIME ZONE 'UTC' AS at
    ) AS candidate
    WHERE candidate.at > now()
);

-- squawk-ignore adding-not-nullable-field
ALTER TABLE customers ALTER COLUMN next_anniversary_at SET NOT NULL;

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX customers_next_anniversary_idx ON customers (tenant_id, next_anniversary_at);

-- Action events to come: each is published, and its row deleted, once it is due.
CREATE TABLE triggers (
    tenant_id uuid NOT NULL,
    -- Also the id of the event that it becomes.
    trigger_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    due_at timestamptz NOT NULL,
    name_space text NOT NULL,
    reference text,
    source_event_id uuid NOT NULL,
    -- How many triggers led to this one, itself included: rules that trigger each other come to an end.
    depth bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, trigger_id)
);
CREATE INDEX triggers_due_at_idx ON triggers (tenant_id, due_at);

ALTER TABLE triggers ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON triggers TO tallymarks_service
USING (tenant_id = nullif(current_setting('tallymarks.tenant_id', true), '')::uuid);
CREATE POLICY sees_anniversaries ON customers FOR SELECT TO tallymarks_housekeeper USING (true);
CREATE POLICY sees_triggers ON triggers FOR SELECT TO tallymarks_housekeeper USING (true);

GRANT SELECT, INSERT, DELETE ON triggers TO tallymarks_service;
-- Nothing is ever updated: without it, rows could not be locked.
GRANT UPDATE (due_at) ON triggers TO tallymarks_service;
GRANT SELECT (tenant_id, next_anniversary_at) ON customers TO tallymarks_housekeeper;
GRANT SELECT (tenant_id, due_at) ON triggers TO tallymarks_housekeeper;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-table
DROP TABLE triggers;
REVOKE SELECT (tenant_id, next_anniversary_at) ON customers FROM tallymarks_housekeeper;
DROP POLICY sees_anniversaries ON customers;
-- squawk-ignore ban-drop-column
ALTER TABLE customers DROP COLUMN next_anniversary_at;
