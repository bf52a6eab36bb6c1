"""What people read: tables and summaries made from reports; nothing is printed here."""
