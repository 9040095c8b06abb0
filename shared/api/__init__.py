"""The base of an HTTP API: application, routes, limits, dependencies, responses, errors as problem+json."""
