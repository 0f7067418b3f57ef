"""Simulations of rules on history: what was asked for, how far it has got, and what of history it reads."""

INSERT = """
INSERT INTO simulations (
    tenant_id, simulation_id, rule, from_at, to_at, status, failure, created_at, started_at, finished_at, removed_at,
    position_at, position_id, events, last_event_at, matches, limited, unassessable, customers, points, is_settled
)
VALUES ($1, $2, $3::jsonb, $4, $5, 'waiting', NULL, $6, NULL, NULL, NULL, $4, $7, 0, NULL, 0, 0, 0, 0, 0, false)
RETURNING
    simulation_id, tenant_id, rule, from_at, to_at, status, failure, created_at, started_at, finished_at, position_at,
    events, last_event_at, matches, limited, unassessable, customers, points
"""

SELECT_STATUSES = """
-- All that a tenant has, also what is still to be cleared away; bounded by what it may have. Under the tenant's lock.
SELECT simulation_id, status, removed_at FROM simulations WHERE tenant_id = $1 ORDER BY simulation_id LIMIT $2
"""

SELECT = """
SELECT
    simulation_id, tenant_id, rule, from_at, to_at, status, failure, created_at, started_at, finished_at, position_at,
    events, last_event_at, matches, limited, unassessable, customers, points
FROM simulations
WHERE tenant_id = $1 AND simulation_id = $2 AND removed_at IS NULL
"""

SELECT_PAGE = """
SELECT
    simulation_id, tenant_id, rule, from_at, to_at, status, failure, created_at, started_at, finished_at, position_at,
    events, last_event_at, matches, limited, unassessable, customers, points
FROM simulations
WHERE tenant_id = $1 AND simulation_id > $2 AND removed_at IS NULL
ORDER BY simulation_id
LIMIT $3
"""

SELECT_DAYS = """
-- What was found on each day; bounded by the range that a simulation may have.
SELECT day_from, matches, limited, customers, points
FROM simulation_days
WHERE tenant_id = $1 AND simulation_id = $2
ORDER BY day_from
"""

CANCEL = """
-- After the lot that is under way, whose transaction has the row.
UPDATE simulations SET status = 'cancelled', finished_at = $3
WHERE tenant_id = $1 AND simulation_id = $2 AND status IN ('waiting', 'running') AND removed_at IS NULL
RETURNING
    simulation_id, tenant_id, rule, from_at, to_at, status, failure, created_at, started_at, finished_at, position_at,
    events, last_event_at, matches, limited, unassessable, customers, points
"""

REMOVE = """
UPDATE simulations SET removed_at = $3, is_settled = false
WHERE tenant_id = $1 AND simulation_id = $2 AND removed_at IS NULL
"""

SELECT_TENANTS_WITH_UNSETTLED = """
-- A page of the tenants with simulations that something is to be done for; across tenants, run as the housekeeper.
-- One look into the index for each tenant, as for lapsed memberships.
SELECT t.tenant_id
FROM tenants t
CROSS JOIN LATERAL (
    SELECT s.tenant_id
    FROM simulations s
    WHERE s.tenant_id = t.tenant_id AND NOT s.is_settled AND s.created_at <= $2
    LIMIT 1
) AS unsettled
WHERE t.tenant_id > $1
ORDER BY t.tenant_id
LIMIT $3
"""

LOCK_NEXT = """
-- Take the oldest simulation that something is to be done for, past those that another replica holds.
SELECT simulation_id, rule, to_at, status, removed_at, position_at, position_id, matches, limited, points
FROM simulations
WHERE tenant_id = $1 AND NOT is_settled
ORDER BY simulation_id
LIMIT 1
FOR UPDATE SKIP LOCKED
"""

FIND_NEXT = """
-- The next events of a type ($5) after a position ($2, $3) and before an instant ($4), and at last the place that was
-- reached: no more than $6 recorded events are gone through, and no more than $7 found.
WITH passed AS (
    SELECT event_id, event_type, created_at
    FROM events
    WHERE tenant_id = $1 AND (created_at, event_id) > ($2, $3) AND created_at < $4 AND assessed_at IS NOT NULL
    ORDER BY created_at, event_id
    LIMIT $6
)
(
    SELECT event_id, created_at, true AS is_found
    FROM passed
    WHERE event_type = $5
    ORDER BY created_at, event_id
    LIMIT $7
)
UNION ALL
(
    SELECT event_id, created_at, false AS is_found
    FROM passed
    ORDER BY created_at DESC, event_id DESC
    LIMIT 1
)
"""

SELECT_EVENTS = """
-- Events as they were recorded, in the order in which they are looked at, with when their customers joined.
SELECT e.event_id, e.customer_id, e.created_at, e.body, c.created_at AS customer_created_at
FROM events e
INNER JOIN customers c ON c.tenant_id = e.tenant_id AND c.customer_id = e.customer_id
WHERE e.tenant_id = $1 AND c.tenant_id = $1 AND e.event_id = ANY($2::uuid[])
ORDER BY e.created_at, e.event_id
"""

SELECT_CUSTOMERS = """
SELECT customer_id, state
FROM simulation_customers
WHERE tenant_id = $1 AND simulation_id = $2 AND customer_id = ANY($3::uuid[])
"""

SUM_EVENTS = """
-- What customers did from one event that was looked at (counted in) to the next (not): a recorded event is counted once
-- in a simulation. Within an instant points events ($8: whether these are looked at) come after all others; those that
-- the rule ($9) has made itself are left out.
SELECT
    asked.place, done.action_count, done.action_value, done.order_count, done.order_value, done.transaction_count,
    done.transaction_value, done.points_count, done.points_value, done.points_earned, done.redemption_count,
    done.anniversary_count, done.reversal_count
FROM unnest($2::bigint[], $3::uuid[], $4::timestamptz[], $5::uuid[], $6::timestamptz[], $7::uuid[])
    AS asked (place, customer_id, from_at, from_id, to_at, to_id)
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE e.event_type = 'action') AS action_count,
        sum((e.body #>> '{action,amount}')::numeric) FILTER (WHERE e.event_type = 'action') AS action_value,
        count(*) FILTER (WHERE e.event_type = 'order') AS order_count,
        sum((e.body #>> '{order,total}')::numeric) FILTER (WHERE e.event_type = 'order') AS order_value,
        count(*) FILTER (WHERE e.event_type = 'transaction') AS transaction_count,
        sum((e.body #>> '{transaction,amount}')::numeric) FILTER (WHERE e.event_type = 'transaction')
            AS transaction_value,
        count(*) FILTER (WHERE e.event_type = 'points') AS points_count,
        sum((e.body #>> '{points,quantity}')::numeric) FILTER (WHERE e.event_type = 'points') AS points_value,
        sum(greatest((e.body #>> '{points,quantity}')::numeric, 0)) FILTER (WHERE e.event_type = 'points')
            AS points_earned,
        count(*) FILTER (WHERE e.event_type = 'redemption') AS redemption_count,
        count(*) FILTER (WHERE e.event_type = 'anniversary') AS anniversary_count,
        count(*) FILTER (WHERE e.event_type = 'reversal') AS reversal_count
    FROM events e
    WHERE
        e.tenant_id = $1 AND e.customer_id = asked.customer_id
        AND e.created_at >= asked.from_at AND e.created_at <= asked.to_at
        AND (e.created_at, e.event_type = 'points', e.event_id) >= (asked.from_at, $8::boolean, asked.from_id)
        AND (e.created_at, e.event_type = 'points', e.event_id) < (asked.to_at, $8::boolean, asked.to_id)
        AND e.assessed_at IS NOT NULL AND e.body ->> 'assessmentRuleId' IS DISTINCT FROM $9::text
) AS done
"""

FIND_REVERSALS = """
-- The reversals between the same events as above.
SELECT asked.place, found.event_id, found.reverses
FROM unnest($2::bigint[], $3::uuid[], $4::timestamptz[], $5::uuid[], $6::timestamptz[], $7::uuid[])
    AS asked (place, customer_id, from_at, from_id, to_at, to_id)
CROSS JOIN LATERAL (
    SELECT e.event_id, e.body ->> 'reverses' AS reverses
    FROM events e
    WHERE
        e.tenant_id = $1 AND e.customer_id = asked.customer_id AND e.event_type = 'reversal'
        AND e.created_at >= asked.from_at AND e.created_at <= asked.to_at
        AND (e.created_at, false, e.event_id) >= (asked.from_at, $8::boolean, asked.from_id)
        AND (e.created_at, false, e.event_id) < (asked.to_at, $8::boolean, asked.to_id)
) AS found
"""

SELECT_TAKEN = """
-- What reversals took back: of an event of which type, how much of its value, whether nothing of it is left, and how
-- many points of those earned (a negative number), but for what the rule ($5) had given.
SELECT
    asked.place, o.event_type, v.amount,
    coalesce(o.body #>> '{order,total}', o.body #>> '{transaction,amount}')::numeric = (
        SELECT sum(every.amount) FROM reversals every WHERE every.tenant_id = $1 AND every.reverses = v.reverses
    ) AND NOT EXISTS (
        SELECT FROM reversals later
        WHERE
            later.tenant_id = $1 AND later.reverses = v.reverses
            AND (later.recorded_at, later.event_id) > (v.recorded_at, v.event_id)
    ) AS is_last,
    (
        SELECT sum(t.amount)
        FROM transactions t
        WHERE
            t.tenant_id = $1 AND t.event_id = v.event_id AND t.amount < 0
            AND t.assessment_rule_version IS NOT NULL AND t.assessment_rule_id <> $5
    ) AS points_earned
FROM unnest($2::bigint[], $3::uuid[], $4::uuid[]) AS asked (place, event_id, reverses)
INNER JOIN reversals v ON v.reverses = asked.reverses AND v.event_id = asked.event_id
INNER JOIN events o ON o.event_id = asked.reverses
WHERE v.tenant_id = $1 AND o.tenant_id = $1
"""

SUM_TRANSACTIONS = """
-- The points of customers that were moved from one instant (counted in) to another (not), but for what the rule ($6)
-- has given itself.
SELECT asked.place, moved.points
FROM unnest($2::bigint[], $3::uuid[], $4::timestamptz[], $5::timestamptz[])
    AS asked (place, customer_id, from_at, to_at)
CROSS JOIN LATERAL (
    SELECT sum(t.amount) AS points
    FROM transactions t
    WHERE
        t.tenant_id = $1 AND t.customer_id = asked.customer_id
        AND t.created_at >= asked.from_at AND t.created_at < asked.to_at
        AND t.assessment_rule_id IS DISTINCT FROM $6
) AS moved
"""

COUNT_IN_WINDOWS = """
-- As `events.COUNT_IN_WINDOWS`, for an event that was recorded: what lies before it ($9) in the order of simulations,
-- without what the rule ($10) has made itself.
SELECT asked.place, counted.events
FROM unnest(
    $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::bigint[], $9::uuid[]
) AS asked (place, customer_id, event_type, name_space, after, until, count_max, event_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS events
    FROM (
        SELECT e.event_id
        FROM events e
        WHERE
            e.tenant_id = $1 AND e.customer_id = asked.customer_id AND e.event_type = asked.event_type
            AND e.name_space IS NOT DISTINCT FROM asked.name_space
            AND e.created_at > asked.after AND e.created_at <= asked.until
            AND (e.created_at, e.event_id) < (asked.until, asked.event_id)
            AND e.assessed_at IS NOT NULL AND e.body ->> 'assessmentRuleId' IS DISTINCT FROM $10::text
        LIMIT asked.count_max
    ) AS found
) AS counted
"""

SELECT_STAYS = """
-- The memberships of customers, past and present, that may have been current in a span of time ($3 to $4).
SELECT customer_id, segment_id, created_at AS joined_at, expiry_date_time AS lapses_at
FROM segment_memberships
WHERE
    tenant_id = $1 AND customer_id = ANY($2::uuid[])
    AND created_at < $4 AND (expiry_date_time IS NULL OR expiry_date_time > $3)
UNION ALL
SELECT customer_id, segment_id, joined_at, lapsed_at AS lapses_at
FROM segment_lapses
WHERE tenant_id = $1 AND customer_id = ANY($2::uuid[]) AND joined_at < $4 AND lapsed_at > $3
"""

UPSERT_CUSTOMERS = """
-- Sorted by customer.
INSERT INTO simulation_customers (tenant_id, simulation_id, customer_id, state)
SELECT $1, $2, c.customer_id, c.state
FROM unnest($3::uuid[], $4::bytea[]) AS c (customer_id, state)
ORDER BY c.customer_id
ON CONFLICT (tenant_id, simulation_id, customer_id) DO UPDATE SET state = excluded.state
"""

ADD_TO_DAYS = """
-- Sorted by day.
INSERT INTO simulation_days AS d (tenant_id, simulation_id, day_from, matches, limited, customers, points)
SELECT $1, $2, found.day_from, found.matches, found.limited, found.customers, found.points
FROM unnest($3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::numeric[])
    AS found (day_from, matches, limited, customers, points)
ORDER BY found.day_from
ON CONFLICT (tenant_id, simulation_id, day_from) DO UPDATE
SET
    matches = d.matches + excluded.matches, limited = d.limited + excluded.limited,
    customers = d.customers + excluded.customers, points = d.points + excluded.points
"""

MOVE_ON = """
-- Write how far a locked simulation has got, with what was found on the way.
UPDATE simulations
SET
    status = 'running', started_at = coalesce(started_at, $3), position_at = $4, position_id = $5,
    events = events + $6, last_event_at = coalesce($7, last_event_at), matches = matches + $8, limited = limited + $9,
    unassessable = unassessable + $10, customers = customers + $11, points = points + $12
WHERE tenant_id = $1 AND simulation_id = $2
"""

FINISH = """
-- End a simulation that has not ended yet.
UPDATE simulations SET status = $3, failure = $4, started_at = coalesce(started_at, $5), finished_at = $5
WHERE tenant_id = $1 AND simulation_id = $2 AND status IN ('waiting', 'running')
"""

SELECT_CUSTOMERS_TO_CLEAR = """
-- A lot of what a finished simulation, which is locked, needs no more.
SELECT customer_id
FROM simulation_customers
WHERE tenant_id = $1 AND simulation_id = $2
ORDER BY customer_id
LIMIT $3
"""

DELETE_CUSTOMERS = """
DELETE FROM simulation_customers WHERE tenant_id = $1 AND simulation_id = $2 AND customer_id = ANY($3::uuid[])
"""

DELETE_DAYS = """
DELETE FROM simulation_days WHERE tenant_id = $1 AND simulation_id = $2
"""

DELETE = """
DELETE FROM simulations WHERE tenant_id = $1 AND simulation_id = $2
"""

SETTLE = """
UPDATE simulations SET is_settled = true WHERE tenant_id = $1 AND simulation_id = $2
"""
