"""Bounces and complaints: read the reports of mail servers about our emails, and do what follows from them.

In order: `bounces` takes reports in, `complaints` those about spam. `report_parts` takes a report apart,
`delivery_reports` reads it, and `bounce_rules` says what follows. `delivery/bounces.py` and `suppression.py` write it.
"""
