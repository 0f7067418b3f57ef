"""Every bound of the system, named, in one place; units are part of the names."""

from datetime import UTC, datetime

# What a caller may send.
HEAD_BYTES_MAX = 32 * 1024
"""The request line and all headers."""
HEAD_LINE_BYTES_MAX = 8_190
"""One of them: the longest is the query of a search."""
HEADERS_MAX = 100
BODY_BYTES_MAX = 1024 * 1024
BATCH_BODY_BYTES_MAX = 4 * 1024 * 1024
BATCH_EVENTS_MAX = 1_000
CREDENTIAL_LENGTH_MAX = 128
OBJECT_KEYS_MAX = 64
"""No object of the contract has so many; a body full of unknown fields is refused before each is looked at."""
TEXT_LENGTH_MAX = 256
DESCRIPTION_LENGTH_MAX = 2_000
EMAIL_ADDRESS_LENGTH_MAX = 254
ATTRIBUTES_MAX = 100
ORDER_ITEMS_MAX = 1_000
ORDER_PAYMENTS_MAX = 50
ITEM_TAGS_MAX = 50
COUNT_MAX = 1_000_000_000
SEARCH_NEARBY_MAX = 10_000
OFFSET_KEY_LENGTH_MAX = 256
FIELD_ERRORS_SHOWN_MAX = 20
"""Of what is wrong with one request."""
PAGE_LIMIT_DEFAULT = 50
PAGE_LIMIT_MAX = 100

# Amounts: 12 digits before the point and 4 after it, so an amount times a rate stays inside POINTS_MAX.
AMOUNT_DIGITS_BEFORE_POINT_MAX = 12
AMOUNT_DIGITS_AFTER_POINT_MAX = 4
RATE_MAX = 1_000
PERCENTAGE_MAX = 100
POINTS_MAX = 10**15
"""Of one transaction and of a balance: exact as a JSON number everywhere, and a factor 9,000 inside a bigint."""

# Instants outside of these are typing errors, and dates computed from them (five years on) must stay valid.
INSTANT_MIN = datetime(1900, 1, 1, tzinfo=UTC)
INSTANT_MAX = datetime(2200, 1, 1, tzinfo=UTC)
EXPIRY_YEARS_MAX = 5
EXPIRY_COUNT_MAX = {"days": 1_827, "months": 60, "years": 5}
TRIGGER_COUNT_MAX = {"minutes": 1_827 * 24 * 60, "hours": 1_827 * 24, **EXPIRY_COUNT_MAX}
"""How far ahead a trigger may lie: at most 5 years."""
TRIGGER_DEPTH_MAX = 100
"""Triggers that lead to one another: rules that would go on for ever come to an end."""

# Rules of one tenant: all active ones are held in memory by each assessor.
RULES_PER_TENANT_MAX = 2_000
RULE_VERSIONS_MAX = 1_000
RULE_VERSIONS_PER_TENANT_MAX = 10_000
"""Of its active rules together: all of them are held in memory, since an event may be older than the newest."""
RULE_CRITERIA_MAX = 50
RULE_FULFILMENTS_MAX = 50
RULE_USES_MAX = 1_000_000_000
"""The largest number of matches that a rule can be limited to."""
NTH_MAX = 1_000_000
WINDOW_EVENTS_MAX = 1_000
"""Of "the Xth event in a period": no window is counted further, however many events lie in it."""
WINDOW_PERIOD_MAX = {"days": 1_827, "months": 60}
"""5 years."""
SAW_LENGTH_MAX = 256
"""Of what a criterion saw, as the explanation keeps it: an order may have a thousand items."""
POINTS_DEPTH_MAX = 3
"""How deep points rules feed each other: a points event that lies deeper is recorded and not assessed."""
EFFECTS_PER_EVENT_MAX = 1_000
"""Effects of one event with all that follows from it; beyond, it is put aside rather than half assessed."""
REVERSALS_PER_EVENT_MAX = 1_000
"""Of one order or transaction; the last of them takes back all that is left."""
MADE_UP_MEMBERSHIPS_MAX = 1_000
"""Of a customer that rules are tried on."""

# Simulations of one tenant.
SIMULATION_YEARS_MAX = 5
SIMULATIONS_UNFINISHED_MAX = 10
SIMULATIONS_KEPT_MAX = 100
"""Where there are so many the oldest finished one makes room for a new one."""
SIMULATIONS_STORED_MAX = 200
"""With those that are removed and not cleared away yet."""

# Expressions: each is costed when its rule is saved, for the largest order and customer that there can be.
EXPRESSION_LENGTH_MAX = 1_000
EXPRESSION_STEPS_MAX = 2_000_000
"""A step is about 10 ns, so 20 ms in the very worst case; what compares two fields takes 10 steps."""
EXPRESSION_STEPS_SHARED_MAX = 1_000
"""Expressions that take more give back their memory one by one, not only with the event."""
EXPRESSION_ITERATIONS_MAX = 10_000
"""The library's own budget for one evaluation, which it cannot be given another value for."""
EXPRESSION_PATTERN_LENGTH_MAX = 100
EXPRESSION_PATTERN_REPEATS_MAX = 100
EXPRESSION_SEGMENTS_MAX = 1_000
"""A customer in more of them is a reason for an expression that asks for segments not to match."""
EXPRESSION_FIELDS_SEEN_MAX = 8
"""What the explanation says about one expression."""
EXPRESSIONS_CACHED_MAX = 10_000
"""Compiled ones, by their text: a change of one rule compiles no other anew."""

# What a service holds at a time.
MESSAGE_EVENTS_MAX = 250
MESSAGE_BYTES_MAX = 256 * 1024
"""A message is closed at the first of the two, so that a full prefetch stays within tens of megabytes."""
PREFETCH_MESSAGES = 200
INTAKE_LOTS_AT_ONCE = 2
"""Lots of requests whose events are published at the same time; the next lot gathers meanwhile.

One is packed while the other waits for its confirm. More of them would be smaller, and each has a price of its own.
"""
INTAKE_PACE_SECONDS = 0.008
"""From one lot of those to the next, where fewer wait for it than were in the one before.

Without it, at a quarter of the full rate, there was a message for every two or three orders: what each of them costs
the api, the broker, an assessor and PostgreSQL kept the processors busy, and orders waited longer for those than here.
"""
LOT_BESIDE_MIN = 16
"""Requests of one kind that must wait for a lot to begin while another is under way.

A query or a message for each few of them would keep everybody busier than what they ask for does.
"""
KEY_CONNECTIONS = 2
"""Of an api to the database, for API keys alone: no request waits for its credentials behind others' work."""
DOOR_CONNECTIONS = 4
"""Likewise, for whether events were taken in before."""
BALANCE_LOTS_AT_ONCE = 2
"""Queries for the balances that were asked for together; the next lot gathers meanwhile."""
BALANCES_TOGETHER_MAX = 100
ASSESS_EVENTS_MAX = 1_000
ASSESS_BYTES_MAX = 4 * 1024 * 1024
"""A batch is closed at the first of the two: read, an event takes many times its bytes."""
BATCHES_AT_ONCE = 2
"""Batches that an assessor has under way: the next one is read and begun while the last is written."""
BATCH_BESIDE_BYTES_MIN = 64 * 1024
"""So much must have arrived for that; with less it is better to let more arrive: about a hundred orders."""
BATCH_ALONE_SECONDS_MAX = 0.1
"""However little it is, it does not wait longer for a batch that takes long."""
SHARES_OF_TENANT = 3
"""Transactions that one tenant's events of a batch are cut into, by customer."""
SHARE_EVENTS_MIN = 100
"""So few events are not cut: a transaction has a price of its own."""
TRANSACTIONS_AT_ONCE = 3
"""Transactions that an assessor has open: the program works on one while PostgreSQL works on the others."""
EVALUATED_AT_ONCE_MAX = 20
"""Events evaluated before the event loop gets its turn: connections must not go without a heartbeat."""
SWEEP_MEMBERSHIPS_MAX = 1_000
RETENTION_EXPLANATIONS_MAX = 1_000
CALENDAR_EVENTS_MAX = 1_000
SIMULATION_EVENTS_MAX = 500
SIMULATION_FETCHED_AT_ONCE = 20
"""Recorded events that the driver holds at a time: one may have a megabyte."""
SIMULATION_BYTES_MAX = 4 * 1024 * 1024
"""A lot of a simulation ends at the first of the two."""
SIMULATION_PASSED_MAX = 10_000
"""Recorded events that a lot goes through to find those of the rule's type."""
SIMULATION_CLEARED_MAX = 1_000
"""Customers of a finished simulation that are cleared away at a time."""
OUTBOX_MESSAGES_MAX = 100
API_KEYS_CACHED_MAX = 10_000
RULE_SETS_CACHED_MAX = 1_000
DEAD_LETTERS_LISTED_MAX = 1_000
REASON_LENGTH_MAX = 500
"""Of why an event was put aside."""
DIFFERENCES_SHOWN_MAX = 1_000
"""Balances that are not the sum of their transactions, as `ledger verify` lists them."""
VERIFY_TRANSACTIONS_MAX = 5_000
"""Transactions whose check sums are computed again at a time."""
DELIVERIES_MAX = 20
"""Deliveries of one message before the broker itself puts it aside (a crash costs one for each message prefetched)."""
DELIVERIES_SUSPECT = 3
"""A message that was delivered so often before may be what ended its assessors: it is assessed apart from others."""
SUSPECTS_TOGETHER_MAX = 64
"""So many of such messages are assessed together, half as many after each delivery more, and at last one alone."""
SUSPECTS_GATHER_SECONDS = 0.05
"""How long more of them are waited for, to choose from."""

# What one process takes on at a time; beyond it, clients are refused (503) before they take memory.
CONNECTIONS_MAX = 2_000
"""Open ones: twice the requests under way, since most lie idle. A new one takes the place of one that does."""
OTHER_FILES_MAX = 256
"""Files that a process opens besides: connections to the database and the broker, those it listens on, its log."""
REQUESTS_AT_ONCE_MAX = 1_000
BODY_BYTES_AT_ONCE_MAX = 64 * 1024 * 1024
"""Of the bodies of all requests under way together."""
READ_BUFFER_BYTES = 64 * 1024
"""What a connection reads ahead of its request is about twice this."""
LARGE_BODIES_AT_ONCE = 4
"""Batches that one api process reads at a time: read, a body takes many times its bytes."""

GARBAGE_ALLOCATIONS = 50_000
"""New objects that may lie about, some of them garbage in a cycle, before a process looks: a few megabytes."""

# How long anything is waited for.
LARGE_BODY_WAIT_SECONDS = 10.0
STATEMENT_TIMEOUT_SECONDS = 10.0
TRANSACTION_IDLE_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 5.0
HEALTH_TIMEOUT_SECONDS = 1.0
LOOKUP_TIMEOUT_SECONDS = 1.0
"""For what an api can do without: a known key is trusted then, and an event is taken for a new one."""
DUPLICATES_PAUSE_SECONDS = 5.0
"""After a look-up that failed the next ones are left out for so long: no request waits for a dead database."""
VERIFY_TIMEOUT_SECONDS = 3600.0
"""For the sums of all of a tenant's transactions."""
MIGRATION_WAIT_SECONDS = 3600.0
"""For another migration under way."""
RELEASE_TIMEOUT_SECONDS = 1.0
"""For a connection that was given up in the middle of a statement to come to itself; else it is dropped."""
ACCOUNT_LOCK_TIMEOUT_SECONDS = 3.0
"""How long a request waits for an account that others are moving points of."""
CLOSE_TIMEOUT_SECONDS = 2.0
RECONNECT_INTERVAL_SECONDS = 1.0
HEARTBEAT_SECONDS = 10
"""Between the broker and us, so that a lost machine, which breaks no connection, is noticed after three of them."""
NACKED_WAIT_SECONDS = 0.05
"""Before a message that the broker has refused is published again."""
NACKS_PER_CHANNEL_MAX = 20
"""After a second of refusals another channel is tried."""
HEAD_TIMEOUT_SECONDS = 10.0
"""For the request line and the headers, from the first byte on (the first time: from the connection on)."""
BODY_TIMEOUT_SECONDS = 30.0
UNREAD_BODY_TIMEOUT_SECONDS = 10.0
"""For the rest of a body that was refused, so that its sender sees the answer before the connection is closed."""
ANSWER_TIMEOUT_SECONDS = 30.0
"""How long a client may leave what it was answered untaken."""
KEEP_ALIVE_TIMEOUT_SECONDS = 75.0
"""How long a connection may lie idle: longer than the proxies in front leave theirs, so that they close first."""
RETRY_AFTER_SECONDS = 2
RATE_LIMIT_WINDOW_SECONDS = 1
"""A key's requests are limited per second, and as many can come at once."""
RETRY_WAIT_SECONDS_MAX = 5.0
REQUESTS_DRAIN_SECONDS = 15.0
"""How long requests under way may take once a stop is asked for."""
STOP_TIMEOUT_SECONDS = 25.0
"""What a stop may take in all; Kubernetes kills after 30 s by default."""
API_KEY_FRESH_SECONDS = 1.0
"""A key is read again after this, which may take a second more: so a disabled one stops working within two."""
API_KEY_STALE_SECONDS = 24 * 3600.0
"""How long a known key goes on working while PostgreSQL is away."""
OUTBOX_POLL_SECONDS = 0.5
SWEEP_POLL_SECONDS = 0.5
CALENDAR_POLL_SECONDS = 0.5
SIMULATION_POLL_SECONDS = 0.5
RETENTION_POLL_SECONDS = 60.0
