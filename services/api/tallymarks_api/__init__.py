"""The HTTP api: takes events in and answers the Customer API."""
