"""The pages, for customers and admins: HTML that works without JavaScript, and is live with it."""
