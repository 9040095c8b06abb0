"""What the OpenAPI document says beside what FastAPI knows."""
