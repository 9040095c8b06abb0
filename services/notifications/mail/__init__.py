"""Email rendering and the SMTP client, without the database."""
