"""Every SQL statement, one module per concern.

Each names the tenant of every tenant table that it touches ($1), is never built from pieces, and takes ids and times
from the application. Arrays that lock or insert are handed over sorted by key: two transactions cannot deadlock.
"""
