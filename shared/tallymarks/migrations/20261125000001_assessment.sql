-- squawk-ignore-file ban-drop-column, ban-drop-default
-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '600s';

-- What a customer has done so far, beside the balance: whoever moves points has the row locked, so criteria with memory
-- are exact. Sums are numeric: no sum overflows its column.
ALTER TABLE accounts
ADD COLUMN action_count bigint NOT NULL DEFAULT 0,
ADD COLUMN action_value numeric NOT NULL DEFAULT 0,
ADD COLUMN order_count bigint NOT NULL DEFAULT 0,
ADD COLUMN order_value numeric NOT NULL DEFAULT 0,
ADD COLUMN transaction_count bigint NOT NULL DEFAULT 0,
ADD COLUMN transaction_value numeric NOT NULL DEFAULT 0,
ADD COLUMN points_count bigint NOT NULL DEFAULT 0,
ADD COLUMN points_value numeric NOT NULL DEFAULT 0,
ADD COLUMN points_earned numeric NOT NULL DEFAULT 0,
ADD COLUMN redemption_count bigint NOT NULL DEFAULT 0,
ADD COLUMN anniversary_count bigint NOT NULL DEFAULT 0;

-- Events that were assessed before totals were kept count too.
UPDATE accounts a
SET
    action_count = t.action_count, action_value = t.action_value,
    order_count = t.order_count, order_value = t.order_value,
    transaction_count = t.transaction_count, transaction_value = t.transaction_value,
    points_count = t.points_count, points_value = t.points_value, points_earned = t.points_earned,
    redemption_count = t.redemption_count
FROM (
    SELECT
        tenant_id,
        customer_id,
        count(*) FILTER (WHERE event_type = 'action') AS action_count,
        coalesce(sum((body #>> '{action,amount}')::numeric) FILTER (WHERE event_type = 'action'), 0) AS action_value,
        count(*) FILTER (WHERE event_type = 'order') AS order_count,
        coalesce(sum((body #>> '{order,total}')::numeric) FILTER (WHERE event_type = 'order'), 0) AS order_value,
        count(*) FILTER (WHERE event_type = 'transaction') AS transaction_count,
        coalesce(sum((body #>> '{transaction,amount}')::numeric) FILTER (WHERE event_type = 'transaction'), 0)
            AS transaction_value,
        count(*) FILTER (WHERE event_type = 'points') AS points_count,
        coalesce(sum((body #>> '{points,quantity}')::numeric) FILTER (WHERE event_type = 'points'), 0) AS points_value,
        coalesce(
            sum(greatest((body #>> '{points,quantity}')::numeric, 0)) FILTER (WHERE event_type = 'points'), 0
        ) AS points_earned,
        count(*) FILTER (WHERE event_type = 'redemption') AS redemption_count
    FROM events
    WHERE assessed_at IS NOT NULL
    GROUP BY tenant_id, customer_id
) AS t
WHERE a.tenant_id = t.tenant_id AND a.customer_id = t.customer_id;

ALTER TABLE accounts
ALTER COLUMN action_count DROP DEFAULT,
ALTER COLUMN action_value DROP DEFAULT,
ALTER COLUMN order_count DROP DEFAULT,
ALTER COLUMN order_value DROP DEFAULT,
ALTER COLUMN transaction_count DROP DEFAULT,
ALTER COLUMN transaction_value DROP DEFAULT,
ALTER COLUMN points_count DROP DEFAULT,
ALTER COLUMN points_value DROP DEFAULT,
ALTER COLUMN points_earned DROP DEFAULT,
ALTER COLUMN redemption_count DROP DEFAULT,
ALTER COLUMN anniversary_count DROP DEFAULT;

-- Which version of the rule, and which of its fulfilments, made a transaction; null for what the event itself does, and
-- in rows that are older than the columns.
ALTER TABLE transactions
ADD COLUMN assessment_rule_version bigint,
ADD COLUMN fulfilment_index bigint;

-- How often all customers together have used a rule that has a limit on that.
CREATE TABLE rule_uses (
    tenant_id uuid NOT NULL,
    rule_id uuid NOT NULL,
    uses bigint NOT NULL,
    points numeric NOT NULL,
    PRIMARY KEY (tenant_id, rule_id)
);

-- How often a customer has used a rule that has limits: in the whole life, and in each calendar period.
CREATE TABLE customer_rule_uses (
    tenant_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    rule_id uuid NOT NULL,
    period text NOT NULL,
    period_from timestamptz NOT NULL,
    uses bigint NOT NULL,
    PRIMARY KEY (tenant_id, customer_id, rule_id, period, period_from)
);

-- How each event was assessed: written with its effect, and removed after its time.
CREATE TABLE assessments (
    tenant_id uuid NOT NULL,
    event_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    explanation bytea NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);
CREATE INDEX assessments_recorded_at_idx ON assessments (tenant_id, recorded_at);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['rule_uses', 'customer_rule_uses', 'assessments'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant_isolation ON %I TO tallymarks_service '
            'USING (tenant_id = nullif(current_setting(''tallymarks.tenant_id'', true), '''')::uuid)',
            name
        );
    END LOOP;
END
$$;
CREATE POLICY sees_assessments ON assessments FOR SELECT TO tallymarks_housekeeper USING (true);

GRANT SELECT, INSERT, UPDATE ON rule_uses, customer_rule_uses TO tallymarks_service;
GRANT SELECT, INSERT, DELETE ON assessments TO tallymarks_service;
-- Nothing is ever updated: without it, rows could not be locked.
GRANT UPDATE (recorded_at) ON assessments TO tallymarks_service;
GRANT SELECT (tenant_id, recorded_at) ON assessments TO tallymarks_housekeeper;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-table
DROP TABLE assessments, customer_rule_uses, rule_uses;
ALTER TABLE transactions DROP COLUMN assessment_rule_version, DROP COLUMN fulfilment_index;
ALTER TABLE accounts
DROP COLUMN action_count, DROP COLUMN action_value, DROP COLUMN order_count, DROP COLUMN order_value,
DROP COLUMN transaction_count, DROP COLUMN transaction_value, DROP COLUMN points_count, DROP COLUMN points_value,
DROP COLUMN points_earned, DROP COLUMN redemption_count, DROP COLUMN anniversary_count;
