-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- Rules that are tried on recorded events. How far each has got is written with what was found until there.
CREATE TABLE simulations (
    tenant_id uuid NOT NULL,
    simulation_id uuid NOT NULL,
    -- The whole rule, as it was when the simulation was asked for.
    rule jsonb NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    failure text,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    -- Nobody wants to see it any more: its rows are cleared away, and then itself.
    removed_at timestamptz,
    -- The place in history that was reached: all events up to it were looked at.
    position_at timestamptz NOT NULL,
    position_id uuid NOT NULL,
    events bigint NOT NULL,
    last_event_at timestamptz,
    matches bigint NOT NULL,
    limited bigint NOT NULL,
    unassessable bigint NOT NULL,
    customers bigint NOT NULL,
    points numeric NOT NULL,
    -- Nothing is left to do for it: neither to simulate nor to clear away.
    is_settled boolean NOT NULL,
    PRIMARY KEY (tenant_id, simulation_id)
);
CREATE INDEX simulations_unsettled_idx ON simulations (tenant_id, simulation_id) WHERE NOT is_settled;

-- What was found, by day (UTC).
CREATE TABLE simulation_days (
    tenant_id uuid NOT NULL,
    simulation_id uuid NOT NULL,
    day_from timestamptz NOT NULL,
    matches bigint NOT NULL,
    limited bigint NOT NULL,
    customers bigint NOT NULL,
    points numeric NOT NULL,
    PRIMARY KEY (tenant_id, simulation_id, day_from),
    FOREIGN KEY (tenant_id, simulation_id) REFERENCES simulations (tenant_id, simulation_id)
);

-- The customers of a simulation that is under way, as they are after the last of their events that was looked at.
CREATE TABLE simulation_customers (
    tenant_id uuid NOT NULL,
    simulation_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (tenant_id, simulation_id, customer_id),
    FOREIGN KEY (tenant_id, simulation_id) REFERENCES simulations (tenant_id, simulation_id)
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['simulations', 'simulation_days', 'simulation_customers'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant_isolation ON %I TO tallymarks_service '
            'USING (tenant_id = nullif(current_setting(''tallymarks.tenant_id'', true), '''')::uuid)',
            name
        );
    END LOOP;
END
$$;
CREATE POLICY sees_simulations ON simulations FOR SELECT TO tallymarks_housekeeper USING (true);

GRANT SELECT, INSERT, UPDATE, DELETE ON simulations, simulation_days, simulation_customers TO tallymarks_service;
GRANT SELECT (tenant_id, created_at, is_settled) ON simulations TO tallymarks_housekeeper;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-table
DROP TABLE simulation_customers, simulation_days, simulations;
