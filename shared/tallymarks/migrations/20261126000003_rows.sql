-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- What assessors hand over as rows, many in one parameter: the driver looks at each element of each array, so an array of
-- rows costs it half of what an array for each column does. Not the tables' own row types, which change with the tables
-- while assessors run. Where the tables are distributed, each node needs these types.
CREATE TYPE new_event AS (
    event_id uuid,
    customer_id uuid,
    event_type text,
    name_space text,
    reference text,
    created_at timestamptz,
    body jsonb
);
CREATE TYPE new_transaction AS (
    transaction_id uuid,
    customer_id uuid,
    event_id uuid,
    event_type text,
    assessment_rule_id uuid,
    created_at timestamptz,
    check_sum bytea,
    name_space text,
    description text,
    amount bigint,
    external_reference text,
    assessment_rule_version bigint,
    fulfilment_index bigint
);
-- Its decimals are texts: the driver takes a number apart digit by digit, for four times as long.
CREATE TYPE assessed_account AS (
    customer_id uuid,
    balance bigint,
    is_moved boolean,
    action_count bigint,
    order_count bigint,
    transaction_count bigint,
    points_count bigint,
    redemption_count bigint,
    anniversary_count bigint,
    action_value text,
    order_value text,
    transaction_value text,
    points_value text,
    points_earned text
);

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- Whoever is connected knows them by number, and must connect again where they are made anew.
-- squawk-ignore ban-drop-type
DROP TYPE assessed_account, new_transaction, new_event;
