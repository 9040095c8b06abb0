"""The JSON API: routes by caller, request and response schemas, limits."""
