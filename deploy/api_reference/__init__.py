"""The API reference in `docs/api/`, written from the OpenAPI documents and recorded examples."""
