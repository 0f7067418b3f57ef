"""Reversals of orders and transactions."""

SELECT_REVERSED_EVENT = """
-- The event that is to be reversed: whose it is, its type, and as text its value where it is an order or a transaction.
SELECT customer_id, event_type, coalesce(body #>> '{order,total}', body #>> '{transaction,amount}') AS value
FROM events
WHERE tenant_id = $1 AND event_id = $2
"""

SELECT_REVERSALS = """
-- How much of the value earlier reversals took back; the most that there may be of one event ($3).
SELECT amount FROM reversals WHERE tenant_id = $1 AND reverses = $2 LIMIT $3
"""

SELECT_GIVEN = """
-- What rules gave for these events. Rows of before fulfilments were told apart all count as the first: no points event
-- followed from them, so nothing else is found by it.
SELECT
    event_id, customer_id, assessment_rule_id, assessment_rule_version,
    coalesce(fulfilment_index, 0) AS fulfilment_index, description, amount
FROM transactions
WHERE tenant_id = $1 AND event_id = ANY($2::uuid[]) AND assessment_rule_id IS NOT NULL
ORDER BY event_id, assessment_rule_id, fulfilment_index, transaction_id
"""

INSERT_REVERSAL = """
INSERT INTO reversals (tenant_id, reverses, event_id, amount, recorded_at) VALUES ($1, $2, $3, $4, $5)
"""
