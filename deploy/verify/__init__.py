"""`make verify-containers`: run docker-compose.yml and the image on a machine that reaches no image registry."""
