-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- What was taken back of each order and transaction: how much of its value, by which reversal. How many points that is
-- follows from it, to the point: a share is counted from the sum so far, never from the last remainder.
CREATE TABLE reversals (
    tenant_id uuid NOT NULL,
    -- The event that is reversed.
    reverses uuid NOT NULL,
    -- The reversal.
    event_id uuid NOT NULL,
    amount numeric NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, reverses, event_id)
);

ALTER TABLE reversals ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON reversals TO tallymarks_service
USING (tenant_id = nullif(current_setting('tallymarks.tenant_id', true), '')::uuid);

-- What was taken back stays so.
GRANT SELECT, INSERT ON reversals TO tallymarks_service;

-- Whether a reversal may take a balance below zero, which redemptions then refuse until it is made up for.
ALTER TABLE tenants ADD COLUMN reversals_may_go_below_zero boolean NOT NULL DEFAULT true;
-- squawk-ignore ban-drop-default
ALTER TABLE tenants ALTER COLUMN reversals_may_go_below_zero DROP DEFAULT;
GRANT UPDATE (reversals_may_go_below_zero) ON tenants TO tallymarks_service;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-column
ALTER TABLE tenants DROP COLUMN reversals_may_go_below_zero;
-- squawk-ignore ban-drop-table
DROP TABLE reversals;
