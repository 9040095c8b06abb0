"""The JSON API: its routes, bodies and documents; posting and limits, for the pages as well."""
