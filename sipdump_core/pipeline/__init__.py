"""A record's way: intake, dispatcher, lane, delivery; spool and journal."""
