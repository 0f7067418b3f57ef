"""Assessment rules: pure functions from (event, customer state, rules, now) to an outcome with its reasons."""
